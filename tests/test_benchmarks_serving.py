"""The benchmark of serving: its client and its faults against a toy server, its tables, and the command in short."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import benchmark_path
import numpy as np
import pytest
from malformed_requests import Target, malformed_cases
from real_triton import free_ports
from served_bundles import make_bundle
from serving import SIDES, RunningServer, running_server, toy_model, toy_run

from debiexport.cards.card import Card
from debiexport.runtimes.base import Arrays
from debiexport.serve.http_protocol import BoundedProtocol
from debiexport.serve.limits import Limits

# isort: split
import serving_faults as faults
import serving_report
from serving_load import GRPC, HTTP, NO_ANSWER, OK, Load, run_load
from serving_servers import Memory, Server

SHAPE = (1, *SIDES)


def slow_run(inputs: Arrays) -> Arrays:
    time.sleep(0.02)
    return toy_run(inputs)


def server_of(running: RunningServer) -> Server:
    http = f"127.0.0.1:{running.listening.port}"
    return Server(http, running.grpc, os.getpid(), 0.0)


def load_of(server: Server, protocol: str = HTTP, **fields: Any) -> Load:
    return Load(protocol, server.address(protocol), "toy", SHAPE, **{"seconds": 0.3, **fields})


@pytest.fixture
def client() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def slow() -> Iterator[Server]:
    with running_server(toy_model(slow_run, max_batch=1, max_queue=2)) as running:
        yield server_of(running)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_closed_loop_counts_every_answer(protocol: str) -> None:
    with running_server(toy_model()) as running:
        record = run_load(load_of(server_of(running), protocol, concurrency=2))
        answered = running.service.models.find("toy").statistics.to_dict()["inference_count"]
    assert set(record.counts()) == {str(OK)}
    assert record.answered == len(record.latencies_ms) == answered > 2
    assert (record.end_s >= record.due_s).all() and (record.latencies_ms > 0).all()
    assert record.throughput == record.answered / record.seconds
    assert 0.3 <= record.seconds < 5


def test_an_open_loop_counts_from_the_time_that_was_due(slow: Server) -> None:
    # Twice what one thread can answer: requests wait, and that they do is part of their latency.
    record = run_load(load_of(slow, rate=100.0, seconds=0.5))
    assert 20 <= len(record.status) <= 100
    assert (np.diff(record.due_s) >= 0).all()
    assert record.latencies_ms.min() >= 20


def test_arrivals_depend_on_the_seed_alone(slow: Server) -> None:
    counts = [len(run_load(load_of(slow, rate=50.0, seed=seed)).status) for seed in (1, 1)]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_server_that_is_not_there_gives_no_answers(protocol: str) -> None:
    (port,) = free_ports(1)
    record = run_load(Load(protocol, f"127.0.0.1:{port}", "toy", SHAPE, 0.2))
    assert set(record.status) == {NO_ANSWER}
    assert set(record.counts()) == {"no answer"}
    assert (record.answered, record.throughput) == (0, 0.0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, faults.CLIENT_ERROR),
        (431, faults.CLIENT_ERROR),
        (200, faults.ACCEPTED),
        (503, faults.SERVER_ERROR),
        ("OK", faults.ACCEPTED),
        ("NOT_FOUND", faults.CLIENT_ERROR),
        ("INTERNAL", faults.SERVER_ERROR),
        ("UNAVAILABLE", faults.SERVER_ERROR),
    ],
)
def test_what_a_status_says_of_a_wrong_request(status: int | str, kind: str) -> None:
    assert faults.class_of(status) == kind


def test_the_huge_requests_are_those_that_weigh() -> None:
    cases = malformed_cases(Target("toy", (3, 224, 224), 8))
    small = [case for case in cases if not faults.is_huge(case.name)]
    assert 50 <= len(small) < len(cases)
    largest = 32 * 3 * 224 * 224  # a value of one image, as JSON
    assert max(len(case.payload) for case in small) < largest


def test_every_malformed_request_is_counted() -> None:
    with running_server(toy_model(max_queue=64)) as running:
        told = faults.malformed(server_of(running), load_of(server_of(running)), 4, huge=True)
    assert told["counts"] == told["counts_8_at_once"] == {faults.CLIENT_ERROR: told["cases"]}
    assert (told["not_as_expected"], told["skipped_huge"], told["answers_after"]) == ([], 0, True)


def test_stalled_connections_are_timed(client: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 0.5)
    model = toy_model()
    limits = Limits(**{**vars(Limits.of([model.signature])), "stall_s": 0.5})
    with running_server(model, limits=limits) as running:
        told = faults.stalled(server_of(running), load_of(server_of(running)), client, each=2, watch_s=4)
    for name, kind in told["kinds"].items():
        assert (kind["connections"], kind["cut"]) == (2, 2), name
        assert 0.3 < kind["first_s"] <= kind["last_s"] < 4, name
    assert told["kinds"]["HTTP: half a body"]["statuses"] == {"408": 2}
    assert set(told["others"]) == {str(OK)}


def test_an_overload_is_refused_with_a_time(slow: Server, client: ThreadPoolExecutor) -> None:
    told = faults.overflow(slow, load_of(slow), client, 0.3, clients=8)["protocols"]
    for found in told.values():
        assert set(found["counts"]) == {"200", "503"}
        assert found["refused"] == found["counts"]["503"] > 0
    assert told[HTTP]["refused_with_retry_after"] == told[HTTP]["refused"]


def test_expired_requests_are_not_run(client: ThreadPoolExecutor) -> None:
    with running_server(toy_model(slow_run, max_batch=1, max_queue=64)) as running:
        server, statistics = server_of(running), running.service.models.find("toy").statistics
        told = faults.deadlines(
            server, load_of(server), client, lambda: statistics.to_dict()["inference_count"], 0.5, clients=16
        )
    assert set(told["counts"]) <= {"200", "504"} and told["counts"]["504"] > 0
    assert told["expired_and_not_run"] > 0
    assert told["sent"] == sum(told["counts"].values())


def test_a_peak_is_that_since_the_beginning() -> None:
    memory = Memory(os.getpid())
    taken = np.ones(8 * 2**20)  # 64 MiB
    assert memory.to_dict()["growth_mib"] >= 60
    del taken
    memory.reset()
    assert memory.peak_mib - memory.before_mib < 30


def test_the_command_in_short(tmp_path: Path, tiny_card: Card, capfd: pytest.CaptureFixture[str]) -> None:
    """Everything with a small network in the place of debi_nano, in servers and clients of their own."""
    make_bundle(tmp_path / "debi_nano", tiny_card)
    output = tmp_path / "serving.json"
    script = _script()
    script.main(["--quick", "--bundles", str(tmp_path), "--output", str(output)])
    printed = capfd.readouterr().out
    data = json.loads(output.read_text())
    assert data["complete"] is True
    assert data["command"] == "python benchmarks/serving.py"
    closed = data["latency"]["debi_nano"]["closed"]
    assert {(row["server"], row["protocol"]) for row in closed} >= {("embedded", HTTP), ("embedded", GRPC)}
    assert ({"Triton"} <= {row["server"] for row in closed}) == (data["no_triton"] is None)
    assert all(row["errors"] == {} and row["n"] > 0 for row in closed)
    assert data["malformed"]["embedded"]["counts"] == {faults.CLIENT_ERROR: data["malformed"]["embedded"]["cases"]}
    stopped = data["terminate"]
    assert (stopped["in_flight_failed"], stopped["failed_before"], stopped["exit_code"]) == (0, 0, 0)
    assert all(data["kill"][protocol]["first_answer_after_s"] is not None for protocol in (HTTP, GRPC))
    assert printed.strip().endswith(serving_report.table(data))
    script.main(["--table", "--output", str(output)])
    assert capfd.readouterr().out.strip() == serving_report.table(data)


def test_a_run_that_was_cut_short_has_a_table() -> None:
    assert serving_report.table({"latency": {}}).startswith("| model, load | embedded")


def test_a_missed_goal_is_called_so() -> None:
    stop = {"in_flight": {HTTP: 4, GRPC: 4}, "in_flight_failed": 1, "exit_after_last_answer_s": 1.5, "exit_code": 0}
    found = serving_report.figures({"latency": {}, "terminate": stop})
    assert [met for label, _, _, met in found if label.startswith("SIGTERM")] == [False, False]


def test_nothing_under_way_is_no_proof() -> None:
    stop = {"in_flight": {HTTP: 0, GRPC: 0}, "in_flight_failed": 0, "exit_after_last_answer_s": 0.1, "exit_code": 0}
    found = serving_report.figures({"latency": {}, "terminate": stop})
    assert [met for label, _, _, met in found if label.startswith("SIGTERM")] == [False, True]


def _script() -> ModuleType:
    """The script, by its path: a module of the tests has its name."""
    spec = importlib.util.spec_from_file_location("benchmark_serving", benchmark_path.BENCHMARKS / "serving.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
