"""Connections of HTTP on real sockets: heads, bodies and readers that stand still, and what is no HTTP."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from serving import Gate, RunningServer, http_exchange, images, running_server, toy_model

from debiexport.serve.http_protocol import BoundedProtocol
from debiexport.serve.limits import Limits

LIMITS = Limits(100_000, 100_000, 1_000_000, stall_s=0.3, body_s=0.8)
INFER = b"POST /v2/models/toy/infer HTTP/1.1\r\nHost: x\r\n"


def status_and_error(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), str(json.loads(body)["error"])


def request(given: np.ndarray | None = None) -> bytes:
    """A whole request of bytes alone."""
    body = (images() if given is None else given).tobytes()
    return INFER + b"Inference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def answered(connection: socket.socket) -> bytes:
    """One answer on a connection that stays open."""
    received = connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length:" in line[:15])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def test_a_body_that_stalls_is_cut() -> None:
    with running_server(limits=LIMITS) as server:
        begun = time.monotonic()
        answer = http_exchange(server, [INFER + b"Content-Length: 100\r\n\r\n{"])
        assert status_and_error(answer) == (
            408,
            "the body stalled: nothing came for 0.3 s after 1 bytes; send it again",
        )
        assert 0.25 < time.monotonic() - begun < 5
        assert b"connection: close" in answer
        assert server.service.admission.held == 0


def test_a_body_that_drips_is_cut() -> None:
    with running_server(limits=LIMITS) as server, server.connect(0.02) as connection:
        connection.sendall(INFER + b"Content-Length: 1000\r\n\r\n")
        for _ in range(500):
            connection.sendall(b" ")
            with suppress(TimeoutError):
                connection.recv(1, socket.MSG_PEEK)
                break
        connection.settimeout(20)
        status, error = status_and_error(answered(connection))
    assert (status, error) == (408, f"the body did not end within 0.8 s, got {error.split()[-5]} bytes; send it faster")


def test_a_head_that_stalls_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 0.2)
    with running_server() as server:
        assert status_and_error(http_exchange(server, [b"POST /v2/mod"])) == (
            408,
            "the head of the request stalled for 0.2 s",
        )
        assert http_exchange(server, []) == b""  # a connection without a word is closed without a word
        with server.connect() as connection:  # a second request that stalls is cut as the first is
            connection.sendall(request())
            assert answered(connection).startswith(b"HTTP/1.1 200")
            connection.sendall(b"GET /v2 HT")
            assert status_and_error(connection.recv(65536))[0] == 408


def test_an_idle_connection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 0.1)
    with running_server() as server, server.connect() as connection:
        for _ in range(2):
            connection.sendall(request())
            assert answered(connection).startswith(b"HTTP/1.1 200")
            time.sleep(0.25)


def test_requests_in_a_row_on_a_connection() -> None:
    with running_server() as server, server.connect() as connection:
        connection.sendall(request(images(1, 1)) + request(images(1, 2)))
        received = b""
        while received.count(b"HTTP/1.1 200") < 2:
            received += connection.recv(65536)


def test_a_refused_body_is_read_to_its_end_and_the_connection_goes_on() -> None:
    with running_server(limits=LIMITS) as server, server.connect() as connection:
        body = bytes(500_000)
        connection.sendall(b"POST /v2/models/no/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + body)
        assert answered(connection).startswith(b"HTTP/1.1 404")
        connection.sendall(INFER + b"Content-Length: 500000\r\n\r\n" + body)
        assert answered(connection).startswith(b"HTTP/1.1 413")
        connection.sendall(request())
        assert answered(connection).startswith(b"HTTP/1.1 200")


def test_a_refused_body_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("debiexport.serve.http_protocol.LEFT_OVER_BYTES", 2**20)
    with running_server(limits=LIMITS) as server, server.connect() as connection:
        connection.sendall(INFER + b"Content-Length: 1000000000000\r\n\r\n")
        assert answered(connection).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            connection.sendall(bytes(64 * 2**20))


def test_what_is_left_of_a_refused_body_does_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("debiexport.serve.listeners.KEEP_ALIVE_S", 0.4)
    gate = Gate()
    with running_server(toy_model(gate), limits=LIMITS) as server:
        with server.connect() as connection:
            connection.sendall(INFER + b"Content-Length: 500000\r\n\r\n")
            assert answered(connection).startswith(b"HTTP/1.1 413")
            begun = time.monotonic()
            with suppress(ConnectionError):
                while time.monotonic() - begun < 10:
                    connection.sendall(b"{")
                    time.sleep(0.02)
            assert 0.3 < time.monotonic() - begun < 5
        with server.connect() as connection:  # but what follows it does
            connection.sendall(INFER + b"Content-Length: 500000\r\n\r\n" + bytes(499_999))
            assert answered(connection).startswith(b"HTTP/1.1 413")
            connection.sendall(b"\0" + request())
            gate.wait()
            time.sleep(0.6)
            gate.open()
            assert answered(connection).startswith(b"HTTP/1.1 200")


def test_requests_that_wait_are_not_read() -> None:
    gate = Gate()
    with running_server(toy_model(gate)) as server, server.connect(0.5) as connection:
        connection.sendall(request())
        gate.wait()
        time.sleep(0.1)  # so that the server has begun to look whether the client leaves
        waiting = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000
        sent = 0
        with suppress(TimeoutError):
            while sent < 64 * 2**20:
                sent += connection.send(waiting)
        assert sent < 16 * 2**20  # what the system's buffers hold, and not the server's
        gate.open()
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    ],
)
def test_requests_that_ask_for_another_protocol_are_answered_in_this_one(fields: bytes) -> None:
    body = images().tobytes()
    whole = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with running_server() as server, server.connect() as connection:
        for sent in (whole, chunked, whole):
            connection.sendall(INFER + b"Inference-Header-Content-Length: 0\r\n" + fields + sent)
            assert answered(connection).startswith(b"HTTP/1.1 200")


def test_fields_behind_a_body_say_nothing() -> None:
    body = images().tobytes()
    head = INFER + b"Inference-Header-Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = b"Content-Encoding: gzip\r\nInference-Header-Content-Length: 3\r\nConnection: close\r\n\r\n"
    with running_server() as server, server.connect() as connection:
        for _ in range(2):
            connection.sendall(head + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + trailers)
            assert answered(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v2\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2 HTTP/2.0\r\nHost: x\r\n\r\n", 400),
        (b"OPTIONS /v2 RTSP/1.0\r\nHost: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02", 400),
        (INFER + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (INFER + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
        (INFER + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (INFER + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /v2 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (INFER + b"A: b\r\n c\r\n\r\n", 400),
        (INFER + b"A : b\r\n\r\n", 400),
        (INFER + b"A: \0\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\nHost: x\n\n", 400),
        (INFER + b"X: " + b"x" * 70_000, 431),
        (b"GET /" + b"x" * 70_000, 431),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 70_000, 431),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\n0\r\nT: " + b"x" * 70_000, 431),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_at_once(sent: bytes, status: int) -> None:
    """Without more bytes, the end of the connection, or any time."""
    with running_server(limits=LIMITS) as server:
        with server.connect() as connection:
            connection.sendall(sent)
            answer = answered(connection)
        assert status_and_error(answer)[0] == status
        assert status_and_error(answer)[1].startswith("Invalid HTTP request received: ")
        assert b"connection: close" in answer
        assert http_exchange(server, [request().replace(b"Host", b"Connection: close\r\nHost")]).startswith(
            b"HTTP/1.1 200"
        )
        assert (server.service.admission.held, server.service.admission.in_progress) == (0, 0)


def test_what_is_no_request_behind_one() -> None:
    with running_server() as server, server.connect() as connection:
        connection.sendall(request() + b"GET /v2\r\n\r\n")
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.count(b"HTTP/1.1 200") == 1
    assert received.count(b"HTTP/1.1 400") == 1
    assert received.index(b"HTTP/1.1 200") < received.index(b"HTTP/1.1 400")


def test_connections_of_old_clients() -> None:
    old = request().replace(b"HTTP/1.1\r\nHost: x", b"HTTP/1.0\r\nExpect: 100-continue")
    with running_server() as server:
        for sent in (old, request().replace(b"Host", b"Connection: foo, Close\r\nHost")):
            answer = http_exchange(server, [sent])  # which is closed
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer


def test_expectations_are_met() -> None:
    with running_server(limits=LIMITS) as server:
        with server.connect() as connection:
            body = images().tobytes()
            head = b"Expect: 100-continue\r\nInference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(INFER + head % len(body))
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
            connection.sendall(body)
            assert answered(connection).startswith(b"HTTP/1.1 200")
        with server.connect() as connection:  # too large: no byte of it is asked for
            connection.sendall(INFER + b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
            assert answered(connection).startswith(b"HTTP/1.1 413")


def test_more_connections_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "connections_at_most", 3)
    with running_server() as server:
        held = [server.connect() for _ in range(3)]
        held[0].sendall(request())
        answered(held[0])  # so all of them have been accepted
        status, error = status_and_error(http_exchange(server, []))
        assert (status, error) == (503, "the server is full: it holds 3 connections")
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 10
        while not http_exchange(server, [request().replace(b"Host", b"Connection: close\r\nHost")]).startswith(
            b"HTTP/1.1 200"
        ):
            assert time.monotonic() < deadline


def test_a_client_that_leaves_is_not_worked_for() -> None:
    gate = Gate()
    with running_server(toy_model(gate)) as server:
        first = server.connect()
        first.sendall(request())
        gate.wait()
        with server.connect() as leaver:
            leaver.sendall(request())
            _until(lambda: _waiting(server) == 1)
        _until(lambda: _waiting(server) == 0)
        gate.open()
        assert answered(first).startswith(b"HTTP/1.1 200")
        first.close()
        _until(lambda: server.service.admission.in_progress == 0)
        (model,) = server.service.models
        assert model.statistics.failures() == {"CANCELED": 1}
    assert gate.batches == [1]


def test_an_answer_that_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "unread_s", 0.2)

    def large(inputs: Any) -> Any:
        return {"logits": np.zeros((1, 8_000_000), np.float32)}

    with running_server(toy_model(large)) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.listening.port))
        with connection:
            connection.sendall(request())
            _until(lambda: server.service.admission.in_progress == 1)
            _until(lambda: server.service.admission.in_progress == 0)


def _waiting(server: RunningServer) -> int:
    (model,) = server.service.models
    return model.batcher.waiting


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
