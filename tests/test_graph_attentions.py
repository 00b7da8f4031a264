"""Which products of a graph make up an attention."""

from __future__ import annotations

import onnx
import pytest
import rtx_models as models
from onnx import NodeProto
from rtx_models import F16, F32, node

from debiexport.graph.attentions import attention_products

SHAPE = (1, 2, 16, 16)


def found(*nodes: NodeProto) -> list[tuple[str, str]]:
    inputs = dict.fromkeys(("q", "k", "v", "b", "m"), (F32, SHAPE))
    return list(attention_products(models.model(list(nodes), inputs, {"o": (F32, SHAPE)})))


SCORES, VALUES = node("MatMul", "q k", "s", name="scores"), node("MatMul", "p v", "o", name="values")


def test_a_bare_attention() -> None:
    assert found(SCORES, node("Softmax", "s", "p"), VALUES) == [("scores", "values")]


def test_casts_between() -> None:
    assert list(attention_products(models.attention())) == [("scores", "values")]


@pytest.mark.parametrize(
    "between",
    [
        [node("Add", "s b", "t")],
        [node("Add", "b s", "t")],  # the bias first: it is made by nothing
        [node("Mul", "s m", "s1"), node("Add", "s1 b", "t")],
        [node("Cast", "s", "s1", to=F16), node("Identity", "s1", "s2"), node("Cast", "s2", "t", to=F32)],
        [node("Reshape", "s shape", "s1"), node("Transpose", "s1", "t")],
    ],
)
def test_what_may_stand_between(between: list[NodeProto]) -> None:
    assert found(SCORES, *between, node("Softmax", "t", "p"), VALUES) == [("scores", "values")]
    behind = [node("Softmax", "s", "w"), node("Cast", "w", "w1", to=F16), node("Reshape", "w1 shape", "p")]
    assert found(SCORES, *behind, VALUES) == [("scores", "values")]


def test_a_bias_that_is_a_product_is_not_the_scores() -> None:
    """The first operand of a sum leads back."""
    bias = node("MatMul", "b m", "x", name="bias")
    nodes = [bias, SCORES, node("Add", "s x", "t"), node("Softmax", "t", "p"), VALUES]
    assert found(*nodes) == [("scores", "values")]


def test_several_in_the_order_of_the_graph() -> None:
    again = [node("MatMul", "o k", "s2", name="more"), node("Softmax", "s2", "p2", name="softmax2")]
    nodes = [SCORES, node("Softmax", "s", "p"), VALUES, *again, node("MatMul", "p2 v", "o2", name="most")]
    assert found(*nodes) == [("scores", "values"), ("more", "most")]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Softmax", "q", "p"), VALUES],  # a softmax of an input
        [SCORES, node("Softmax", "s", "o")],  # which weighs nothing
        [SCORES, node("Relu", "s", "t"), node("Softmax", "t", "p"), VALUES],
        [SCORES, node("Softmax", "s", "w"), node("Relu", "w", "p"), VALUES],
        [SCORES, node("Relu", "s", "p"), VALUES],  # no softmax
        [],
    ],
)
def test_what_is_no_attention(nodes: list[NodeProto]) -> None:
    assert found(*nodes) == []


def test_a_model_is_not_changed() -> None:
    model = models.attention()
    before = onnx.ModelProto()
    before.CopyFrom(model)
    list(attention_products(model))
    assert model == before
