"""Latency and throughput of two servers and of bare ONNX Runtime, for `serving.py`: blocks in turn, round by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from serving_load import BARE, GRPC, HTTP, Load, Record, run_load
from serving_servers import Server

from debiexport.bench.statistics import CONFIDENCE, RESAMPLES, SEED, plain, summarise

EMBEDDED, TRITON, FLOOR = "embedded", "Triton", "floor"
PROTOCOLS = (HTTP, GRPC)
CONCURRENCIES = (1, 4, 8)
SHARES = (0.5, 0.8)  # of the capacity, at which requests arrive in the open loop
WARM_UP_S = 0.5
LEAST_RATE = 0.5


@dataclass(frozen=True)
class Timing:
    """How long is measured.

    Attributes:
        rounds: blocks of each cell.
        block_s: seconds of one.
        concurrencies, shares: of the closed and the open loop.
    """

    rounds: int = 4
    block_s: float = 2.0
    concurrencies: tuple[int, ...] = CONCURRENCIES
    shares: tuple[float, ...] = SHARES


QUICK = Timing(rounds=2, block_s=0.2, concurrencies=(1, 8), shares=(0.5,))


@dataclass(frozen=True)
class Asked:
    """A model that is asked: its name on both servers, the folder of its bundle, and the shape of one image."""

    name: str
    bundle: str
    shape: tuple[int, ...]

    def load(self, protocol: str, server: Server | None, timing: Timing, threads: int) -> Load:
        address = self.bundle if server is None else server.address(protocol)
        return Load(protocol, address, self.name, self.shape, timing.block_s, threads=threads)


def measure(
    model: Asked, servers: Mapping[str, Server], floor: Server, client: Executor, timing: Timing, threads: int
) -> dict[str, Any]:
    """All cells of a model.

    Args:
        model: on all servers.
        servers: by name; Triton may be missing.
        floor: the least that a server costs; it is asked over HTTP, one image at a time.
        client: one process that sends the loads, each as long as the others wait.
        timing: how long.
        threads: of ONNX Runtime in the client, for the bare call; the servers' own were given to them.

    Returns:
        Lists of rows: `closed`, which begins with bare ONNX Runtime and the floor, and `open` (the same rate for all
        servers); `http_overhead_ms` of the embedded server and `floor_overhead_ms`, both over bare ONNX Runtime; and
        `grpc_throughput_ratio` over Triton.
    """

    def block(load: Load) -> Record:
        return client.submit(run_load, load).result(timeout=load.seconds + 120)

    bare, least = model.load(BARE, None, timing, threads), model.load(HTTP, floor, timing, threads)
    loads = {(n, p): model.load(p, server, timing, threads) for n, server in servers.items() for p in PROTOCOLS}
    for load in (bare, *loads.values()):
        block(replace(load, seconds=min(WARM_UP_S, timing.block_s), concurrency=max(timing.concurrencies)))
        block(replace(load, seconds=min(WARM_UP_S, timing.block_s)))
    block(replace(least, seconds=min(WARM_UP_S, timing.block_s)))
    told: dict[str, Any] = {"closed": [], "open": []}
    most: dict[tuple[str, str], list[Record]] = {}
    for concurrency in timing.concurrencies:
        cells = {key: replace(load, concurrency=concurrency) for key, load in loads.items()}
        if concurrency == 1:
            cells = {(BARE, BARE): bare, (FLOOR, HTTP): least, **cells}
        records = _in_turn(cells, block, timing.rounds)
        told["closed"] += [_row(key, records[key], concurrency=concurrency) for key in cells]
        if concurrency == 1:
            told["http_overhead_ms"] = _overhead(records[EMBEDDED, HTTP], records[BARE, BARE])
            told["floor_overhead_ms"] = _overhead(records[FLOOR, HTTP], records[BARE, BARE])
        most = records
    told["most_concurrency"] = max(timing.concurrencies)
    if TRITON in servers:
        told["grpc_throughput_ratio"] = _throughput_ratio(most[EMBEDDED, GRPC], most[TRITON, GRPC])
    for share in timing.shares:
        rates = {p: max(share * min(_capacity(most[n, p]) for n in servers), LEAST_RATE) for p in PROTOCOLS}
        cells = {(n, p): replace(load, rate=rates[p]) for (n, p), load in loads.items()}
        records = _in_turn(cells, block, timing.rounds)
        told["open"] += [_row(key, records[key], share=share, rate=plain(rates[key[1]])) for key in cells]
    return told


def _in_turn(
    cells: Mapping[tuple[str, str], Load], block: Callable[[Load], Record], rounds: int
) -> dict[tuple[str, str], list[Record]]:
    """Blocks of every cell, one after the other; each round begins with another cell."""
    found: dict[tuple[str, str], list[Record]] = {key: [] for key in cells}
    keys = list(cells)
    for index in range(rounds):
        shift = index % len(keys)
        for key in keys[shift:] + keys[:shift]:
            found[key].append(block(replace(cells[key], seed=index)))
    return found


def _capacity(records: Sequence[Record]) -> float:
    return sum(record.answered for record in records) / sum(record.seconds for record in records)


def _row(key: tuple[str, str], records: Sequence[Record], **fields: Any) -> dict[str, Any]:
    samples = np.concatenate([record.latencies_ms for record in records])
    errors: dict[str, int] = {}
    for record in records:
        for status, count in record.counts().items():
            if status != "200":
                errors[status] = errors.get(status, 0) + count
    summary = summarise(samples).to_dict() if len(samples) else {"n": 0}
    summary.pop("histogram", None)
    return {
        "server": key[0],
        "protocol": key[1],
        **fields,
        **summary,
        "throughput_per_s": plain(_capacity(records)),
        "errors": errors,
    }


def _overhead(server: Sequence[Record], bare: Sequence[Record]) -> dict[str, float | None] | None:
    """Difference of the p50 in milliseconds, with an interval of whole blocks drawn together."""

    def difference(chosen: Sequence[int]) -> float:
        above, below = (np.concatenate([of[i].latencies_ms for i in chosen]) for of in (server, bare))
        return float(np.median(above) - np.median(below))

    if not all(record.answered for record in (*server, *bare)):
        return None
    return _drawn(len(bare), difference)


def _throughput_ratio(above: Sequence[Record], below: Sequence[Record]) -> dict[str, float | None] | None:
    """Answers a second of one over those of the other, likewise."""

    def ratio(chosen: Sequence[int]) -> float:
        return _capacity([above[i] for i in chosen]) / _capacity([below[i] for i in chosen])

    if not all(record.answered for record in (*above, *below)):
        return None
    return _drawn(len(below), ratio)


def _drawn(blocks: int, figure: Callable[[Sequence[int]], float]) -> dict[str, float | None]:
    random = np.random.default_rng(SEED)
    drawn = [figure(random.integers(0, blocks, blocks).tolist()) for _ in range(RESAMPLES)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if blocks > 1 else (None, None)
    return {"value": plain(figure(range(blocks))), "low": plain(low), "high": plain(high)}
