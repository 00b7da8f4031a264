"""The service over gRPC, on real sockets, mostly through Triton's own client."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from serving import SIDES, Gate, RunningServer, images, running_server, toy_model, toy_run
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from debiexport.serve.admission import Claim
from debiexport.serve.limits import Limits
from debiexport.serve.requests import InferRequest

METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running_server(toy_model(), toy_model(version=2)) as running:
        yield running


def client_of(server: RunningServer) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.grpc)


def ask(server: RunningServer, given: np.ndarray | None = None, **more: Any) -> triton.InferResult:
    array = images() if given is None else given
    tensor = triton.InferInput("images", array.shape, "FP32")
    tensor.set_data_from_numpy(array)
    with client_of(server) as client:
        return client.infer("toy", [tensor], **more)


def status_of(error: InferenceServerException) -> str:
    return str(error.status()).removeprefix("StatusCode.")


def test_health_and_metadata(server: RunningServer) -> None:
    with client_of(server) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("toy")
        assert client.is_model_ready("toy", "2")
        assert not client.is_model_ready("nothing")
        assert not client.is_model_ready("toy", "3")
        assert client.get_server_metadata().name == "debiexport"
        metadata = client.get_model_metadata("toy", as_json=True)
        assert metadata["versions"] == ["1", "2"]
        assert metadata["inputs"] == [{"name": "images", "datatype": "FP32", "shape": ["-1", "3", "4", "5"]}]
        assert client.get_model_config("toy").config.max_batch_size == 4
        index = client.get_model_repository_index()
        assert [(model.name, model.version, model.state) for model in index.models] == [
            ("toy", "1", "READY"),
            ("toy", "2", "READY"),
        ]
        with pytest.raises(InferenceServerException, match="Method not found") as failed:
            client.unload_model("toy")
        assert status_of(failed.value) == "UNIMPLEMENTED"


def test_inference_and_statistics(server: RunningServer) -> None:
    given = images(3)
    result = ask(server, given, request_id="7", outputs=[triton.InferRequestedOutput("logits")])
    np.testing.assert_array_equal(result.as_numpy("logits"), toy_run({"images": given})["logits"])
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("toy", "2", "7")
    assert ask(server, given, model_version="1").get_response().model_version == "1"
    with client_of(server) as client:
        first, second = client.get_inference_statistics("toy").model_stats
        assert (first.inference_count, second.inference_count) == (3, 3)
        assert second.inference_stats.success.count == 1
        assert len(client.get_inference_statistics("toy", "2").model_stats) == 1


def test_typed_contents(server: RunningServer) -> None:
    given = images(2)
    message = service_pb2.ModelInferRequest(model_name="toy")
    message.inputs.add(name="images", datatype="FP32", shape=given.shape).contents.fp32_contents.extend(
        given.ravel().tolist()
    )
    with grpc.insecure_channel(server.grpc) as channel:
        answer = service_pb2.ModelInferResponse.FromString(
            channel.unary_unary(METHOD)(message.SerializeToString(), timeout=20)
        )
    found = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(2, 2)
    np.testing.assert_array_equal(found, toy_run({"images": given})["logits"])


def test_typed_bytes_are_bounded() -> None:
    with running_server(toy_model(dtype="uint8")) as server, grpc.insecure_channel(server.grpc) as channel:

        def call(values: list[int]) -> Any:
            message = service_pb2.ModelInferRequest(model_name="toy")
            tensor = message.inputs.add(name="images", datatype="UINT8", shape=[1, *SIDES])
            tensor.contents.uint_contents.extend(values)
            answer = channel.unary_unary(METHOD)(message.SerializeToString(), timeout=20)
            return np.frombuffer(service_pb2.ModelInferResponse.FromString(answer).raw_output_contents[0], "<f4")

        np.testing.assert_array_equal(call([255] * 60), [60 * 255, 255])
        with pytest.raises(grpc.RpcError) as failed:
            call([256] * 60)
        assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "values from 256 to 256, expected UINT8 of 0 to 255" in failed.value.details()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_bounded_once_they_are_decompressed(
    server: RunningServer, compression: grpc.Compression
) -> None:
    def call(size: int) -> Any:
        message = service_pb2.ModelInferRequest(model_name="toy", raw_input_contents=[bytes(size)])
        message.inputs.add(name="images", datatype="FP32", shape=[1, *SIDES])
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(server.grpc, options, compression) as channel:
            return channel.unary_unary(METHOD)(message.SerializeToString(), timeout=20)

    assert call(240)
    with pytest.raises(grpc.RpcError) as failed:
        call(100 * 2**20)
    assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_clients_deadline_takes_the_request_out_of_the_queue() -> None:
    gate = Gate()
    with running_server(toy_model(gate)) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, server)
        gate.wait()
        with pytest.raises(InferenceServerException) as failed:
            ask(server, client_timeout=0.2)
        assert status_of(failed.value) == "DEADLINE_EXCEEDED"
        gate.open(5)
        first.result(20)
        ask(server)
    assert gate.batches == [1, 1]


def test_the_requests_own_deadline() -> None:
    gate = Gate()
    with running_server(toy_model(gate)) as server:
        with pytest.raises(InferenceServerException, match="deadline passed") as failed:
            ask(server, timeout=50_000)
        assert status_of(failed.value) == "DEADLINE_EXCEEDED"
        gate.open()


def test_a_queue_that_is_full() -> None:
    gate = Gate()
    with running_server(toy_model(gate, max_queue=1)) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, server)
        gate.wait()
        second = pool.submit(ask, server)
        (model,) = server.service.models
        deadline = time.monotonic() + 10
        while not model.batcher.waiting:
            assert time.monotonic() < deadline
        with pytest.raises(InferenceServerException, match="the queue of model 'toy' is full") as failed:
            ask(server)
        assert status_of(failed.value) == "UNAVAILABLE"
        gate.open(5)
        first.result(20)
        second.result(20)
        assert server.service.admission.held == 0


def test_a_server_that_is_full_refuses() -> None:
    with running_server(limits=Limits(10_000, 10_000, 100)) as server:
        with pytest.raises(InferenceServerException, match="of the 100 bytes that requests may hold") as failed:
            ask(server)
        assert status_of(failed.value) == "UNAVAILABLE"


def test_a_message_that_stalls_is_cut() -> None:
    let_go = threading.Event()

    def nothing() -> Iterator[bytes]:
        let_go.wait(20)
        yield from ()

    with running_server(limits=Limits(10_000, 10_000, 100_000, stall_s=0.2)) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            with pytest.raises(grpc.RpcError) as failed:
                channel.stream_unary(METHOD)(nothing(), timeout=20)
            let_go.set()
        assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the message stalled" in failed.value.details()


def test_a_call_without_a_message(server: RunningServer) -> None:
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as failed:
        channel.stream_unary(METHOD)(iter(()), timeout=20)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "no message" in failed.value.details()


def test_nothing_of_a_refused_request_is_kept(server: RunningServer) -> None:
    """Not even until the garbage is collected: a flood of refused requests would fill the memory before that."""
    gc.collect()
    gc.disable()
    try:
        for more in ({"outputs": [triton.InferRequestedOutput("scores")]}, {"model_version": "9"}, {"timeout": 1}):
            with pytest.raises(InferenceServerException):
                ask(server, **more)
        deadline = time.monotonic() + 10
        while any(type(found) in (Claim, InferRequest) for found in gc.get_objects()):
            assert time.monotonic() < deadline
    finally:
        gc.enable()


def test_a_bug_is_an_internal_error(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("secret")

    monkeypatch.setattr("debiexport.serve.grpc_service.parse_message", broken)
    with pytest.raises(InferenceServerException, match=r"the server failed \(KeyError\)") as failed:
        ask(server)
    assert status_of(failed.value) == "INTERNAL"
    assert "an inference over gRPC failed" in caplog.text
