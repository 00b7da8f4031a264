"""Agent attention as an operator of torch, `debiexport::agent_attention`: importing this module registers it."""

from __future__ import annotations

import torch
from torch import Tensor

from debiexport.errors import UsageError

from .sizes import Sizes

_DTYPES = {torch.float32: "fp32", torch.float16: "fp16"}
_WIDE = torch.float64  # on a CPU, where there is no kernel: to compare with float32


def agent_attention(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor, heads: int) -> Tensor:
    """Every token attends, per head, to all agents, with a position bias.

    The bias of a token at (y, x) against an agent at (Y, X), all in [-1, 1] from the first row or column to the last,
    is the bilinear sample of the head's table at ((y - Y) / 2, (x - X) / 2), on the same scale. Bias, scores, softmax
    and accumulation are float32 (float64 of float64). On a GPU it is one kernel, elsewhere plain torch.

    Args:
        q: tokens (N, H, W, C), float32 or float16, scaled beforehand; on a CPU float64 as well, then positions and
            table too.
        k, v: maps (N, Hk, Wk, C) of n = Hk*Wk agents, of q's type.
        positions: of the agents (N, G, n, 2), float32, x before y; head m has those of group m // (M/G).
        table: (M, 2q-1, 2q-1), float32, y before x.
        heads: M, contiguous slices of C.

    Returns:
        (N, H, W, C), of q's type.

    Raises:
        UsageError: shapes or types do not fit, or the kernel does not cover them.
    """
    out: Tensor = _operator(q, k, v, positions, table, heads)
    return out


@torch.library.custom_op("debiexport::agent_attention", mutates_args=(), device_types="cpu")
def _operator(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor, heads: int) -> Tensor:
    sizes = _sizes(q, k, v, positions, table, heads)
    queries, keys, values = (
        x.to(table.dtype).reshape(sizes.batch, -1, heads, sizes.head_width).transpose(1, 2) for x in (q, k, v)
    )  # (N, M, H*W or n, d)
    scores = queries @ keys.transpose(-2, -1) + _bias(positions, table, sizes)  # (N, M, H*W, n)
    return (scores.softmax(-1) @ values).transpose(1, 2).reshape(q.shape).to(q.dtype)


@_operator.register_fake
def _shaped(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor, heads: int) -> Tensor:
    _sizes(q, k, v, positions, table, heads)
    return q.new_empty(q.shape)


@_operator.register_kernel("cuda")
def _launch(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor, heads: int) -> Tensor:
    from .kernel import agent_attention_kernel

    sizes = _sizes(q, k, v, positions, table, heads)
    refusal = "there is no kernel for float64" if q.dtype == _WIDE else sizes.refusal
    if refusal is not None:
        raise UsageError(f"agent attention: {refusal}; compute it on the CPU, or with a lowering without kernels")
    q, k, v, positions, table = (x.contiguous() for x in (q, k, v, positions, table))
    out = torch.empty_like(q)
    with torch.cuda.device(q.device):
        agent_attention_kernel[sizes.grid](
            q, k, v, positions, table, out, **sizes.constants(), num_warps=sizes.warps, num_stages=sizes.stages
        )
    return out


def _sizes(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor, heads: int) -> Sizes:
    inputs = (q, k, v, positions, table)
    dtypes = [x.dtype for x in inputs]
    wide = _WIDE if q.dtype == _WIDE else torch.float32
    if q.dtype not in (*_DTYPES, _WIDE) or dtypes != [q.dtype] * 3 + [wide] * 2:
        given = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise UsageError(
            f"agent attention of {given}: give q, k, v in one of float32 and float16, positions and table in float32"
        )
    return Sizes.of(*(x.shape for x in inputs), heads=heads, dtype=_DTYPES.get(q.dtype, "fp32"))


def _bias(positions: Tensor, table: Tensor, sizes: Sizes) -> Tensor:
    """The position bias (N, M, H*W, n): two products a head, since bilinear weights are separable in y and x."""
    n, g, agents = positions.shape[:3]
    x, y = positions.unbind(-1)
    height, width = sizes.token_size
    rows = _weights(y, height, sizes.table_side).unsqueeze(2)  # (N, G, 1, n, H, 2q-1)
    columns = _weights(x, width, sizes.table_side).unsqueeze(2)
    tables = table.reshape(g, -1, 1, *table.shape[1:])  # (G, M/G, 1, 2q-1, 2q-1)
    bias = rows @ tables @ columns.transpose(-2, -1)  # (N, G, M/G, n, H, W)
    return bias.reshape(n, sizes.heads, agents, height * width).transpose(-2, -1)


def _weights(p: Tensor, tokens: int, table_side: int) -> Tensor:
    """Positions (N, G, n) on one axis -> weights (N, G, n, tokens, 2q-1) of a table's entries.

    Displacements are counted in entries, from the middle of the table.
    """
    middle = table_side - 1
    entries = torch.arange(-middle, middle + 1, dtype=p.dtype, device=p.device)
    places = torch.arange(tokens, dtype=torch.float64, device=p.device) * (middle / (tokens - 1)) - middle / 2
    displacements = places.to(p.dtype) - (p * (middle / 2)).unsqueeze(-1)
    return torch.relu(1 - (displacements.unsqueeze(-1) - entries).abs())
