"""Reaching a server, and what is said when it cannot be reached or will not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_inference_server import Script, grpc_server, http_server
from served_bundles import make_bundle

from debiexport import extras, remote_connection
from debiexport.cards import Card
from debiexport.errors import DebiexportError, MissingDependencyError, UsageError
from debiexport.remote_connection import Connection, parse_server
from debiexport.triton.model_config import model_config
from debiexport.triton.served import served_models

OneLine = Callable[[BaseException], str]
IMAGES = np.zeros((2, 3, 64, 64), np.float32)


@pytest.fixture
def script(tiny_card: Card, tmp_path: Path) -> Script:
    (served,) = served_models(make_bundle(tmp_path / "bundle", tiny_card))
    return Script(model_config(served), lambda batch: np.arange(6 * batch).reshape(batch, 6))


@pytest.fixture(params=[http_server, grpc_server], ids=["http", "grpc"])
def server(request: pytest.FixtureRequest, script: Script) -> Iterator[str]:
    with request.param(script) as address:
        yield address


@pytest.mark.parametrize(
    ("text", "protocol", "address"),
    [
        ("localhost:8000", "http", "localhost:8000"),
        ("localhost", "http", "localhost:8000"),
        ("http://10.0.0.1:9/", "http", "10.0.0.1:9"),
        ("grpc://host.example", "grpc", "host.example:8001"),
        ("GRPC://host:1", "grpc", "host:1"),
        ("[::1]:8000", "http", "[::1]:8000"),
        ("grpc://[::1]", "grpc", "[::1]:8001"),
    ],
)
def test_addresses(text: str, protocol: str, address: str) -> None:
    assert parse_server(text) == (protocol, address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":8000",
        "host:port",
        "host:99999",
        "ftp://host",
        "host/v2",
        "host?x",
        "me@host",
        "[::1",
        "a b",
    ],
)
def test_bad_addresses(text: str, one_line: OneLine) -> None:
    with pytest.raises(UsageError, match="give host:port or grpc://host:port") as refused:
        parse_server(text)
    assert repr(text) in one_line(refused.value)


@pytest.mark.parametrize("text", ["https://host", "HTTPS://host:443", "grpcs://host"])
def test_tls_is_not_spoken(text: str, one_line: OneLine) -> None:
    with pytest.raises(UsageError, match="TLS is not spoken here; give host:port") as refused:
        parse_server(text)
    assert repr(text) in one_line(refused.value)


def test_questions(server: str, script: Script) -> None:
    with Connection(server) as connection:
        assert connection.models() == ["tiny_debi"]
        assert connection.config("tiny_debi") == script.config
        answer = connection.infer("tiny_debi", "images", IMAGES, "logits")
    assert answer.version == "1"
    np.testing.assert_array_equal(answer.output, script.logits(2))
    assert answer.output.dtype == np.float32


def test_an_unknown_model(server: str, one_line: OneLine) -> None:
    with Connection(server) as connection, pytest.raises(UsageError) as refused:
        connection.config("debi_t")
    assert one_line(refused.value).endswith("has no model 'debi_t': give --model one of its models: tiny_debi")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (503, "is overloaded or stopping"),
        (429, "is overloaded or stopping"),
        (504, "took too long for 2 images for 'tiny_debi'"),
        (500, "refuses 2 images for 'tiny_debi'"),
    ],
)
def test_refused_inferences(code: int, words: str, server: str, script: Script, one_line: OneLine) -> None:
    script.refuse = code
    with Connection(server) as connection, pytest.raises(DebiexportError, match=words) as refused:
        connection.infer("tiny_debi", "images", IMAGES, "logits")
    assert "not now" in one_line(refused.value)
    assert refused.value.exit_code == 1


def test_a_missing_output(server: str, one_line: OneLine) -> None:
    with Connection(server) as connection, pytest.raises(DebiexportError, match="answers without 'scores'") as refused:
        connection.infer("tiny_debi", "images", IMAGES, "scores")
    one_line(refused.value)


def test_a_server_that_does_not_live(server: str, script: Script, one_line: OneLine) -> None:
    script.live = False
    with pytest.raises(UsageError, match="it says that it is not live") as refused:
        Connection(server)
    one_line(refused.value)


@pytest.mark.parametrize("ask", [Connection.models, lambda connection: connection.config("tiny_debi")])
def test_a_server_of_another_protocol(ask: Callable[[Connection], Any], script: Script, one_line: OneLine) -> None:
    script.garbled = True
    with (
        http_server(script) as address,
        Connection(address) as connection,
        pytest.raises(DebiexportError, match="in a form that is not the protocol's") as refused,
    ):
        ask(connection)
    one_line(refused.value)


def test_the_other_protocol_s_port(script: Script, one_line: OneLine) -> None:
    with http_server(script) as http, pytest.raises(UsageError, match="grpc:// is not for HTTP") as refused:
        Connection(f"grpc://{http}")
    one_line(refused.value)
    with grpc_server(script) as grpc, pytest.raises(UsageError, match="put grpc:// before it") as refused:
        Connection(grpc.removeprefix("grpc://"))
    one_line(refused.value)


@pytest.mark.parametrize("scheme", ["", "grpc://"])
def test_nobody_there(scheme: str, one_line: OneLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(UsageError, match="Connection refused") as refused:
        Connection(address)
    text = one_line(refused.value)
    assert f"no inference server answers at {address}" in text
    assert "debiexport serve" in text


@pytest.mark.parametrize("scheme", ["", "grpc://"])
def test_a_server_that_says_nothing(scheme: str, one_line: OneLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_connection, "CONNECT_S", 0.3)
    monkeypatch.setattr(remote_connection, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UsageError) as refused:
        Connection(f"{scheme}127.0.0.1:{silent.getsockname()[1]}")
    assert "no inference server answers" in one_line(refused.value)


def test_a_server_that_hangs_up(script: Script, one_line: OneLine) -> None:
    """It says that it lives, and then closes every connection."""
    alive = threading.Event()

    def serve(listening: socket.socket) -> None:
        while not alive.is_set():
            with listening.accept()[0] as connection:
                asked = connection.recv(65536)
                if b"/v2/health/live" in asked:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            address = f"127.0.0.1:{listening.getsockname()[1]}"
            with Connection(address) as connection, pytest.raises(DebiexportError, match="broke off") as refused:
                connection.config("tiny_debi")
            one_line(refused.value)
        finally:
            alive.set()
            socket.create_connection(listening.getsockname()).close()
            thread.join()


def test_tritonclient_is_missing(monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"debiexport\[serve\]") as refused:
        Connection("localhost:8000")
    one_line(refused.value)
