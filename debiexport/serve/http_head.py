"""The head of a request over HTTP: its grammar, and how long the body is that follows, in one way or not at all.

llhttp has read it already. What it lets through beside the grammar of RFC 9112 is more than a server may take (other
protocols, lines without a version, a fragment), differs from version to version, and would be read otherwise by whoever
stands in front of the server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from debiexport.serve.refusals import shown

Fields = Sequence[tuple[bytes, bytes]]

_TARGET = rb"/[!-\"$-~]*+|\*"  # no scheme and host before the path, which may differ from the Host
_REQUEST_LINE = rb"(?!CONNECT )([A-Z]++) (%b) HTTP/(1\.[01])\r\n" % _TARGET
_FIELD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n"
_HEAD = re.compile(rb"%b(?:%b)*+\r\n" % (_REQUEST_LINE, _FIELD))
_LINES = (re.compile(_REQUEST_LINE), re.compile(_FIELD))
_LENGTH = re.compile(rb"[0-9]{1,18}")  # a number that fits wherever it may be counted


class Malformed(Exception):
    """What came is no request, or could be read as more than one; its text is one line for whoever sent it.

    Attributes:
        status: of the answer.
    """

    def __init__(self, text: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Head:
    """What a head says.

    Attributes:
        method: in capitals.
        target: path and query, or `*`.
        version: of HTTP, "1.0" or "1.1".
        fields: names and values.
        keeps_alive: whether more requests may follow on the connection.
        length: of the body in bytes; None where it comes in chunks, until the last one.
    """

    method: bytes
    target: bytes
    version: str
    fields: Fields
    keeps_alive: bool
    length: int | None


def checked_head(head: bytes | bytearray, fields: Fields) -> Head:
    """A head that can be read in one way.

    Args:
        head: all its bytes, with the empty line.
        fields: of them, as the parser found them, without white space around the values.

    Raises:
        Malformed: it cannot.
    """
    found = _HEAD.fullmatch(head)
    if found is None:
        raise Malformed(_first_fault(bytes(head)))
    lines = head.count(b"\r\n") - 2
    if lines != len(fields):
        raise Malformed(f"the head has {lines} lines of fields, but {len(fields)} were found in it")
    method, target, version = found.groups()
    hosts = len(_values(fields, b"host"))
    if hosts > 1 or (version == b"1.1" and not hosts):
        raise Malformed(f"the head has {hosts} lines of Host, expected one")
    closes = version == b"1.0" or b"close" in _listed(_values(fields, b"connection"))
    return Head(method, target, version.decode(), fields, not closes, _body_length(fields, version))


def _body_length(fields: Fields, version: bytes) -> int | None:
    lengths, codings = _values(fields, b"content-length"), _values(fields, b"transfer-encoding")
    if not codings:
        if not lengths:
            return 0
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise Malformed(f"the Content-Length is {_shown(lengths)}, expected one number of bytes")
        return int(lengths[0])
    if lengths:
        raise Malformed("the head has a Content-Length and a Transfer-Encoding, expected one of them")
    if version == b"1.0":
        raise Malformed("the head has a Transfer-Encoding, which HTTP/1.0 does not have: send a Content-Length")
    names = _listed(codings)
    if names != [b"chunked"]:
        has_an_end = all(names) and names[-1] == b"chunked" and names.count(b"chunked") == 1
        status = HTTPStatus.NOT_IMPLEMENTED if has_an_end else HTTPStatus.BAD_REQUEST
        raise Malformed(f"the Transfer-Encoding is {_shown(codings)}, expected 'chunked'", status)
    return None


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name]


def _listed(values: Sequence[bytes]) -> list[bytes]:
    """The entries of fields that are lists of names."""
    return [entry.strip(b" \t").lower() for value in values for entry in value.split(b",")]


def _shown(values: Sequence[bytes]) -> str:
    return shown(b", ".join(values).decode("latin-1"))


def _first_fault(head: bytes) -> str:
    """Why the bytes of a head are not one."""
    request_line, field = _LINES
    first, *lines = head.removesuffix(b"\r\n").splitlines(keepends=True) or [b""]
    if not request_line.fullmatch(first):
        return f"the first line is {_shown([first.rstrip()])}, expected a method, a path and HTTP/1.1"
    wrong = next((line for line in lines if not field.fullmatch(line)), b"")
    return f"the head has the line {_shown([wrong.rstrip()])}, expected a name, a colon and a value"
