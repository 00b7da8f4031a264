"""The paths over HTTP, called as an application without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Gate, images, toy_model, toy_run, toy_service

from debiexport import __version__
from debiexport.serve.http_app import http_app
from debiexport.serve.limits import Limits
from debiexport.serve.models import LoadedModel
from debiexport.serve.service import Service

Client = httpx.AsyncClient
INFER = "/v2/models/toy/infer"


def with_client(go: Callable[[Client, Service], Awaitable[None]], *models: LoadedModel, limits: Any = None) -> None:
    async def main(service: Service) -> None:
        transport = httpx.ASGITransport(http_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await asyncio.wait_for(go(client, service), 30)

    with toy_service(*models, limits=limits) as service:
        asyncio.run(main(service))


def body_of(given: np.ndarray, **top: Any) -> dict[str, Any]:
    shape = list(given.shape)
    return {"inputs": [{"name": "images", "datatype": "FP32", "shape": shape, "data": given.tolist()}], **top}


def test_health_and_readiness() -> None:
    async def go(client: Client, service: Service) -> None:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/toy/ready", "/v2/models/toy/versions/1/ready"):
            answer = await client.get(path)
            assert (answer.status_code, answer.content) == (200, b"")
        assert (await client.get("/v2/models/nothing/ready")).status_code == 404
        service.admission.drain()
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v2/health/ready")).status_code == 503
        assert (await client.get("/v2/models/toy/ready")).status_code == 503
        (entry,) = (await client.post("/v2/repository/index")).json()
        assert entry["state"] == "UNAVAILABLE"

    with_client(go)


def test_metadata() -> None:
    async def go(client: Client, service: Service) -> None:
        assert (await client.get("/v2")).json() == {
            "name": "debiexport",
            "version": __version__,
            "extensions": ["binary_tensor_data", "model_configuration", "statistics"],
        }
        assert (await client.get("/v2/models/toy")).json() == {
            "name": "toy",
            "versions": ["1", "3"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 4, 5]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}],
        }
        assert (await client.get("/v2/models/toy/versions/3")).json()["versions"] == ["3"]
        found = (await client.post("/v2/repository/index", json={})).json()
        assert found == [{"name": "toy", "version": v, "state": "READY", "reason": ""} for v in ("1", "3")]

    with_client(go, toy_model(), toy_model(version=3))


def test_a_fixed_batch_is_part_of_the_shape() -> None:
    async def go(client: Client, service: Service) -> None:
        assert (await client.get("/v2/models/toy")).json()["inputs"][0]["shape"] == [2, 3, 4, 5]
        config = (await client.get("/v2/models/toy/config")).json()
        assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [2, 3, 4, 5])

    with_client(go, toy_model(batch=2))


def test_the_configuration_says_how_this_server_serves() -> None:
    async def go(client: Client, service: Service) -> None:
        config = (await client.get("/v2/models/toy/config")).json()
        assert (config["name"], config["platform"], config["max_batch_size"]) == ("toy", "onnxruntime_onnx", 4)
        assert config["input"][0]["dims"] == [3, 4, 5]  # numbers, as Triton writes them
        assert config["version_policy"] == {"all": {}}
        policy = config["dynamic_batching"]["default_queue_policy"]
        assert policy["max_queue_size"] == service.options.max_queue
        assert policy["default_timeout_microseconds"] == 10_000_000
        assert len(config["model_warmup"]) == 1
        assert config["model_warmup"][0]["inputs"]["images"]["dims"] == [3, 4, 5]
        assert config["parameters"]["network"] == {"string_value": "toy"}
        assert config["parameters"]["2.source"] == {"string_value": "a test"}

    with_client(go, toy_model(), toy_model(version=2))


def test_inference_of_the_newest_or_a_named_version() -> None:
    def doubled(inputs: Any) -> Any:
        return {"logits": 2 * toy_run(inputs)["logits"]}

    async def go(client: Client, service: Service) -> None:
        given = images(2)
        expected = toy_run({"images": given})["logits"]
        for path, version, factor in ((INFER, "2", 2), ("/v2/models/toy/versions/1/infer", "1", 1)):
            answer = await client.post(path, json=body_of(given, id="7"))
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            found = answer.json()
            assert (found["model_name"], found["model_version"], found["id"]) == ("toy", version, "7")
            (output,) = found["outputs"]
            np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(2, 2), factor * expected)

    with_client(go, toy_model(), toy_model(doubled, version=2))


def test_inference_in_binary() -> None:
    async def go(client: Client, service: Service) -> None:
        given = images(3)
        tensor = {"name": "images", "datatype": "FP32", "shape": [3, 3, 4, 5]}
        tensor["parameters"] = {"binary_data_size": given.nbytes}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = await client.post(INFER, content=head + given.tobytes(), headers=headers)
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers["inference-header-content-length"])
        assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 24}
        expected = toy_run({"images": given})["logits"]
        np.testing.assert_array_equal(np.frombuffer(answer.content[length:], "<f4").reshape(3, 2), expected)

    with_client(go)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/models/nothing", 404, "unknown model: 'nothing' is not found, expected 'toy'"),
        ("GET", "/v2/models/toy/versions/2", 404, "'toy' version 2 is not found, expected 1"),
        ("GET", "/v2/models/toy/versions/two", 400, "version of model 'toy' is 'two', expected a whole number"),
        ("GET", "/v2/models/toy/versions/-1/stats", 400, "'-1'"),
        ("GET", "/v2/models/nothing/config", 404, "'nothing'"),
        ("GET", "/v2/models/nothing/stats", 404, "'nothing'"),
        ("POST", "/v2/models/nothing/infer", 404, "'nothing'"),
        ("GET", "/", 404, "no such path: '/'"),
        ("GET", "/v2/", 404, "no such path"),
        ("POST", "/v2/repository/models/toy/unload", 404, "no such path"),
        ("GET", INFER, 405, "is not for 'GET'"),
        ("DELETE", "/v2/models/toy", 405, "is not for 'DELETE'"),
        ("GET", "/v2/models/a%0ab/ready", 404, r"'a\nb'"),
    ],
)
def test_refusals_are_json(method: str, path: str, status: int, words: str) -> None:
    async def go(client: Client, service: Service) -> None:
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert words in answer.json()["error"]

    with_client(go)


def test_statistics_count_successes_and_refusals() -> None:
    async def go(client: Client, service: Service) -> None:
        assert (await client.post(INFER, json=body_of(images(2)))).status_code == 200
        assert (await client.post(INFER, json={})).status_code == 400
        for path in ("/v2/models/stats", "/v2/models/toy/stats", "/v2/models/toy/versions/1/stats"):
            (found,) = (await client.get(path)).json()["model_stats"]
            assert (found["name"], found["version"], found["inference_count"]) == ("toy", "1", 2)
            assert found["inference_stats"]["success"]["count"] == 1
            assert found["inference_stats"]["fail"]["count"] == 1

    with_client(go)


def test_a_queue_that_is_full() -> None:
    gate = Gate()

    async def go(client: Client, service: Service) -> None:
        first = asyncio.create_task(client.post(INFER, json=body_of(images())))
        await asyncio.to_thread(gate.wait)
        waiting = asyncio.create_task(client.post(INFER, json=body_of(images())))
        while not next(iter(service.models)).batcher.waiting:
            await asyncio.sleep(0.001)
        refused = await client.post(INFER, json=body_of(images()))
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "the queue of model 'toy' is full" in refused.json()["error"]
        gate.open(5)
        assert [(await task).status_code for task in (first, waiting)] == [200, 200]
        assert service.admission.held == 0

    with_client(go, toy_model(gate, max_queue=1))


def test_a_deadline_is_kept_also_while_the_model_runs() -> None:
    gate = Gate()

    async def go(client: Client, service: Service) -> None:
        answer = await client.post(INFER, json=body_of(images(), parameters={"timeout": 50_000}))
        assert answer.status_code == 504
        assert "deadline passed" in answer.json()["error"]
        gate.open()

    with_client(go, toy_model(gate))


def test_the_servers_own_faults() -> None:
    def broken(inputs: Any) -> Any:
        raise RuntimeError("out of luck")

    async def go(client: Client, service: Service) -> None:
        answer = await client.post(INFER, json=body_of(images()))
        assert (answer.status_code, answer.json()) == (500, {"error": "model 'toy' failed: out of luck"})

    with_client(go, toy_model(broken))


def test_a_bug_is_an_answer_too(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("secret")

    async def go(client: Client, service: Service) -> None:
        answer = await client.post(INFER, json=body_of(images()))
        assert answer.status_code == 500
        assert answer.json() == {"error": "the server failed (KeyError): this is a bug of debiexport"}

    monkeypatch.setattr("debiexport.serve.http_app.parse_request", broken)
    with_client(go)
    assert "an inference over HTTP failed" in caplog.text


def test_a_server_that_is_full_or_stopping() -> None:
    async def go(client: Client, service: Service) -> None:
        with service.admission.enter(service.limits.held_bytes):
            answer = await client.post(INFER, json=body_of(images()))
            assert answer.status_code == 503
            assert "bytes that requests may hold" in answer.json()["error"]
        service.admission.drain()
        answer = await client.post(INFER, json=body_of(images()))
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        service.admission.close()
        answer = await client.post(INFER, json=body_of(images()))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "stopping" in answer.json()["error"]

    with_client(go, limits=Limits(10_000, 10_000, 20_000))
