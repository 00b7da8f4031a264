"""Every malformed request is a client error that says what is wrong, whatever came before, and costs no memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http as triton
from malformed_requests import Case, Target, malformed_cases, send
from serving import SIDES, RunningServer, images, running_server, toy_model, toy_run

TARGET = Target("toy", SIDES, 4)
CASES = malformed_cases(TARGET)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(toy_model(max_queue=64)) as running:
        yield running


def faults(server: RunningServer, case: Case) -> list[str]:
    return case.faults(send(case, "127.0.0.1", server.listening.port, server.listening.grpc_port))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_malformed_request_is_refused_in_words(case: Case, server: RunningServer) -> None:
    assert faults(server, case) == []


def test_many_at_once_harm_nobody(server: RunningServer) -> None:
    given = images(2)
    expected = toy_run({"images": given})["logits"]

    def ask(_: int) -> bool:
        tensor = triton.InferInput("images", given.shape, "FP32")
        tensor.set_data_from_numpy(given)
        with triton.InferenceServerClient(f"127.0.0.1:{server.listening.port}") as client:
            return np.array_equal(client.infer("toy", [tensor]).as_numpy("logits"), expected)

    with ThreadPoolExecutor(8) as pool:
        refused = pool.map(lambda case: faults(server, case), CASES)
        answered = pool.map(ask, range(20))
        assert [found for found in refused if found] == []
        assert all(answered)
    assert (server.service.admission.held, server.service.admission.in_progress) == (0, 0)


def test_the_table_is_a_table() -> None:
    names = [str(case) for case in CASES]
    assert len(names) == len(set(names)) >= 50
    assert {case.protocol for case in CASES} == {"http", "grpc"}
    assert all(400 <= case.status < 500 for case in CASES if isinstance(case.status, int))
    codes = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
    assert {case.status for case in CASES if isinstance(case.status, str)} == codes
    assert all(case.words for case in CASES)
