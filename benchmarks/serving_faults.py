"""What a server does with requests that are wrong, stall, are too many or too late.

Every function is one of the faults of `serving.py`: it asks a server on loopback, a bounded number of times, and
returns figures for JSON.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from serving_load import GRPC, HTTP, OK, Load, Record, http_body, run_load
from serving_servers import Memory, Server

from debiexport.bench.statistics import plain

GRPC_CLIENT_ERRORS = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
}
CLIENT_ERROR, SERVER_ERROR, ACCEPTED, SILENT = "client error", "server error", "accepted", "no answer"
HUGE = ("far too many", "beyond all memory", "head of a megabyte", "announced as a terabyte")
STALL_LIMIT_S = 20.0  # for which a connection that should be cut is watched
STALLED_EACH = 16


def class_of(status: int | str) -> str:
    """What a status says of a request that is wrong."""
    if isinstance(status, int):
        return CLIENT_ERROR if 400 <= status < 500 else SERVER_ERROR if status >= 500 else ACCEPTED
    if status == "OK":
        return ACCEPTED
    return CLIENT_ERROR if status in GRPC_CLIENT_ERRORS else SERVER_ERROR


def malformed(server: Server, load: Load, max_batch: int, *, huge: bool, timeout_s: float = 20) -> dict[str, Any]:
    """The suite of malformed requests, one after the other; then 8 at a time if the huge ones are sent.

    Args:
        server: ready.
        load: names the model and its image.
        max_batch: images of its largest request.
        huge: send also what would make a server without bounds take gigabytes.
        timeout_s: for which each answer is waited for.
    """
    from malformed_requests import Target, malformed_cases, send  # of tests/, where serving_servers looks too

    target = Target(load.model, load.shape[1:], max_batch)
    cases = [case for case in malformed_cases(target) if huge or not is_huge(case.name)]
    skipped = len(malformed_cases(target)) - len(cases)
    for protocol in (HTTP, GRPC):  # what the server takes at its first requests is not of the malformed ones
        run_load(replace(load, protocol=protocol, address=server.address(protocol), seconds=0.5, concurrency=8))
    memory = Memory(server.pid)
    found: Counter[str] = Counter()
    unlike: list[str] = []

    def one(case: Any) -> tuple[str, list[str]]:
        try:
            answer = send(case, "127.0.0.1", *server.ports, timeout_s)
        except OSError as error:
            return SILENT, [type(error).__name__]
        return class_of(answer.status), case.faults(answer)

    for case in cases:
        kind, faults = one(case)
        found[kind] += 1
        unlike += [f"{case}: {kind}"] if kind != CLIENT_ERROR else [f"{case}: {fault}" for fault in faults]
    at_once: Counter[str] = Counter()
    if huge:
        with ThreadPoolExecutor(8) as pool:
            at_once.update(kind for kind, _ in pool.map(one, cases))
    after = run_load(replace(load, protocol=HTTP, address=server.http, seconds=0.3))
    return {
        "cases": len(cases),
        "skipped_huge": skipped,
        "counts": dict(found),
        "counts_8_at_once": dict(at_once),
        "not_as_expected": unlike if huge else [line for line in unlike if not line.endswith("is not said")],
        "memory": memory.to_dict(),
        "answers_after": after.answered > 0 and set(after.counts()) == {str(OK)},
    }


def is_huge(name: str) -> bool:
    """Whether a malformed request of that name makes a server without bounds take memory without bounds."""
    return any(words in name for words in HUGE)


def stalled(
    server: Server, load: Load, client: Executor, each: int = STALLED_EACH, watch_s: float = STALL_LIMIT_S
) -> dict[str, Any]:
    """Connections on which nothing, half a head or half a body comes: when each is cut, and who still gets answers.

    Args:
        server, load, client: who asks what meanwhile.
        each: connections of each kind.
        watch_s: seconds for which they are watched; others ask for half of that.
    """
    body, size = http_body(load)
    head = (
        f"POST /v2/models/{load.model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {size}\r\n\r\n"
    ).encode()
    http, grpc = server.ports
    kinds = {
        "HTTP: nothing sent": (http, b""),
        "HTTP: half a head": (http, head[:40]),
        "HTTP: half a body": (http, head + body[: len(body) // 2]),
        "gRPC: nothing sent": (grpc, b""),
    }
    asking = client.submit(run_load, replace(load, protocol=HTTP, address=server.http, seconds=watch_s / 2))
    with ThreadPoolExecutor(each * len(kinds)) as pool:
        waiting = {name: [pool.submit(_until_cut, *sent, watch_s) for _ in range(each)] for name, sent in kinds.items()}
        results = {name: [future.result() for future in futures] for name, futures in waiting.items()}
    record = asking.result(timeout=60)
    rows = {}
    for name, found in results.items():
        times = [seconds for seconds, _ in found if seconds is not None]
        rows[name] = {
            "connections": len(found),
            "cut": len(times),
            "first_s": plain(min(times)) if times else None,
            "last_s": plain(max(times)) if times else None,
            "statuses": dict(Counter(status for _, status in found)),
        }
    return {"kinds": rows, "others": record.counts(), "others_p50_ms": _p50(record)}


def _until_cut(port: int, sent: bytes, watch_s: float) -> tuple[float | None, str]:
    """Seconds until the server hangs up, None if it does not; and the status of what it said, if anything."""
    with socket.create_connection(("127.0.0.1", port), watch_s) as connection:
        connection.sendall(sent)
        begun, received = time.monotonic(), b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            return None, "none"
        except OSError:
            pass  # reset, which is a way of hanging up
        status = received.split(b" ", 2)[1].decode() if received.startswith(b"HTTP/") else "none"
        return time.monotonic() - begun, status


def overflow(server: Server, load: Load, client: Executor, seconds: float, clients: int = 64) -> dict[str, Any]:
    """Far more requests at once than may wait, twice: every one refused has to be told when to try again.

    Memory of the first time is what the server needs to say no so often; it must not grow in the second.
    """
    told: dict[str, Any] = {"clients": clients, "protocols": {}}
    for protocol in (HTTP, GRPC):
        asked = replace(load, protocol=protocol, address=server.address(protocol), concurrency=clients, seconds=seconds)
        memory = Memory(server.pid)
        before = memory.before_mib
        first = client.submit(run_load, asked).result(timeout=seconds + 120)
        peak = memory.peak_mib
        memory.reset()
        second = client.submit(run_load, asked).result(timeout=seconds + 120)
        refused = sum(int((record.status == 503).sum()) for record in (first, second))
        told["protocols"][protocol] = {
            "counts": dict(Counter(first.counts()) + Counter(second.counts())),
            "refused": refused,
            "refused_with_retry_after": sum(int(record.retry_after.sum()) for record in (first, second)),
            "before_mib": plain(before),
            "peak_mib": plain(peak),
            "second_peak_mib": plain(memory.peak_mib),
            "growth_mib": plain(memory.peak_mib - peak),
        }
    return told


def deadlines(
    server: Server, load: Load, client: Executor, executed: Callable[[], int], seconds: float, clients: int = 16
) -> dict[str, Any]:
    """More requests than can be answered within the deadline that each has.

    Args:
        server, load, client, seconds, clients: who asks what.
        executed: how many images the server has run so far.
    """
    alone = run_load(replace(load, protocol=HTTP, address=server.http, seconds=0.5))
    timeout_us = int(max(_p50(alone) or 1.0, 1.0) * 2000)
    before = executed()
    asked = replace(
        load, protocol=HTTP, address=server.http, concurrency=clients, seconds=seconds, timeout_us=timeout_us
    )
    record = client.submit(run_load, asked).result(timeout=seconds + 120)
    ran = executed() - before
    sent = len(record.status)
    return {
        "timeout_ms": timeout_us / 1000,
        "clients": clients,
        "sent": sent,
        "counts": record.counts(),
        "executed": ran,
        "expired_and_not_run": sent - ran,
    }


def _p50(record: Record) -> float | None:
    return plain(float(np.median(record.latencies_ms))) if record.answered else None
