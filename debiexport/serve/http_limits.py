"""Bodies of requests over HTTP: bounded in bytes before they are held, in seconds while they come, and decompressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from debiexport.serve.admission import Claim
from debiexport.serve.limits import Limits
from debiexport.serve.refusals import BadRequest, ClientGone, Stalled, TooLarge, Unreadable, shown

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
_CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}


async def read_body(headers: Mapping[str, str], receive: Receive, limits: Limits, claim: Claim) -> bytearray:
    """The body of a request, decompressed.

    Args:
        headers: by their names in lower case.
        receive: of ASGI.
        limits: of the server.
        claim: of the request, which holds as many bytes as the body from before they are there.

    Raises:
        TooLarge: by its Content-Length, while it comes, or decompressed.
        Stalled: nothing came for `stall_s`, or the end did not come within `body_s`.
        Unreadable: a coding that is not known.
        BadRequest: it is not what its coding makes.
        Unavailable: the server holds too much already.
        ClientGone: the connection ended before the body did.
    """
    coding = headers.get("content-encoding", "identity").strip().lower() or "identity"
    if coding != "identity" and coding not in _CODINGS:
        raise Unreadable(f"the body has the Content-Encoding {shown(coding)}, expected identity, gzip or deflate")
    expected = _content_length(headers, limits)
    if coding == "identity":
        claim.resize(expected)
        return await _read(receive, _Plain(claim, limits.body_bytes), limits)
    return await _read(receive, _Compressed(claim, limits.body_bytes, coding), limits)


def _content_length(headers: Mapping[str, str], limits: Limits) -> int:
    """What the header says, 0 without one; the HTTP parser has checked that it is a number."""
    expected = int(headers.get("content-length", "0"))
    if expected > limits.body_bytes:
        raise TooLarge(f"the body has {expected} bytes by its Content-Length, expected at most {limits.body_bytes}")
    return expected


async def _read(receive: Receive, sink: _Plain | _Compressed, limits: Limits) -> bytearray:
    loop = asyncio.get_running_loop()
    end = loop.time() + limits.body_s
    received = 0
    try:
        async with asyncio.timeout_at(min(loop.time() + limits.stall_s, end)) as timer:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGone(f"the connection ended after {received} bytes of the body")
                chunk = message.get("body", b"")
                received += len(chunk)
                sink.add(chunk)
                if not message.get("more_body", False):
                    return sink.end()
                timer.reschedule(min(loop.time() + limits.stall_s, end))
    except TimeoutError:
        if loop.time() >= end:
            raise Stalled(
                f"the body did not end within {limits.body_s:g} s, got {received} bytes; send it faster"
            ) from None
        raise Stalled(
            f"the body stalled: nothing came for {limits.stall_s:g} s after {received} bytes; send it again"
        ) from None


class _Plain:
    """A body as it is."""

    def __init__(self, claim: Claim, most: int) -> None:
        self._claim, self._most, self._body = claim, most, bytearray()

    def add(self, chunk: bytes) -> None:
        size = len(self._body) + len(chunk)
        if size > self._most:
            raise TooLarge(f"the body has more than {self._most} bytes, expected at most so many")
        if size > self._claim.size:
            self._claim.resize(size)
        self._body += chunk

    def end(self) -> bytearray:
        return self._body


class _Compressed:
    """A body of gzip or zlib, decompressed as it comes and never further than allowed."""

    def __init__(self, claim: Claim, most: int, coding: str) -> None:
        self._plain = _Plain(claim, most)
        self._most, self._coding, self._received = most, coding, 0
        self._decompressor = zlib.decompressobj(_CODINGS[coding])

    def add(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._most:
            raise TooLarge(f"the body has more than {self._most} bytes, expected at most so many")
        if chunk and self._decompressor.eof:
            raise BadRequest(f"bytes follow the end of the {self._coding} body, expected none")
        try:
            while chunk:
                self._plain.add(self._decompressor.decompress(chunk, _PIECE))
                chunk = self._decompressor.unconsumed_tail
        except zlib.error as error:
            raise BadRequest(f"the body is not {self._coding}, as its Content-Encoding says: {error}") from None
        except TooLarge:
            raise TooLarge(f"the body decompresses to more than {self._most} bytes, expected at most so many") from None
        if self._decompressor.unused_data:
            raise BadRequest(f"bytes follow the end of the {self._coding} body, expected none")

    def end(self) -> bytearray:
        if not self._decompressor.eof:
            raise BadRequest(f"the {self._coding} body is cut off, expected all of it")
        return self._plain.end()


_PIECE = 256 * 1024  # bytes that are decompressed at a time
