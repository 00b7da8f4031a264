"""The kernel of region attention: one program per block of a tile's queries, head and image.

The keys of a query tile are one list of TOP_K * (tokens of a key tile) entries, visited in blocks: entry j is token
j % tokens of region routes[j // tokens], read where it lies in the map. So small tiles share a block, keys and values
are never copied, and a row of channels (32 to 512 contiguous bytes) is what is loaded at a time.

Scores, softmax and accumulation are float32. The routes are trusted: they are a top-k's indices, below the number of
regions, and are not compared with it.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (a parameter without an annotation is a pointer or a block, which Python has no type for)

from __future__ import annotations

import triton
import triton.language as tl

_LOWEST: tl.constexpr = tl.constexpr(-3.4028234663852886e38)  # of float32


@triton.jit
def region_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    routes_ptr,
    out_ptr,
    HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    REGIONS: tl.constexpr,
    TOP_K: tl.constexpr,
    QUERY_HEIGHT: tl.constexpr,
    QUERY_WIDTH: tl.constexpr,
    KEY_HEIGHT: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """out = softmax(q k^T) v of a block of queries, with the keys and values of the regions routed to.

    Launched on the grid (regions * blocks of a query tile, heads, images); `Sizes` has it, and the constants: S
    regions a side, (height, width) of a query tile and of a key tile in tokens.

    Args:
        q_ptr: (N, S * QUERY_HEIGHT, S * QUERY_WIDTH, HEADS * HEAD_WIDTH), scaled beforehand.
        k_ptr, v_ptr: (N, S * KEY_HEIGHT, S * KEY_WIDTH, HEADS * HEAD_WIDTH), of q's type: float32 or float16.
        routes_ptr: (N, S * S, TOP_K) int32.
        out_ptr: like q.
    """
    CHANNELS: tl.constexpr = HEADS * HEAD_WIDTH
    QUERIES: tl.constexpr = QUERY_HEIGHT * QUERY_WIDTH  # of a tile
    KEYS: tl.constexpr = KEY_HEIGHT * KEY_WIDTH
    BLOCKS: tl.constexpr = (QUERIES + BLOCK_QUERIES - 1) // BLOCK_QUERIES
    region = tl.program_id(0) // BLOCKS
    first_query = tl.program_id(0) % BLOCKS * BLOCK_QUERIES
    first_channel = tl.program_id(1) * HEAD_WIDTH
    # Offsets within an image fit 32 bits (`Sizes` sees to it); those of the images need 64.
    image = tl.program_id(2).to(tl.int64)
    query_map = image * (REGIONS * REGIONS * QUERIES * CHANNELS) + first_channel
    key_map = image * (REGIONS * REGIONS * KEYS * CHANNELS) + first_channel
    k_ptr += key_map
    v_ptr += key_map
    routes_ptr += (image * (REGIONS * REGIONS) + region) * TOP_K

    channels = tl.arange(0, HEAD_WIDTH)
    queries = first_query + tl.arange(0, BLOCK_QUERIES)
    rows = _tokens(region, queries, REGIONS, QUERY_HEIGHT, QUERY_WIDTH)
    at = rows[:, None] * CHANNELS + channels[None, :]
    exists = (queries < QUERIES)[:, None]
    q = tl.load(q_ptr + query_map + at, mask=exists, other=0.0)
    if BLOCK_QUERIES == 1:
        out = _attend_one(
            q, k_ptr, v_ptr, routes_ptr, channels, CHANNELS, REGIONS, TOP_K, KEY_HEIGHT, KEY_WIDTH, BLOCK_KEYS
        )
    else:
        out = _attend(
            q, k_ptr, v_ptr, routes_ptr, channels, CHANNELS, REGIONS, TOP_K, KEY_HEIGHT, KEY_WIDTH, BLOCK_KEYS
        )
    tl.store(out_ptr + query_map + at, out.to(out_ptr.dtype.element_ty), mask=exists)


@triton.jit
def _attend(
    q,
    k_ptr,
    v_ptr,
    routes_ptr,
    channels,
    CHANNELS: tl.constexpr,
    REGIONS: tl.constexpr,
    TOP_K: tl.constexpr,
    KEY_HEIGHT: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """Several queries (BLOCK_QUERIES, d): both products are matrix products, the softmax is kept up block by block."""
    KEYS: tl.constexpr = TOP_K * KEY_HEIGHT * KEY_WIDTH
    highest = tl.full([q.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([q.shape[0]], tl.float32)
    out = tl.zeros(q.shape, tl.float32)
    for first in tl.range(0, KEYS, BLOCK_KEYS):
        keys = first + tl.arange(0, BLOCK_KEYS)
        exists = keys < KEYS
        rows = _routed_tokens(routes_ptr, keys, exists, REGIONS, KEY_HEIGHT, KEY_WIDTH)
        at = rows[:, None] * CHANNELS + channels[None, :]
        k = tl.load(k_ptr + at, mask=exists[:, None], other=0.0)
        v = tl.load(v_ptr + at, mask=exists[:, None], other=0.0)  # on its way while the scores are computed
        # float32 stays float32: TF32, the default, keeps 10 bits of the fraction.
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(exists[None, :], scores, float("-inf"))
        # Every block has a key, so the highest score is a number from the first block on.
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - new_highest[:, None])
        fade = tl.exp(highest - new_highest)
        total = total * fade + tl.sum(weights, 1)
        out = tl.dot(weights.to(v.dtype), v, acc=out * fade[:, None], input_precision="ieee")
        highest = new_highest
    return out / total[:, None]


@triton.jit
def _attend_one(
    q,
    k_ptr,
    v_ptr,
    routes_ptr,
    channels,
    CHANNELS: tl.constexpr,
    REGIONS: tl.constexpr,
    TOP_K: tl.constexpr,
    KEY_HEIGHT: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """One query (1, d), an agent alone in its tile: products of vectors, bound by the bytes of keys and values.

    A matrix product takes 16 queries, 15 of them padding, and its operands from shared memory. Here a number of K or V
    is loaded into the register where it is used, once, and a multiply-add for each hides behind the loads. Each
    place of the block keeps a softmax of its own, so that nothing passes between warps before the end, where the
    places become one.
    """
    KEYS: tl.constexpr = TOP_K * KEY_HEIGHT * KEY_WIDTH
    q = q.to(tl.float32)
    # A number, not -inf: a place that no key ever takes would else compute inf - inf.
    highest = tl.full([BLOCK_KEYS], _LOWEST, tl.float32)
    total = tl.zeros([BLOCK_KEYS], tl.float32)
    out = tl.zeros([BLOCK_KEYS, q.shape[1]], tl.float32)
    for first in tl.range(0, KEYS, BLOCK_KEYS):
        keys = first + tl.arange(0, BLOCK_KEYS)
        exists = keys < KEYS
        rows = _routed_tokens(routes_ptr, keys, exists, REGIONS, KEY_HEIGHT, KEY_WIDTH)
        at = rows[:, None] * CHANNELS + channels[None, :]
        k = tl.load(k_ptr + at, mask=exists[:, None], other=0.0)
        v = tl.load(v_ptr + at, mask=exists[:, None], other=0.0)
        scores = tl.where(exists, tl.sum(q * k.to(tl.float32), 1), float("-inf"))
        new_highest = tl.maximum(highest, scores)
        weights = tl.exp(scores - new_highest)
        fade = tl.exp(highest - new_highest)
        total = total * fade + weights
        out = out * fade[:, None] + weights[:, None] * v.to(tl.float32)
        highest = new_highest
    share = tl.exp(highest - tl.max(highest, 0))
    return (tl.sum(out * share[:, None], 0) / tl.sum(total * share, 0))[None, :]


@triton.jit
def _routed_tokens(routes_ptr, keys, exists, REGIONS: tl.constexpr, KEY_HEIGHT: tl.constexpr, KEY_WIDTH: tl.constexpr):
    """Where entries of the list of keys lie in the map, in tokens."""
    KEYS: tl.constexpr = KEY_HEIGHT * KEY_WIDTH
    regions = tl.load(routes_ptr + keys // KEYS, mask=exists, other=0)
    return _tokens(regions, keys % KEYS, REGIONS, KEY_HEIGHT, KEY_WIDTH)


@triton.jit
def _tokens(regions, tokens, REGIONS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Where tokens of regions, tiles of (HEIGHT, WIDTH), lie in the map, in tokens."""
    rows = regions // REGIONS * HEIGHT + tokens // WIDTH
    columns = regions % REGIONS * WIDTH + tokens % WIDTH
    return rows * (REGIONS * WIDTH) + columns
