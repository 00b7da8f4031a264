from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from math import prod

import pytest
from region_attention_cases import Case, cases_of

from debiexport.errors import UsageError
from debiexport.plugins.region_attention.sizes import CONFIGURATIONS, MAX_SHARED_MEMORY_BYTES, Sizes

OneLine = Callable[[BaseException], str]
Q, K, ROUTES = (2, 14, 21, 64), (2, 28, 7, 64), (2, 49, 3)


def test_sizes_of_shapes() -> None:
    sizes = Sizes.of(Q, K, K, ROUTES, heads=4, regions=7, dtype="fp16")
    assert sizes == Sizes(2, (14, 21), (28, 7), 4, 16, 7, 3, "fp16")
    assert (sizes.query_tile, sizes.key_tile) == ((2, 3), (4, 1))
    assert sizes.refusal is None
    assert sizes.blocks == (16, 16)  # of 6 queries and 12 keys: a matrix product has 16 at least
    assert sizes.grid == (49, 4, 2)
    assert sizes.pointers == ("*fp16", "*fp16", "*fp16", "*i32", "*fp16")
    assert sizes.constants() == {
        "HEADS": 4,
        "HEAD_WIDTH": 16,
        "REGIONS": 7,
        "TOP_K": 3,
        "QUERY_HEIGHT": 2,
        "QUERY_WIDTH": 3,
        "KEY_HEIGHT": 4,
        "KEY_WIDTH": 1,
        "BLOCK_QUERIES": 16,
        "BLOCK_KEYS": 16,
    }


def test_the_batch_is_in_the_grid_alone() -> None:
    one, many = (Case(n, 3, 32, 7, (56, 56), (56, 56), 1).sizes("fp16") for n in (1, 32))
    assert one.constants() == many.constants()
    assert (one.grid, many.grid) == ((49, 3, 1), (49, 3, 32))


@pytest.mark.parametrize(
    ("shapes", "heads", "regions", "dtype", "words"),
    [
        ((Q[1:], K, K, ROUTES), 4, 7, "fp16", "three maps (N, H, W, C)"),
        ((Q, K, K, ROUTES[1:]), 4, 7, "fp16", "routes (N, S*S, topk)"),
        ((Q, K, (2, 28, 14, 64), ROUTES), 4, 7, "fp16", "k shaped as v"),
        ((Q, (1, *K[1:]), (1, *K[1:]), ROUTES), 4, 7, "fp16", "as many images"),
        ((Q, K, K, (1, 49, 3)), 4, 7, "fp16", "as many images"),
        (((2, 14, 21, 32), K, K, ROUTES), 4, 7, "fp16", "channels"),
        ((Q, K, K, ROUTES), 3, 7, "fp16", "64 channels in 3 heads"),
        ((Q, K, K, ROUTES), 0, 7, "fp16", "64 channels in 0 heads"),
        ((Q, K, K, (2, 36, 3)), 4, 6, "fp16", "with 6 regions a side: pad the maps"),
        ((Q, K, K, ROUTES), 4, 0, "fp16", "with 0 regions a side"),
        ((Q, K, K, (2, 48, 3)), 4, 7, "fp16", "(N, 49, 1 to 49)"),
        ((Q, K, K, (2, 49, 50)), 4, 7, "fp16", "routes (2, 49, 50)"),
        ((Q, K, K, (2, 49, 0)), 4, 7, "fp16", "routes (2, 49, 0)"),
        ((Q, K, K, ROUTES), 4, 7, "bf16", "of bf16: give fp16 or fp32"),
    ],
)
def test_shapes_that_do_not_fit(
    shapes: tuple[tuple[int, ...], ...], heads: int, regions: int, dtype: str, words: str, one_line: OneLine
) -> None:
    with pytest.raises(UsageError) as error:
        Sizes.of(*shapes, heads=heads, regions=regions, dtype=dtype)
    assert words in one_line(error.value)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case(1, 2, 24, 2, (4, 4), (4, 4), 1), "24 channels wide: the kernel takes 16, 32, 64, 128"),
        (Case(1, 1, 256, 2, (4, 4), (4, 4), 1), "256 channels wide"),
        (Case(1, 1, 128, 2, (4, 4), (4096, 4096), 1), "a map has 2147483648 numbers an image"),
        (Case(65536, 1, 32, 2, (4, 4), (4, 4), 1), "65536 images of 1 heads"),
    ],
)
def test_what_the_kernel_does_not_cover(case: Case, words: str) -> None:
    refusal = case.sizes("fp32").refusal
    assert refusal is not None
    assert words in refusal


def test_the_largest_map_is_covered() -> None:
    assert Case(1, 1, 128, 2, (4, 4), (4096, 4094), 1).sizes("fp32").refusal is None
    assert Case(65535, 1, 32, 2, (4, 4), (4, 4), 1).sizes("fp32").refusal is None


@pytest.mark.parametrize("index", [-1, len(CONFIGURATIONS)])
def test_no_such_configuration(index: int, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as error:
        Case(1, 1, 32, 2, (4, 4), (4, 4), 1).sizes("fp16").with_configuration(index)
    assert f"no configuration {index}: give 0 to {len(CONFIGURATIONS) - 1}" in one_line(error.value)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("configuration", range(len(CONFIGURATIONS)))
@pytest.mark.parametrize("head_width", [16, 32, 64, 128])
def test_launches(dtype: str, configuration: int, head_width: int) -> None:
    cases = [case for card in ("debi_t", "debi_b") for case in cases_of(card)]
    cases += [case for card in ("debi_t_det", "debi_b_det", "debi_b_seg") for case in cases_of(card, (800, 1344))]
    for case in cases:
        wide = Case(case.batch, case.heads, head_width, *list(vars(case).values())[3:])
        sizes = wide.sizes(dtype).with_configuration(configuration)
        queries, keys = sizes.blocks
        assert queries & (queries - 1) == 0 and keys & (keys - 1) == 0
        assert (queries == 1) == (prod(sizes.query_tile) == 1)
        assert queries == 1 or queries >= 16
        assert keys >= 16
        assert 0 < sizes.shared_memory_bytes < MAX_SHARED_MEMORY_BYTES
        assert sizes.warps in (1, 2, 4, 8)
        programs, heads, images = sizes.grid
        assert programs % sizes.regions**2 == 0
        assert programs // sizes.regions**2 * queries >= prod(sizes.query_tile)
        assert (heads, images) == (case.heads, case.batch)


def test_sizes_need_neither_torch_nor_triton() -> None:
    program = "import sys, json, debiexport.plugins.region_attention.sizes; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "triton", "onnx", "numpy"} & set(json.loads(done.stdout))
