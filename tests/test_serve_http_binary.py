from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from serving import images, toy_model, toy_run
from test_serve_requests import PIXELS, signature

from debiexport.serve.http_binary import HttpRequest, answer_body, parse_request
from debiexport.serve.models import LoadedModel
from debiexport.serve.refusals import BadRequest


@pytest.fixture
def model() -> Iterator[LoadedModel]:
    made = toy_model()
    yield made
    made.batcher.close()


def entry(given: np.ndarray, **changed: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "FP32", "shape": list(given.shape), **changed}


def binary(given: np.ndarray, **top: Any) -> HttpRequest:
    tensor = entry(given, parameters={"binary_data_size": given.nbytes})
    head = json.dumps({"inputs": [tensor], **top}).encode()
    return parse_request(signature(), head + given.tobytes(), str(len(head)))


def test_json_and_bytes_are_the_same_request() -> None:
    given = images(3)
    text = json.dumps({"id": "1", "inputs": [entry(given, data=given.tolist())]}).encode()
    from_text = parse_request(signature(), text, None)
    from_bytes = binary(given, id="1")
    for found in (from_text, from_bytes):
        np.testing.assert_array_equal(found.request.inputs["images"], given)
        assert (found.request.id, found.request.images) == ("1", 3)
        assert found.binary == frozenset()


def test_a_length_of_all_the_body_is_json() -> None:
    given = images()
    text = json.dumps({"inputs": [entry(given, data=given.ravel().tolist())]}).encode()
    np.testing.assert_array_equal(parse_request(signature(), text, str(len(text))).request.inputs["images"], given)


def test_bytes_alone() -> None:
    given = images(2)
    found = parse_request(signature(), given.tobytes(), "0")
    np.testing.assert_array_equal(found.request.inputs["images"], given)
    assert found.binary == {"logits", "more"}
    for wrong in (b"", given.tobytes()[1:], bytes(5 * 4 * PIXELS)):
        with pytest.raises(BadRequest, match="images"):
            parse_request(signature(), wrong, "0")


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({}, set()),
        ({"parameters": {"binary_data_output": True}}, {"logits", "more"}),
        ({"parameters": {"binary_data_output": True}, "outputs": [{"name": "more"}]}, {"more"}),
        ({"outputs": [{"name": "more", "parameters": {"binary_data": True}}, {"name": "logits"}]}, {"more"}),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "logits", "parameters": {"binary_data": False, "classification": 0}}],
            },
            set(),
        ),
    ],
)
def test_which_outputs_come_as_bytes(top: dict[str, Any], expected: set[str]) -> None:
    assert binary(images(), **top).binary == expected


def test_a_deadline() -> None:
    request = binary(images(), parameters={"timeout": 1_000_000}).request
    assert request.deadline_ns == request.arrived_ns + 1_000_000_000
    assert binary(images(), parameters={"timeout": 0, "priority": 3, "of my own": "x"}).request.deadline_ns is None


def test_an_answer_in_json(model: LoadedModel) -> None:
    asked = binary(images(2), id="x", outputs=[{"name": "logits"}])
    results = toy_run(asked.request.inputs)
    body, length = answer_body(model, asked, results)
    assert length is None
    content = json.loads(body)
    assert content == {
        "model_name": "toy",
        "model_version": "1",
        "id": "x",
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": results["logits"].ravel().tolist()}
        ],
    }


def test_an_answer_in_both_forms_keeps_the_order(model: LoadedModel) -> None:
    wanted = [{"name": "more"}, {"name": "logits", "parameters": {"binary_data": True}}]
    asked = binary(images(), outputs=wanted)
    results = {"more": np.ones((1, 2), np.float32), "logits": np.arange(4, dtype=np.float32)[::2][None]}
    body, length = answer_body(model, asked, results)
    assert length is not None
    content = json.loads(body[:length])
    assert [output["name"] for output in content["outputs"]] == ["more", "logits"]
    assert content["outputs"][1]["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(body[length:], "<f4"), [0, 2])
    assert "id" not in content


def test_an_answer_that_json_cannot_hold(model: LoadedModel) -> None:
    nothing = {"logits": np.full((1, 2), np.nan, np.float32)}
    with pytest.raises(BadRequest, match="an output is not finite, which JSON cannot hold"):
        answer_body(model, binary(images(), outputs=[{"name": "logits"}]), nothing)
    wanted = [{"name": "logits", "parameters": {"binary_data": True}}]
    assert answer_body(model, binary(images(), outputs=wanted), nothing)[1] is not None


def test_classification_is_refused_in_words() -> None:
    with pytest.raises(BadRequest, match="output 'logits' is asked for as classification"):
        binary(images(), outputs=[{"name": "logits", "parameters": {"classification": 2}}])
