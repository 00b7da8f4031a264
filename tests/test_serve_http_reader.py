"""Requests out of bytes: the same however they are cut, bounded, and never beyond the end of one."""

from __future__ import annotations

import gc
from http import HTTPStatus

import pytest

from debiexport.serve.http_head import Malformed
from debiexport.serve.http_reader import RequestReader, Stage
from debiexport.serve.limits import HEAD_BYTES

START = b"POST /v2 HTTP/1.1\r\nHost: x\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


class Told:
    """What a receiver is told, with the pieces of a body put together."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def on_message_begin(self) -> None:
        self.events.append("begin")

    def on_url(self, url: bytes) -> None:
        self.events.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.events.append((name, value))

    def on_headers_complete(self) -> None:
        self.events += ["head", bytearray()]

    def on_body(self, body: bytes) -> None:
        assert body
        whole = self.events[-1]
        assert isinstance(whole, bytearray)
        whole += body

    def on_message_complete(self) -> None:
        self.events.append("end")


def events(*pieces: bytes) -> list[object]:
    told = Told()
    reader = RequestReader(told)
    for piece in pieces:
        at = 0
        while at < len(piece):
            at = reader.read(piece, at)
    return told.events


def refused(words: str, *pieces: bytes, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
    with pytest.raises(Malformed, match=words) as error:
        events(*pieces)
    assert error.value.status is status


BODIES = {
    b"Content-Length: 4\r\n\r\n\r\n\r\n": b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n\r\n\r\n6\r\n\r\n\r\n0\r\r\n0\r\nT: v\r\n\r\n": b"\r\n\r\n\r\n0\r",
    b"Content-Length: 0\r\n\r\n": b"",
    b"\r\n": b"",
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n": b"",
}


@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
@pytest.mark.parametrize("sent", BODIES)
def test_requests_in_a_row_however_they_are_cut(sent: bytes, upgrade: bytes) -> None:
    request = START + upgrade + sent
    fields = [tuple(line.split(b": ")) for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    expected = ["begin", b"/v2", *fields, "head", bytearray(BODIES[sent]), "end"] * 3
    data = 3 * request
    assert events(data) == expected
    assert events(*(data[at : at + 1] for at in range(len(data)))) == expected
    for cut in range(1, len(data)):
        assert events(data[:cut], data[cut:]) == expected


def test_nothing_is_read_beyond_the_end_of_a_request() -> None:
    for sent in BODIES:
        reader = RequestReader(Told())
        data, at = START + sent + b"GET", 0
        while reader.stage is not Stage.BETWEEN or not at:
            at = reader.read(data, at)
        assert data[at:] == b"GET"


def test_what_uvicorn_asks() -> None:
    reader = RequestReader(Told())
    reader.read(b"GET /v2 HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 0)
    found = reader.get_method(), reader.get_http_version(), reader.should_keep_alive(), reader.should_upgrade()
    assert found == (b"GET", "1.0", False, False)


@pytest.mark.parametrize(
    "fill", [b"GET /%b HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nA: %b\r\n\r\n", b"GET / HTTP/1.0\r\n%b: a\r\n\r\n"]
)
def test_heads_are_bounded(fill: bytes) -> None:
    room = HEAD_BYTES - len(fill) + len(b"%b")
    largest = fill % (b"a" * room)
    assert len(largest) == HEAD_BYTES
    larger = fill % (b"a" * (room + 1))
    words = "the head has more than 65536 bytes"
    for cut in (1, 100, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1):
        assert events(largest[:cut], largest[cut:])[-1] == "end"
        refused(words, larger[:cut], larger[cut:], status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    unended = (fill % (b"a" * (room + 10)))[:-5]
    refused(words, unended, status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def test_what_is_no_head_is_refused_before_it_ends() -> None:
    refused("Invalid method", b"\x16\x03\x01\x02\x00\x01")
    refused("Invalid method", b"x" * 300_000)
    refused("Expected CRLF after version", b"GET / HTTP/1.1\nHost: x\n")
    for line in (b"\r\n", b"\n"):
        refused("an empty line came where a request begins", line)
        refused("an empty line came where a request begins", START + b"\r\n", line)


@pytest.mark.parametrize(
    "sent",
    [
        b"zz\r\n",
        b" 2\r\n",
        b"2 \r\n",
        b"+2\r\n",
        b"-2\r\n",
        b"0x2\r\n",
        b"2\n",
        b"2;a\n",
        b'2;a="\r\n"\r\n',
        b"2;\0\r\n",
        b"f" * 17 + b"\r\n",
        b"2\r\nabc",
        b"2\r\nab\n",
        b"2\r\nab0\r\n",
        b"\r\n",
        b"0\r\nA b\r\n\r\n",
        b"0\r\nA: b\0\r\n\r\n",
        b"0\r\nA: b\n\n",
        b"0\r\n\n",
        b"0\n\r\n",
    ],
)
def test_chunks_that_are_wrong(sent: bytes) -> None:
    refused("[Cc]hunk|header", CHUNKED + sent)
    refused("[Cc]hunk|header", CHUNKED, *(bytes([byte]) for byte in sent))


def test_what_is_beside_chunks_is_bounded() -> None:
    too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    words = "the chunks of the body have more than 65536 bytes of extensions and trailers"
    much = b"a" * (HEAD_BYTES - 100)
    for shape in (b"1;%b\r\nx\r\n0\r\n\r\n", b"%b1\r\nx\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\nT: %b\r\n\r\n"):
        fits, more = (b"0" * len(much), b"0" * 200) if shape.startswith(b"%b") else (much, b"a" * 200)
        sent = CHUNKED + shape % fits
        assert events(sent)[-2:] == [bytearray(b"x"), "end"]
        assert events(sent[:1000], sent[1000:])[-2:] == [bytearray(b"x"), "end"]
        too_much = CHUNKED + shape % (fits + more)
        refused(words, too_much, status=too_large)
        refused(words, too_much[:1000], too_much[1000:], status=too_large)
    refused(words, CHUNKED, *[b"1;%b\r\nx\r\n" % (b"a" * 1000)] * 70, status=too_large)
    small = b"1\r\nx\r\n" * 50_000  # has no end of its own to be short of
    assert events(CHUNKED + small + b"0\r\n\r\n")[-2:] == [bytearray(b"x" * 50_000), "end"]


def test_what_is_missing() -> None:
    reader = RequestReader(Told())
    reader.read(b"GET", 0)
    assert reader.cut_off() == "the connection ended within the head"
    for head, text in (
        (START + b"Content-Length: 5\r\n\r\n", "the connection ended after 2 of the 5 bytes of the body"),
        (CHUNKED + b"5\r\n", "the connection ended after 2 bytes of the body"),
    ):
        reader, data, at = RequestReader(Told()), head + b"ab", 0
        while at < len(data):
            at = reader.read(data, at)
        assert (reader.stage, reader.cut_off()) == (Stage.BODY, text)


def test_requests_leave_nothing_to_collect() -> None:
    """What refers to itself stays until the collector stops everything to look for it."""
    told = Told()
    reader = RequestReader(told)
    gc.collect()
    gc.disable()
    try:
        for sent in BODIES:
            data, at = START + sent, 0
            while at < len(data):
                at = reader.read(data, at)
        assert gc.collect() == 0
    finally:
        gc.enable()
