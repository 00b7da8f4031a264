"""The kernel of agent attention: one program per block of tokens, head and image.

Agents are visited in blocks. The position bias of a block is computed where it is needed, from the agents' positions
and the head's table: neither a grid of displacements nor the bias is ever in memory. Coordinates, bias, scores,
softmax and accumulation are float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (a parameter without an annotation is a pointer or a block, which Python has no type for)

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_INTEGERS: tl.constexpr = tl.constexpr(8388608)  # 2**23, from where on the numbers of float32 are integers


@triton.jit
def agent_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    positions_ptr,
    table_ptr,
    out_ptr,
    HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    AGENTS: tl.constexpr,
    TABLE_SIDE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_AGENTS: tl.constexpr,
):
    """out = softmax(q k^T + bias) v of a block of tokens, with the keys and values of all agents.

    Launched on the grid (blocks of tokens, heads, images); `Sizes` has it, and the constants.

    Args:
        q_ptr: (N, HEIGHT, WIDTH, HEADS * HEAD_WIDTH), scaled beforehand.
        k_ptr, v_ptr: (N, AGENTS, HEADS * HEAD_WIDTH), of q's type: float32 or float16.
        positions_ptr: (N, GROUPS, AGENTS, 2) float32, x before y, in [-1, 1].
        table_ptr: (HEADS, 2 * TABLE_SIDE - 1, 2 * TABLE_SIDE - 1) float32, y before x.
        out_ptr: like q.
    """
    CHANNELS: tl.constexpr = HEADS * HEAD_WIDTH
    TOKENS: tl.constexpr = HEIGHT * WIDTH
    MIDDLE: tl.constexpr = TABLE_SIDE - 1  # of the table: a displacement of 0
    SIDE: tl.constexpr = 2 * TABLE_SIDE - 1
    # Entries of the table from one token to the next, and from an agent in the middle to one at the end.
    ROW_STEP: tl.constexpr = MIDDLE / (HEIGHT - 1)
    COLUMN_STEP: tl.constexpr = MIDDLE / (WIDTH - 1)
    REACH: tl.constexpr = MIDDLE / 2
    head = tl.program_id(1)
    group = head // (HEADS // GROUPS)
    # Offsets within an image fit 32 bits (`Sizes` sees to it); those of the images need 64.
    image = tl.program_id(2).to(tl.int64)
    token_map = image * (TOKENS * CHANNELS) + head * HEAD_WIDTH
    agent_map = image * (AGENTS * CHANNELS) + head * HEAD_WIDTH
    k_ptr += agent_map
    v_ptr += agent_map
    positions_ptr += (image * GROUPS + group) * (AGENTS * 2)
    table_ptr += head * (SIDE * SIDE)

    channels = tl.arange(0, HEAD_WIDTH)
    tokens = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = (tokens // WIDTH).to(tl.float32) * ROW_STEP - REACH
    columns = (tokens % WIDTH).to(tl.float32) * COLUMN_STEP - REACH
    at_tokens = tokens[:, None] * CHANNELS + channels[None, :]
    is_token = (tokens < TOKENS)[:, None]
    q = tl.load(q_ptr + token_map + at_tokens, mask=is_token, other=0.0)

    highest = tl.full([BLOCK_TOKENS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_TOKENS], tl.float32)
    out = tl.zeros([BLOCK_TOKENS, HEAD_WIDTH], tl.float32)
    for first in tl.range(0, AGENTS, BLOCK_AGENTS):
        agents = first + tl.arange(0, BLOCK_AGENTS)
        is_agent = agents < AGENTS
        x = tl.load(positions_ptr + agents * 2, mask=is_agent, other=0.0)
        y = tl.load(positions_ptr + agents * 2 + 1, mask=is_agent, other=0.0)
        at_agents = agents[:, None] * CHANNELS + channels[None, :]
        k = tl.load(k_ptr + at_agents, mask=is_agent[:, None], other=0.0)
        # Tokens on the last axis: the threads of a warp read neighbouring tokens of one agent, whose entries of
        # the table are neighbours too.
        bias = _sample(
            table_ptr,
            rows[None, :] - (y * REACH)[:, None],
            columns[None, :] - (x * REACH)[:, None],
            MIDDLE,
        )
        # float32 stays float32: TF32, the default, keeps 10 bits of the fraction.
        scores = tl.dot(q, tl.trans(k), acc=tl.trans(bias), input_precision="ieee")
        # exp2 is one instruction, exp four.
        scores = tl.where(is_agent[None, :], scores * _LOG2_E, float("-inf"))
        # Every block has an agent, so the highest score is a number from the first block on.
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - new_highest[:, None])
        fade = tl.exp2(highest - new_highest)
        total = total * fade + tl.sum(weights, 1)
        v = tl.load(v_ptr + at_agents, mask=is_agent[:, None], other=0.0)
        out = tl.dot(weights.to(v.dtype), v, acc=out * fade[:, None], input_precision="ieee")
        highest = new_highest
    out = out / total[:, None]
    tl.store(out_ptr + token_map + at_tokens, out.to(out_ptr.dtype.element_ty), mask=is_token)


@triton.jit
def _sample(table_ptr, y, x, MIDDLE: tl.constexpr):
    """Bilinear samples of a table at displacements y and x in entries, from -MIDDLE to MIDDLE up to rounding."""
    SIDE: tl.constexpr = 2 * MIDDLE + 1
    above, row = _entry_before(y, MIDDLE)
    left, column = _entry_before(x, MIDDLE)
    corner = table_ptr + row * SIDE + column
    first, second = tl.load(corner), tl.load(corner + 1)
    third, fourth = tl.load(corner + SIDE), tl.load(corner + (SIDE + 1))
    upper = first + (second - first) * (x - left)
    lower = third + (fourth - third) * (x - left)
    return upper + (lower - upper) * (y - above)


@triton.jit
def _entry_before(t, MIDDLE: tl.constexpr):
    """The last entry at or before displacements t that has another one after it: its displacement and its index.

    Where t lies on an entry it may be the one before that, which interpolates to the same value. The index is inside
    of the table for any t, NaN and infinities included.
    """
    # One addition rounds to an integer, which the last bits then hold; instructions that convert run at an eighth
    # of its rate or less.
    ZERO: tl.constexpr = _INTEGERS + MIDDLE
    shifted = tl.minimum(tl.maximum(t - 0.5, -MIDDLE), MIDDLE - 1) + ZERO
    return shifted - ZERO, shifted.to(tl.int32, bitcast=True) & (_INTEGERS - 1)
