"""What an AgentAttention node computes, as a function inside the model, for runtimes that have no kernel for it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from debiexport.errors import UsageError

from ..body import DOMAIN, OPSETS, Body

NAME = "AgentAttention"


def definition(opset: int) -> onnx.FunctionProto:
    """The function (q, k, v, positions, table; heads) -> out, for float32 and float16 alike.

    Bias, scores and softmax are float32. The bias is two products a head, as bilinear weights are separable in y and
    x: no operation that samples is needed, whose modes and corners runtimes read differently. An attribute `aot`, by
    which a node asks TensorRT for the plugin, says nothing here.

    Args:
        opset: of the model.

    Raises:
        UsageError: the operations inside are not those of the opset.
    """
    if opset not in OPSETS:
        raise UsageError(f"no definition of {NAME} for opset {opset}: give {OPSETS[0]} to {OPSETS[-1]}")
    b = Body()
    heads = b.op("head_count", "Unsqueeze", b.attribute("heads"), b.ints(0))
    tokens = b.op("token_count", "Mul", b.size("q", 1), b.size("q", 2))
    agents = b.size("positions", 2)

    def split(x: str, count: str, perm: list[int]) -> str:  # (N, H, W, C) -> (N, M, H*W, d) permuted
        sizes = b.op(f"{x}_heads_size", "Concat", b.ints(0), count, heads, b.ints(-1), axis=0)
        return b.op(f"{x}_heads", "Transpose", b.op(f"{x}_rows", "Reshape", x, sizes), perm=perm)

    queries = b.op("wide_q", "Cast", split("q", tokens, [0, 2, 1, 3]), to=TensorProto.FLOAT)
    keys = b.op("wide_k", "Cast", split("k", agents, [0, 2, 3, 1]), to=TensorProto.FLOAT)
    scores = b.op("scores", "Add", b.op("products", "MatMul", queries, keys), _bias(b, heads))  # (N, M, H*W, n)
    weights = b.op("weights", "CastLike", b.op("wide_weights", "Softmax", scores, axis=-1), "q")
    attended = b.op("attended", "MatMul", weights, split("v", agents, [0, 2, 1, 3]))  # (N, M, H*W, d)
    joined = b.op("joined", "Transpose", attended, perm=[0, 2, 1, 3])
    b.op("out", "Reshape", joined, b.op("out_size", "Shape", "q"))
    return helper.make_function(
        DOMAIN,
        NAME,
        ["q", "k", "v", "positions", "table"],
        ["out"],
        b.nodes,
        [helper.make_opsetid("", opset)],
        attributes=["heads"],
        attribute_protos=[helper.make_attribute("aot", 0)],
    )


def _bias(b: Body, heads: str) -> str:
    """The position bias (N, M, H*W, n).

    Displacements are counted in entries of the table, from its middle: a token at i (q-1)/(H-1) - (q-1)/2, less an
    agent at p (q-1)/2. Entry u weighs relu(1 - |displacement - u|).
    """
    side = b.size("table", 1)  # 2q-1
    reach = b.op("reach", "Div", b.op("last_entry", "Sub", b.real(side), b.floats(1)), b.floats(4))  # (q-1)/2
    middle = b.op("middle", "Mul", reach, b.floats(2))
    entries = b.op("entries", "Sub", b.range(side), middle)  # (2q-1,)
    places = b.op("places", "Mul", "positions", reach)

    def weights(axis: str, coordinate: int, length: str) -> str:  # (N, G, 1, n, tokens, 2q-1)
        last = b.op(f"{axis}_last", "Sub", b.real(length), b.floats(1))
        tokens = b.op(f"{axis}_tokens", "Div", b.op(f"{axis}_multiples", "Mul", b.range(length), middle), last)
        centred = b.op(f"{axis}_centred", "Sub", tokens, reach)
        place = b.op(f"{axis}_places", "Gather", places, b.ints(coordinate), axis=-1)  # (N, G, n, 1)
        displacement = b.op(f"{axis}_displacements", "Sub", centred, place)  # (N, G, n, tokens)
        displacement = b.op(f"{axis}_by_entry", "Unsqueeze", displacement, b.ints(2, -1))
        distance = b.op(f"{axis}_distance", "Abs", b.op(f"{axis}_signed", "Sub", displacement, entries))
        return b.op(f"{axis}_weights", "Relu", b.op(f"{axis}_nearness", "Sub", b.floats(1), distance))

    height, width = b.size("q", 1), b.size("q", 2)
    rows = weights("y", 1, height)
    columns = b.op("columns", "Transpose", weights("x", 0, width), perm=[0, 1, 2, 3, 5, 4])
    grouped = b.op("table_size", "Concat", b.size("positions", 1), b.ints(-1), b.ints(1), side, side, axis=0)
    table = b.op("tables", "Reshape", "table", grouped)  # (G, M/G, 1, 2q-1, 2q-1)
    samples = b.op("samples", "MatMul", b.op("lines", "MatMul", rows, table), columns)  # (N, G, M/G, n, H, W)
    merged = b.op("bias_size", "Concat", b.ints(0), heads, b.size("positions", 2), b.ints(-1), axis=0)
    return b.op("bias", "Transpose", b.op("agent_bias", "Reshape", samples, merged), perm=[0, 1, 3, 2])
