"""The requests in the bytes of a connection of HTTP: one after the other, never beyond the end of one, and bounded.

llhttp, of httptools, parses; it takes as much as it is given, and remembers the rest of a field that has no end. So it
is given no more than up to where a request may end, and what it has been given is counted.
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum, auto
from http import HTTPStatus
from typing import Protocol

import httptools

from debiexport.serve.http_head import Head, Malformed, checked_head
from debiexport.serve.limits import HEAD_BYTES

BLANK_LINE = b"\r\n\r\n"
# The head that the parser of a body in chunks is given: one that asks for another protocol would make it stop there.
_CHUNKS_FOLLOW = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNK_LINES = 24  # bytes: of a chunk's size in 16 digits, and of the ends of lines


class Receiver(Protocol):
    """Who is told of requests; one is whole before the next begins."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class Stage(Enum):
    """What the next byte belongs to."""

    BETWEEN = auto()  # a request that has not begun
    HEAD = auto()
    BODY = auto()


class RequestReader:
    """Reads the requests of one connection.

    It also answers what uvicorn asks a parser of httptools about the last head.

    Attributes:
        stage: of the request that is being read.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.stage = Stage.BETWEEN
        self._receiver = receiver
        self._end = _BlankLine()
        self._parser: httptools.HttpRequestParser
        self._bytes, self._fields = bytearray(), _Fields()  # of the head that is being read
        self._head: Head
        self._chunks: _Chunks
        self._received = 0  # bytes of the body

    def read(self, data: bytes, start: int) -> int:
        """Read on, and tell the receiver.

        Args:
            data: bytes of the connection.
            start: where those begin that have not been read; there is at least one.

        Returns:
            Where those begin that still have not been read: behind the request, or at the end of the data.

        Raises:
            Malformed: it is no request; nothing must be read after it.
        """
        try:
            if self.stage is not Stage.BODY:
                return self._read_head(data, start)
            if self._head.length is None:
                return self._read_chunks(data, start)
            return self._read_body(data, start, self._head.length)
        except httptools.HttpParserError as error:
            raise Malformed(str(error)) from None

    def cut_off(self) -> str:
        """Why what has been read is not whole, if nothing follows."""
        if self.stage is Stage.HEAD:
            return "the connection ended within the head"
        of = "" if self._head.length is None else f" of the {self._head.length}"
        return f"the connection ended after {self._received}{of} bytes of the body"

    def get_method(self) -> bytes:
        return self._head.method

    def get_http_version(self) -> str:
        return self._head.version

    def should_keep_alive(self) -> bool:
        return self._head.keeps_alive

    def should_upgrade(self) -> bool:
        """There is no other protocol: a request that asks for one is read like any."""
        return False

    def _read_head(self, data: bytes, start: int) -> int:
        if self.stage is Stage.BETWEEN:
            if data[start] in b"\r\n":  # llhttp would skip any number of them
                raise Malformed("an empty line came where a request begins")
            self.stage = Stage.HEAD
            self._bytes, self._fields = bytearray(), _Fields()
            self._parser = httptools.HttpRequestParser(self._fields)
        end, is_last = self._end.find(data, start)
        piece = data[start : min(end, start + HEAD_BYTES - len(self._bytes))]
        self._bytes += piece
        with suppress(httptools.HttpParserUpgrade):  # at the end of the head
            self._parser.feed_data(piece)
        if len(piece) < end - start:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise Malformed(f"the head has more than {HEAD_BYTES} bytes, expected at most so many", status)
        if is_last:
            self._begin(checked_head(self._bytes, self._fields.found))
        return end

    def _begin(self, head: Head) -> None:
        self._head, self._received = head, 0
        self.stage = Stage.BODY
        receiver = self._receiver
        receiver.on_message_begin()
        receiver.on_url(head.target)
        for name, value in head.fields:
            receiver.on_header(name, value)
        receiver.on_headers_complete()
        if head.length is None:
            self._chunks = _Chunks(receiver)
            self._parser = httptools.HttpRequestParser(self._chunks)
            self._parser.feed_data(_CHUNKS_FOLLOW)
        elif head.length == 0:
            self._complete()

    def _read_body(self, data: bytes, start: int, length: int) -> int:
        piece = data[start : start + length - self._received]
        self._received += len(piece)
        self._receiver.on_body(piece)
        if self._received == length:
            self._complete()
        return start + len(piece)

    def _read_chunks(self, data: bytes, start: int) -> int:
        end, _ = self._end.find(data, start)
        chunks = self._chunks
        self._parser.feed_data(memoryview(data)[start:end])
        self._received = chunks.received
        chunks.beside += end - start
        if chunks.beside > HEAD_BYTES:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            text = f"the chunks of the body have more than {HEAD_BYTES} bytes of extensions and trailers"
            raise Malformed(f"{text}, expected at most so many", status)
        if chunks.ended:
            self._complete()
        return end

    def _complete(self) -> None:
        self.stage = Stage.BETWEEN
        self._receiver.on_message_complete()


class _Fields:
    """Takes the fields of a head from llhttp."""

    def __init__(self) -> None:
        self.found: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name, value.strip(b" \t")))


class _Chunks:
    """Takes a body in chunks from llhttp, which checks the fields behind them and, asked for none, drops them.

    Attributes:
        received: bytes of the body.
        beside: bytes of sizes, extensions and trailers, less those that a chunk may have anyway.
        ended: whether the last chunk came, and the empty line behind it.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.received, self.beside, self.ended = 0, 0, False
        self._receiver = receiver

    def on_chunk_header(self) -> None:
        self.beside -= _CHUNK_LINES

    def on_body(self, body: bytes) -> None:
        self.received += len(body)
        self.beside -= len(body)
        self._receiver.on_body(body)

    def on_message_begin(self) -> None:
        if self.ended:
            raise Malformed("a request begins where the one before has not ended")

    def on_message_complete(self) -> None:
        self.ended = True


class _BlankLine:
    """Finds empty lines, also where they come in pieces."""

    def __init__(self) -> None:
        self._tail = b""

    def find(self, data: bytes, start: int) -> tuple[int, bool]:
        """The place behind the next empty line and True, or the end of the data and False."""
        joined = self._tail + data[start : start + 3]
        at, shift = joined.find(BLANK_LINE), start - len(self._tail)
        if at < 0:
            at, shift = data.find(BLANK_LINE, start), 0
        if at >= 0:
            self._tail = b""
            return at + shift + len(BLANK_LINE), True
        self._tail = (joined if len(data) - start <= 3 else data)[-3:]
        return len(data), False
