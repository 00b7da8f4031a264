"""The life of a server, in a thread: ready, told to stop, in a hurry."""

from __future__ import annotations

import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from serving import Gate, RunningServer, images, running_server, toy_model, toy_run

from debiexport.errors import DebiexportError, UsageError
from debiexport.serve.listeners import bound_socket, is_loopback
from debiexport.serve.options import ServeOptions
from debiexport.serve.server import Listening, serve


def ask_http(server: RunningServer, given: np.ndarray) -> np.ndarray:
    tensor = triton_http.InferInput("images", given.shape, "FP32")
    tensor.set_data_from_numpy(given)
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.listening.port}") as client:
        return client.infer("toy", [tensor]).as_numpy("logits")


def ask_grpc(server: RunningServer, given: np.ndarray) -> np.ndarray:
    tensor = triton_grpc.InferInput("images", given.shape, "FP32")
    tensor.set_data_from_numpy(given)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        return client.infer("toy", [tensor]).as_numpy("logits")


def get(server: RunningServer, path: str) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", server.listening.port, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_both_protocols_and_the_metrics() -> None:
    given = images(2)
    expected = toy_run({"images": given})["logits"]
    with running_server() as server:
        np.testing.assert_array_equal(ask_http(server, given), expected)
        np.testing.assert_array_equal(ask_grpc(server, given), expected)
        url = f"http://127.0.0.1:{server.listening.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert b'nv_inference_request_success{model="toy",version="1"} 2\n' in answer.read()
        assert get(server, "/v2").headers["server"] is None  # nobody need know what it is made of


def test_requests_in_progress_are_answered_before_the_end() -> None:
    gate = Gate()
    given = images()
    with running_server(toy_model(gate)) as server, ThreadPoolExecutor(8) as pool:
        first = [pool.submit(ask, server, given) for ask in (ask_http, ask_grpc) * 3]
        gate.wait()
        deadline = time.monotonic() + 10
        while server.service.admission.in_progress < 6:
            assert time.monotonic() < deadline
        server.tell_to_stop()
        while server.service.admission.ready:
            assert time.monotonic() < deadline
        assert get(server, "/v2/health/ready").status == 503
        assert get(server, "/v2/health/live").status == 200
        time.sleep(0.3)
        with pytest.raises(triton_http.InferenceServerException, match="stopping"):
            ask_http(server, given)
        with pytest.raises(triton_grpc.InferenceServerException, match="stopping") as refused:
            ask_grpc(server, given)
        assert "UNAVAILABLE" in refused.value.status()
        assert server.thread.is_alive()
        gate.open(10)
        for answer in first:
            np.testing.assert_array_equal(answer.result(20), toy_run({"images": given})["logits"])
        begun = time.monotonic()
        server.thread.join(10)
        assert time.monotonic() - begun < 1
        assert not server.thread.is_alive()


def test_a_request_that_was_on_its_way_is_answered() -> None:
    given = images()
    with running_server() as server, server.connect() as connection:
        body = given.tobytes()
        head = b"POST /v2/models/toy/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 0\r\n"
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body[:100])
        deadline = time.monotonic() + 10
        while not server.service.admission.in_progress:
            assert time.monotonic() < deadline
        server.tell_to_stop()
        time.sleep(0.5)
        connection.sendall(body[100:])
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        begun = time.monotonic()
        server.thread.join(10)
        assert time.monotonic() - begun < 1


def test_idle_connections_do_not_hold_up_the_end() -> None:
    with running_server() as server:
        held = [server.connect() for _ in range(3)]
        held[0].sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held[0].recv(65536).startswith(b"HTTP/1.1 200")
        held[1].sendall(b"GET /v2 HT")
        begun = time.monotonic()
        server.tell_to_stop()
        server.thread.join(10)
        assert time.monotonic() - begun < 1.5
        for connection in held:
            connection.close()


def test_a_reader_of_our_words_who_has_gone_costs_no_request() -> None:
    gate = Gate()

    def broken(line: str) -> None:
        raise BrokenPipeError

    with running_server(toy_model(gate), progress=broken) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_http, server, images())
        gate.wait()
        server.tell_to_stop()
        time.sleep(0.3)
        gate.open()
        np.testing.assert_array_equal(asked.result(20), toy_run({"images": images()})["logits"])


def test_a_second_signal_hurries() -> None:
    gate = Gate()
    with running_server(toy_model(gate)) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_http, server, images())
        gate.wait()
        server.tell_to_stop()
        server.tell_to_stop()
        server.thread.join(10)
        assert not server.thread.is_alive()
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the client makes of a connection that is cut
            asked.result(20)
        gate.open()


def test_ports_that_are_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 cannot be listened on"):
            bound_socket("127.0.0.1", port).__enter__()
    with pytest.raises(UsageError, match=r"port 0 of 192\.0\.2\.1 cannot be listened on"):
        bound_socket("192.0.2.1", 0).__enter__()
    with pytest.raises(UsageError, match=r"--host no such host\.invalid cannot be found \(.*give an address of this"):
        bound_socket("no such host.invalid", 0).__enter__()


def test_other_machines_are_spoken_of(tmp_path: Path) -> None:
    ports = {"port": 0, "grpc_port": 0, "metrics_port": 0}
    for host, told in (("0.0.0.0", 1), ("127.0.0.1", 0)):
        lines = list[str]()
        with pytest.raises(DebiexportError):
            serve([tmp_path / "nothing"], ServeOptions(host=host, **ports), progress=lines.append)
        notes = [line for line in lines if "no port is encrypted" in line]
        assert len(notes) == told and all(host in note for note in notes)


def test_who_can_reach_an_address() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "localhost.example.org")))


def test_grpcs_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import serving

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(serving, "ANY_PORTS", replace(serving.ANY_PORTS, grpc_port=port))
        with (
            pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 cannot be listened on by gRPC"),
            running_server(),
        ):
            pass


def test_what_is_said_when_ready() -> None:
    listening = Listening("::1", 1, 2, 3, (("a", 1), ("a", 2)))
    assert str(listening) == (
        "serving a version 1, a version 2: http://[::1]:1, gRPC [::1]:2, metrics http://[::1]:3/metrics"
    )
    found: dict[str, Any] = listening.to_dict()
    assert found["models"] == [{"name": "a", "version": "1"}, {"name": "a", "version": "2"}]
