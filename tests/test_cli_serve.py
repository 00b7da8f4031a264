"""`debiexport serve` as a process: ready, serving, stopped; and what it refuses before it listens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from debiexport.bundle import open_bundle
from debiexport.cli.main import run

PORTS = ["--port", "0", "--grpc-port", "0", "--metrics-port", "0"]


@contextmanager
def process(
    *arguments: object, ports: Sequence[object] = PORTS, code: str = ""
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A server, and where it listens. `code` is run before it."""
    command = [sys.executable, "-W", "error", "-m", "debiexport"]
    if code:
        command = [sys.executable, "-c", f"{code}\nfrom debiexport.cli.main import main; main()"]
    started = subprocess.Popen(
        [*command, "serve", *map(str, [*arguments, *ports]), "--threads", "1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line, started.communicate(timeout=20)[1]
        yield started, json.loads(line)
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate(timeout=20)


def end(started: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    _, said = started.communicate(timeout=20)
    return started.returncode, said


def given(count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 64, 64), dtype=np.float32)


def http_client(found: dict[str, Any]) -> triton_http.InferenceServerClient:
    return triton_http.InferenceServerClient(f"127.0.0.1:{found['port']}", concurrency=8)


def http_input(array: np.ndarray, binary: bool = True) -> triton_http.InferInput:
    tensor = triton_http.InferInput("images", array.shape, "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def grpc_input(array: np.ndarray) -> triton_grpc.InferInput:
    tensor = triton_grpc.InferInput("images", array.shape, "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


def test_three_ways_of_asking_give_the_runtimes_own_bits(dynamic_bundle: Path) -> None:
    array = given(3)
    expected = open_bundle(dynamic_bundle).ort(1).run({"images": array})["logits"]
    torchless = "import sys; sys.modules['torch'] = None"
    with process(f"net={dynamic_bundle}", code=torchless) as (server, found):
        assert found["models"] == [{"name": "net", "version": "1"}]
        with http_client(found) as client:
            for binary in (True, False):
                wanted = [triton_http.InferRequestedOutput("logits", binary_data=binary)]
                answer = client.infer("net", [http_input(array, binary)], outputs=wanted, request_id="1")
                np.testing.assert_array_equal(answer.as_numpy("logits"), expected)
                assert answer.get_response()["id"] == "1"
            packed = client.infer("net", [http_input(array)], request_compression_algorithm="gzip")
            np.testing.assert_array_equal(packed.as_numpy("logits"), expected)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{found['grpc_port']}") as client:
            np.testing.assert_array_equal(client.infer("net", [grpc_input(array)]).as_numpy("logits"), expected)
        server.send_signal(signal.SIGTERM)
        code, said = end(server)
    assert code == 0
    assert "stopping: 0 requests in progress" in said
    assert "Traceback" not in said


def test_a_stop_under_load_loses_nothing(dynamic_bundle: Path) -> None:
    """Each of several clients asks until it is told that the server stops; all answers before that are right."""
    stopped = threading.Event()
    array = given()
    with process(dynamic_bundle, "--max-batch", 2) as (server, found), http_client(found) as client:
        expected = client.infer("tiny_debi", [http_input(array)]).as_numpy("logits")

        def ask_until_refused(protocol: Any, make: Any, url: str) -> tuple[int, str]:
            answered = 0
            with protocol.InferenceServerClient(url) as own:
                while True:
                    sent_before = not stopped.is_set()
                    try:
                        answer = own.infer("tiny_debi", [make(array)])
                    except Exception as error:
                        return answered, f"refused before the stop: {error}" if sent_before else ""
                    np.testing.assert_allclose(answer.as_numpy("logits"), expected, rtol=1e-3, atol=1e-4)
                    answered += 1

        with ThreadPoolExecutor(6) as pool:
            http, grpc_ = f"127.0.0.1:{found['port']}", f"127.0.0.1:{found['grpc_port']}"
            asked = [pool.submit(ask_until_refused, triton_http, http_input, http) for _ in range(3)]
            asked += [pool.submit(ask_until_refused, triton_grpc, grpc_input, grpc_) for _ in range(3)]
            time.sleep(0.5)
            stopped.set()
            server.send_signal(signal.SIGTERM)
            results = [each.result(30) for each in asked]
        code, said = end(server)
    assert [fault for _, fault in results if fault] == []
    assert all(answered for answered, _ in results)
    assert (code, "Traceback" in said) == (0, False)


def test_ctrl_c_is_an_ordinary_end(dynamic_bundle: Path) -> None:
    with process(dynamic_bundle) as (server, _):
        server.send_signal(signal.SIGINT)
        assert end(server)[0] == 0


def test_a_kill_leaves_the_ports_free(dynamic_bundle: Path) -> None:
    with process(dynamic_bundle) as (server, found):
        with http_client(found) as client:
            client.infer("tiny_debi", [http_input(given())])
        server.kill()
        end(server)
    ports = ["--port", found["port"], "--grpc-port", found["grpc_port"], "--metrics-port", found["metrics_port"]]
    with process(dynamic_bundle, ports=ports) as (again, found_again):
        assert found_again == found
        again.send_signal(signal.SIGTERM)
        assert end(again)[0] == 0


def refused(arguments: list[object], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", *map(str, arguments)]) == code
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert words in line
    assert "Traceback" not in said.err


def test_what_is_refused(dynamic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused([], 2, "BUNDLE", capsys)
    refused([tmp_path / "nothing", *PORTS], 2, "no bundle at", capsys)
    refused([dynamic_bundle, "--port", "http"], 2, "--port is 'http'", capsys)
    refused([dynamic_bundle, "--port", "8001"], 2, "are not three", capsys)
    refused([dynamic_bundle, "--max-batch", "0", *PORTS], 2, "--max-batch is 0", capsys)
    refused([dynamic_bundle, "--threads", "0"], 2, "--threads is 0", capsys)
    refused([f"../x={dynamic_bundle}", *PORTS], 2, "the model's name is '../x'", capsys)
    (dynamic_bundle / "manifest.json").write_text("{}")
    refused([dynamic_bundle, *PORTS], 4, "not a manifest", capsys)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = f"port {port} of 127.0.0.1 cannot be listened on"
        refused([dynamic_bundle, *PORTS, "--port", port], 2, words, capsys)


def test_packages_that_are_missing(
    dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from debiexport import extras

    monkeypatch.setattr(extras, "missing", lambda packages: ["uvicorn"])
    refused([dynamic_bundle, *PORTS], 5, "debiexport serve needs uvicorn, not installed here: pip install", capsys)
