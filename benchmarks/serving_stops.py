"""What becomes of requests when a server is told to stop, or is killed and started again: faults of `serving.py`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from serving_load import GRPC, HTTP, NO_ANSWER, OK, Load, Record, run_load
from serving_servers import Server, end

from debiexport.bench.statistics import plain

RESTART_S = 6.0  # for which clients go on beside what a server does before and after a restart


def terminate_under_load(
    server: Server, load: Load, client: Executor, seconds: float, clients: int = 4
) -> dict[str, Any]:
    """SIGTERM while both protocols are under load: what was under way, and when the process ended.

    Requests that come after the signal may be refused; those under way at it may not fail.
    """
    assert server.process is not None
    running = [
        client.submit(
            run_load, replace(load, protocol=p, address=server.address(p), seconds=seconds, concurrency=clients)
        )
        for p in (HTTP, GRPC)
    ]
    _wait_until_answering(server, load)
    time.sleep(seconds / 2)
    told = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    returncode = server.process.wait(30)
    ended = time.monotonic()
    records = [future.result(timeout=seconds + 60) for future in running]
    under_way = [_status_between(record, told) for record in records]
    last = max(float(record.end_s[record.status == OK].max(initial=told)) for record in records)
    return {
        "in_flight": {p: len(status) for p, status in zip((HTTP, GRPC), under_way, strict=True)},
        "in_flight_failed": sum(int((status != OK).sum()) for status in under_way),
        "failed_before": sum(int(((r.status != OK) & (r.end_s < told)).sum()) for r in records),
        "answered_after": sum(int(((r.status == OK) & (r.due_s >= told)).sum()) for r in records),
        "exit_code": returncode,
        "exit_after_signal_s": plain(ended - told),
        "exit_after_last_answer_s": plain(ended - last),
    }


def kill_and_restart(
    start: Callable[[tuple[int, int]], AbstractContextManager[Server]], load: Load, client: Executor, seconds: float
) -> dict[str, Any]:
    """SIGKILL under load and a new server on the same ports: what is lost, and when clients get answers again.

    Args:
        start: the server, on given ports of HTTP and gRPC.
        load, client: who asks what.
        seconds: before the signal, and after the new server is ready.
    """
    with start((0, 0)) as first:
        assert first.process is not None
        ports = first.ports
        asked = replace(load, seconds=2 * seconds + RESTART_S, concurrency=4)
        running = [client.submit(run_load, replace(asked, protocol=p, address=first.address(p))) for p in (HTTP, GRPC)]
        _wait_until_answering(first, load)
        time.sleep(seconds)
        killed = time.monotonic()
        first.process.kill()
        first.process.wait()
        with start(ports) as second:
            records = [future.result(timeout=asked.seconds + 60) for future in running]
            ready_s = second.ready_s
        end(first.process)
    told: dict[str, Any] = {"ready_again_s": plain(ready_s)}
    for protocol, record in zip((HTTP, GRPC), records, strict=True):
        back = record.end_s[(record.status == OK) & (record.due_s > killed)]
        under_way = _status_between(record, killed)
        told[protocol] = {
            "clients": asked.concurrency,
            "answered": record.answered,
            "lost_in_flight": int((under_way != OK).sum()),
            "failed_attempts_while_down": int(((record.status == NO_ANSWER) & (record.due_s >= killed)).sum()),
            "first_answer_after_s": plain(float(back.min()) - killed) if len(back) else None,
        }
    return told


def _status_between(record: Record, moment: float) -> Any:
    """The statuses of the requests that were under way at a moment."""
    return record.status[(record.due_s < moment) & (record.end_s >= moment)]


def _wait_until_answering(server: Server, load: Load) -> None:
    """The client's process has started when the server answers others too; it needs a moment for its imports."""
    run_load(replace(load, protocol=HTTP, address=server.http, seconds=0.5))
