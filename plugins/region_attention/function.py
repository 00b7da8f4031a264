"""What a RegionAttention node computes, as a function inside the model, for runtimes that have no kernel for it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from debiexport.errors import UsageError

from ..body import DOMAIN, OPSETS, Body

NAME = "RegionAttention"


def definition(opset: int) -> onnx.FunctionProto:
    """The function (q, k, v, routes; heads, regions) -> out, for float32 and float16 alike.

    Scores and softmax are float32, as in the kernel. An attribute `aot`, by which a node asks TensorRT for the plugin,
    says nothing here.

    Args:
        opset: of the model.

    Raises:
        UsageError: the operations inside are not those of the opset.
    """
    if opset not in OPSETS:
        raise UsageError(f"no definition of {NAME} for opset {opset}: give {OPSETS[0]} to {OPSETS[-1]}")
    b = Body()
    side = b.op("side", "Unsqueeze", b.attribute("regions"), b.ints(0))
    heads = b.op("head_count", "Unsqueeze", b.attribute("heads"), b.ints(0))
    # As Reshape reads them: what is left, and axes that stay as they are.
    rest, same2, same3 = b.ints(-1), b.ints(0, 0), b.ints(0, 0, 0)

    def tile(x: str) -> tuple[str, str]:  # (h, w) of a region
        return b.op(f"{x}_tile1", "Div", b.size(x, 1), side), b.op(f"{x}_tile2", "Div", b.size(x, 2), side)

    def split(x: str) -> str:  # (N, H, W, C) -> (N, S*S, h*w, C)
        high, wide = tile(x)
        sizes = b.op(f"{x}_tiled_size", "Concat", b.size(x, 0), side, high, side, wide, b.size(x, 3), axis=0)
        tiled = b.op(f"{x}_tiled", "Reshape", x, sizes)
        ordered = b.op(f"{x}_ordered", "Transpose", tiled, perm=[0, 1, 3, 2, 4, 5])  # (N, S, S, h, w, C)
        sizes = b.op(f"{x}_regions_size", "Concat", b.size(x, 0), region_count, rest, b.size(x, 3), axis=0)
        return b.op(f"{x}_regions", "Reshape", ordered, sizes)

    region_count = b.op("region_count", "Mul", side, side)
    width = b.op("head_width", "Div", b.size("q", 3), heads)
    indices = b.op("wide_routes", "Cast", "routes", to=TensorProto.INT64)
    indices = b.op("indices", "Unsqueeze", indices, rest)  # (N, S*S, topk, 1)

    def routed(x: str) -> str:  # (N, H, W, C) -> (N, S*S, topk*h*w, M, d)
        gathered = b.op(f"{x}_gathered", "GatherND", split(x), indices, batch_dims=1)  # (N, S*S, topk, h*w, C)
        return b.op(f"{x}_heads", "Reshape", gathered, b.op("key_sizes", "Concat", same2, rest, heads, width, axis=0))

    queries = b.op("q_heads", "Reshape", split("q"), b.op("query_sizes", "Concat", same3, heads, width, axis=0))
    queries = b.op("queries", "Transpose", queries, perm=[0, 1, 3, 2, 4])  # (N, S*S, M, queries, d)
    keys = b.op("keys", "Transpose", routed("k"), perm=[0, 1, 3, 4, 2])  # (N, S*S, M, d, keys)
    values = b.op("values", "Transpose", routed("v"), perm=[0, 1, 3, 2, 4])  # (N, S*S, M, keys, d)

    queries, keys = (b.op(f"wide_{x}", "Cast", x, to=TensorProto.FLOAT) for x in (queries, keys))
    scores = b.op("scores", "MatMul", queries, keys)
    weights = b.op("weights", "CastLike", b.op("wide_weights", "Softmax", scores, axis=-1), "q")
    attended = b.op("attended", "MatMul", weights, values)

    tokens = b.op("tokens", "Transpose", attended, perm=[0, 1, 3, 2, 4])  # (N, S*S, queries, M, d)
    sizes = b.op("out_ordered_size", "Concat", b.size("q", 0), side, side, *tile("q"), b.size("q", 3), axis=0)
    ordered = b.op("out_ordered", "Reshape", tokens, sizes)  # (N, S, S, h, w, C)
    tiled = b.op("out_tiled", "Transpose", ordered, perm=[0, 1, 3, 2, 4, 5])
    b.op("out", "Reshape", tiled, b.op("out_size", "Shape", "q"))
    return helper.make_function(
        DOMAIN,
        NAME,
        ["q", "k", "v", "routes"],
        ["out"],
        b.nodes,
        [helper.make_opsetid("", opset)],
        attributes=["heads", "regions"],
        attribute_protos=[helper.make_attribute("aot", 0)],
    )
