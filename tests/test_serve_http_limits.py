from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Sequence
from typing import Any

import pytest

from debiexport.serve.admission import Admission
from debiexport.serve.http_limits import read_body
from debiexport.serve.limits import MIB, Limits
from debiexport.serve.refusals import BadRequest, ClientGone, Refusal, Stalled, TooLarge, Unavailable, Unreadable

LIMITS = Limits(body_bytes=1000, message_bytes=1000, held_bytes=1500, stall_s=0.05, body_s=0.2)


def read(
    pieces: Sequence[bytes | float | None], headers: dict[str, str] | None = None, held: int = 0
) -> tuple[bytes, int]:
    """A body of pieces, None for a connection that ends and a number for seconds of silence; and what it claimed."""

    async def go() -> tuple[bytes, int]:
        left = list(pieces)
        admission = Admission(LIMITS.held_bytes)

        async def receive() -> dict[str, Any]:
            while left and isinstance(left[0], float):
                await asyncio.sleep(left.pop(0))  # type: ignore[arg-type]
            if not left:
                await asyncio.sleep(10)
            piece = left.pop(0)
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": bool(left)}

        with admission.enter(held), admission.enter() as claim:
            body = await read_body(headers or {}, receive, LIMITS, claim)
            return bytes(body), claim.size

    return asyncio.run(go())


def refused(kind: type[Refusal], words: str, *arguments: Any, **more: Any) -> None:
    with pytest.raises(kind, match=words):
        read(*arguments, **more)


def test_bodies_that_fit() -> None:
    assert read([b"ab", b"", b"c"]) == (b"abc", 3)
    assert read([b"abc"], {"content-length": "3"}) == (b"abc", 3)
    assert read([b""]) == (b"", 0)
    assert len(read([bytes(1000)])[0]) == 1000


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_bodies(coding: str, pack: Any) -> None:
    packed = pack(b"abc" * 300)
    headers = {"content-encoding": coding, "content-length": str(len(packed))}
    for pieces in ([packed], [packed[:5], packed[5:]], [packed, b""], [bytes([byte]) for byte in packed]):
        assert read(pieces, headers) == (b"abc" * 300, 900)


def test_too_large() -> None:
    refused(TooLarge, "1001 bytes by its Content-Length, expected at most 1000", [b""], {"content-length": "1001"})
    refused(TooLarge, "more than 1000 bytes", [bytes(600), bytes(600)])
    headers = {"content-encoding": "gzip"}
    refused(TooLarge, "decompresses to more than 1000 bytes", [gzip.compress(bytes(1001))], headers)
    refused(TooLarge, "decompresses to more than 1000 bytes", [gzip.compress(bytes(100 * MIB))[:900]], headers)
    refused(TooLarge, "more than 1000 bytes", [gzip.compress(b"")[:5], bytes(1001)], headers)


def test_codings_that_are_wrong() -> None:
    for coding in ("br", "gzip, gzip"):
        refused(Unreadable, "expected identity, gzip or deflate", [b"{}"], {"content-encoding": coding})
    gzipped = {"content-encoding": "GZip"}
    refused(BadRequest, "is not gzip", [b"{}"], gzipped)
    refused(BadRequest, "cut off", [gzip.compress(b"{}")[:-1]], gzipped)
    refused(BadRequest, "cut off", [b""], gzipped)
    refused(BadRequest, "bytes follow the end", [gzip.compress(b"{}") + b"x"], gzipped)
    refused(BadRequest, "bytes follow the end", [gzip.compress(b"{}"), b"x"], gzipped)
    refused(BadRequest, "is not deflate", [gzip.compress(b"{}")], {"content-encoding": "deflate"})


def test_too_slow() -> None:
    refused(Stalled, "the body stalled: nothing came for 0.05 s after 2 bytes", [b"ab", 0.5, b"c"])
    refused(Stalled, "did not end within 0.2 s", [b"x", 0.03] * 20)


def test_a_connection_that_ends() -> None:
    refused(ClientGone, "after 2 bytes", [b"ab", None])


def test_a_server_that_is_full() -> None:
    refused(Unavailable, "1400 of the 1500 bytes", [b""], {"content-length": "101"}, held=1400)
    refused(Unavailable, "1450 of the 1500 bytes", [bytes(50), bytes(51)], held=1400)
    refused(Unavailable, "1400 of the 1500", [gzip.compress(bytes(500))], {"content-encoding": "gzip"}, held=1400)
    assert len(read([bytes(100)], held=1400)[0]) == 100
