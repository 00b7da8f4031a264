"""Heads of requests that can be read in one way, and those that cannot."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from debiexport.serve.http_head import Head, Malformed, checked_head

LINE = "POST /v2 HTTP/1.1"


def head_of(*lines: str, host: bool = True) -> Head:
    """Of a request line and fields; the fields are found by their colons."""
    lines = (lines[0], "Host: x", *lines[1:]) if host else lines
    fields = [line.partition(":") for line in lines[1:]]
    found = [(name.encode("latin-1"), value.strip(" \t").encode("latin-1")) for name, _, value in fields]
    return checked_head("\r\n".join([*lines, "", ""]).encode("latin-1"), found)


def refused(words: str, *lines: str, host: bool = True, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
    with pytest.raises(Malformed, match=words) as error:
        head_of(*lines, host=host)
    assert error.value.status is status
    assert str(error.value).isprintable()  # one line


def test_heads() -> None:
    fields = [(b"Host", b"x"), (b"A", b"\xe4 \t b"), (b"B", b"")]
    assert head_of("GET /v2/models/a%20b?c=d HTTP/1.1", "A: \xe4 \t b ", "B:") == Head(
        b"GET", b"/v2/models/a%20b?c=d", "1.1", fields, True, 0
    )
    assert head_of("GET / HTTP/1.0", host=False) == Head(b"GET", b"/", "1.0", [], False, 0)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("*", b"*"),
        ("//there/v2", b"//there/v2"),
        ("/\"<>[]^`{|}\\;:@&=+$,!'()*~?/?", b"/\"<>[]^`{|}\\;:@&=+$,!'()*~?/?"),
    ],
)
def test_targets(target: str, found: bytes) -> None:
    assert head_of(f"OPTIONS {target} HTTP/1.1").target == found


@pytest.mark.parametrize(
    "line",
    [
        "GET /v2",
        "GET /v2 HTTP/0.9",
        "GET /v2 HTTP/1.2",
        "GET /v2 HTTP/2.0",
        "GET /v2 http/1.1",
        "GET /v2 HTTP/1.1 ",
        " GET /v2 HTTP/1.1",
        "GET  /v2 HTTP/1.1",
        "GET /v2  HTTP/1.1",
        "GET\t/v2 HTTP/1.1",
        "get /v2 HTTP/1.1",
        "OPTIONS /v2 RTSP/1.0",
        "SOURCE /v2 ICE/1.0",
        "PRI * HTTP/2.0",
        "CONNECT there:80 HTTP/1.1",
        "CONNECT /v2 HTTP/1.1",
        "GET v2 HTTP/1.1",
        "GET ?a HTTP/1.1",
        "GET /v2#a HTTP/1.1",
        "GET /v2?a#b HTTP/1.1",
        "GET http://there HTTP/1.1",
        "GET http://there/v2 HTTP/1.1",
        "GET /\x01 HTTP/1.1",
        "GET /\xe4 HTTP/1.1",
        "",
    ],
)
def test_first_lines_that_are_wrong(line: str) -> None:
    refused("the first line is .*, expected a method, a path and HTTP/1.1", line)


@pytest.mark.parametrize(
    "line",
    ["A : b", " A: b", ": b", "A", "\tfolded", "A: b\0", "A: b\x01", "A: b\x7f", "A: b\rC: d", "A: b\nC: d", "\xe4: b"],
)
def test_fields_that_are_wrong(line: str) -> None:
    refused("the head has the line .*, expected a name, a colon and a value", LINE, line)


def test_a_field_that_the_parser_does_not_see() -> None:
    with pytest.raises(Malformed, match="the head has 1 lines of fields, but 0 were found in it"):
        checked_head(b"GET / HTTP/1.0\r\nContent-Length: 2\r\n\r\n", [])


def test_hosts() -> None:
    refused("the head has 0 lines of Host, expected one", LINE, host=False)
    refused("the head has 2 lines of Host, expected one", LINE, "HOST: x")
    refused("the head has 2 lines of Host, expected one", "GET / HTTP/1.0", "host: y")


def test_lengths_of_bodies() -> None:
    assert head_of(LINE, "Content-Length: 12").length == 12
    assert head_of(LINE, "Content-Length: \t 0012 ").length == 12
    assert head_of(LINE, "Transfer-Encoding: Chunked ").length is None
    for value in ("", "+2", "-2", "two", "0x2", "2.0", "2, 2", "1_0", "2 2", "\xb2", "9" * 19):
        refused("the Content-Length is .*, expected one number of bytes", LINE, f"Content-Length: {value}")
    refused("the Content-Length is '2, 2', expected one", LINE, "Content-Length: 2", "content-length: 2")
    refused("expected one of them", LINE, "Content-Length: 2", "Transfer-Encoding: chunked")
    refused("which HTTP/1.0 does not have", "POST / HTTP/1.0", "Transfer-Encoding: chunked")


def test_other_codings_of_transfer() -> None:
    for value in (
        "",
        "gzip",
        "identity",
        "chunked, gzip",
        "chunked, chunked",
        "xchunked",
        ",chunked",
    ):  # nobody knows their end
        refused("expected 'chunked'", LINE, f"Transfer-Encoding: {value}")
    refused("expected 'chunked'", LINE, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
    refused(
        "the Transfer-Encoding is 'gzip, chunked', expected 'chunked'",
        LINE,
        "Transfer-Encoding: gzip, chunked",
        status=HTTPStatus.NOT_IMPLEMENTED,
    )


def test_connections_that_are_kept() -> None:
    assert head_of(LINE).keeps_alive
    assert head_of(LINE, "Connection: keep-alive", "Proxy-Connection: close").keeps_alive
    assert not head_of(LINE, "Connection: close").keeps_alive
    assert not head_of(LINE, "connection: upgrade", "Connection: a,\tCLOSE").keeps_alive
    assert not head_of("GET / HTTP/1.0", "Connection: keep-alive").keeps_alive


def test_long_heads_take_little_time() -> None:
    """A grammar that tried the same bytes in many ways would take hours."""
    refused("the head has the line", LINE, "A:" + " " * 60_000 + "\0")
    refused("the head has the line", LINE, "A" * 60_000)
    refused("the head has the line", LINE, *["A: b"] * 10_000, "A")
