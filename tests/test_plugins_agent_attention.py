from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod

import pytest
from agent_attention_cases import Case, cases_of

from debiexport.errors import UsageError
from debiexport.plugins.agent_attention.sizes import CONFIGURATIONS, MAX_SHARED_MEMORY_BYTES, Sizes

OneLine = Callable[[BaseException], str]
Shapes = tuple[tuple[int, ...], ...]
Q, K, POSITIONS, TABLE = (2, 14, 21, 64), (2, 3, 5, 64), (2, 2, 15, 2), (4, 27, 27)


def test_sizes_of_shapes() -> None:
    sizes = Sizes.of(Q, K, K, POSITIONS, TABLE, heads=4, dtype="fp16")
    assert sizes == Sizes(2, (14, 21), 15, 4, 16, 2, 14, "fp16")
    assert sizes.refusal is None
    assert sizes.blocks == (64, 16)
    assert sizes.warps == 4
    assert sizes.grid == (5, 4, 2)  # 294 tokens
    assert sizes.pointers == ("*fp16", "*fp16", "*fp16", "*fp32", "*fp32", "*fp16")
    assert sizes.constants() == {
        "HEADS": 4,
        "HEAD_WIDTH": 16,
        "GROUPS": 2,
        "HEIGHT": 14,
        "WIDTH": 21,
        "AGENTS": 15,
        "TABLE_SIDE": 14,
        "BLOCK_TOKENS": 64,
        "BLOCK_AGENTS": 16,
    }


def test_the_batch_is_in_the_grid_alone() -> None:
    one, many = (Case(n, 3, 32, 1, (56, 56), (7, 7), 56).sizes("fp16") for n in (1, 32))
    assert one.constants() == many.constants()
    assert (one.grid, many.grid) == ((49, 3, 1), (49, 3, 32))


@pytest.mark.parametrize(
    ("shapes", "heads", "dtype", "words"),
    [
        ((Q[1:], K, K, POSITIONS, TABLE), 4, "fp16", "three maps (N, H, W, C)"),
        ((Q, K, K, POSITIONS[1:], TABLE), 4, "fp16", "positions (N, G, n, 2)"),
        ((Q, K, K, POSITIONS, TABLE[1:]), 4, "fp16", "a table (M, 2q-1, 2q-1)"),
        ((Q, K, (2, 5, 3, 64), POSITIONS, TABLE), 4, "fp16", "k shaped as v"),
        ((Q, (1, *K[1:]), (1, *K[1:]), POSITIONS, TABLE), 4, "fp16", "as many images"),
        ((Q, K, K, (1, *POSITIONS[1:]), TABLE), 4, "fp16", "as many images"),
        (((2, 14, 21, 32), K, K, POSITIONS, TABLE), 4, "fp16", "channels"),
        (((2, 1, 21, 64), K, K, POSITIONS, TABLE), 4, "fp16", "2 tokens a side or more"),
        (((2, 14, 1, 64), K, K, POSITIONS, TABLE), 4, "fp16", "2 tokens a side or more"),
        ((Q, (2, 0, 5, 64), (2, 0, 5, 64), POSITIONS, TABLE), 4, "fp16", "and agents"),
        ((Q, K, K, POSITIONS, TABLE), 3, "fp16", "64 channels in 3 heads"),
        ((Q, K, K, POSITIONS, TABLE), 0, "fp16", "64 channels in 0 heads"),
        ((Q, K, K, (2, 2, 16, 2), TABLE), 4, "fp16", "for 15 agents and 4 heads, give (N, G, 15, 2)"),
        ((Q, K, K, (2, 2, 15, 3), TABLE), 4, "fp16", "positions (2, 2, 15, 3)"),
        ((Q, K, K, (2, 3, 15, 2), TABLE), 4, "fp16", "a G that divides the heads"),
        ((Q, K, K, (2, 0, 15, 2), TABLE), 4, "fp16", "a G that divides the heads"),
        ((Q, K, K, POSITIONS, (2, 27, 27)), 4, "fp16", "for 4 heads, give (4, 2q-1, 2q-1)"),
        ((Q, K, K, POSITIONS, (4, 27, 25)), 4, "fp16", "a table (4, 27, 25)"),
        ((Q, K, K, POSITIONS, (4, 26, 26)), 4, "fp16", "a table (4, 26, 26)"),
        ((Q, K, K, POSITIONS, (4, 1, 1)), 4, "fp16", "a q of 2 or more"),
        ((Q, K, K, POSITIONS, TABLE), 4, "bf16", "of bf16: give fp16 or fp32"),
    ],
)
def test_shapes_that_do_not_fit(shapes: Shapes, heads: int, dtype: str, words: str, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as error:
        Sizes.of(*shapes, heads=heads, dtype=dtype)
    assert words in one_line(error.value)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case(1, 2, 24, 1, (4, 4), (2, 2), 4), "24 channels wide: the kernel takes 16, 32, 64, 128"),
        (Case(1, 1, 256, 1, (4, 4), (2, 2), 4), "256 channels wide"),
        (Case(1, 1, 128, 1, (4096, 4096), (2, 2), 4), "a map has 2147483648 numbers an image"),
        (Case(1, 1, 128, 1, (4, 4), (4096, 4096), 4), "a map has 2147483648 numbers an image"),
        (Case(1, 128, 16, 1, (4, 4), (2, 2), 4096), f"the table has {128 * 8191**2} numbers"),
        (Case(65536, 1, 32, 1, (4, 4), (2, 2), 4), "65536 images of 1 heads"),
    ],
)
def test_what_the_kernel_does_not_cover(case: Case, words: str) -> None:
    refusal = case.sizes("fp32").refusal
    assert refusal is not None
    assert words in refusal


def test_the_largest_map_is_covered() -> None:
    assert Case(1, 1, 128, 1, (4096, 4095), (2, 2), 4).sizes("fp32").refusal is None
    assert Case(65535, 1, 32, 1, (4, 4), (2, 2), 4).sizes("fp32").refusal is None


@pytest.mark.parametrize("index", [-1, len(CONFIGURATIONS)])
def test_no_such_configuration(index: int, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as error:
        Case(1, 1, 32, 1, (4, 4), (2, 2), 4).sizes("fp16").with_configuration(index)
    assert f"no configuration {index}: give 0 to {len(CONFIGURATIONS) - 1}" in one_line(error.value)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("index", range(len(CONFIGURATIONS)))
@pytest.mark.parametrize("head_width", [16, 32, 64, 128])
def test_launches(dtype: str, index: int, head_width: int) -> None:
    cases = [case for card in ("debi_t", "debi_b") for case in cases_of(card)]
    cases += [case for card in ("debi_t_det", "debi_b_det", "debi_b_seg") for case in cases_of(card, (800, 1344))]
    for case in cases:
        sizes = replace(case, head_width=head_width).sizes(dtype).with_configuration(index)
        tokens, agents = sizes.blocks
        for side in (tokens, agents):
            assert side >= 16
            assert side & (side - 1) == 0
        assert 0 < sizes.shared_memory_bytes < MAX_SHARED_MEMORY_BYTES
        assert sizes.warps in (1, 2, 4, 8)
        programs, heads, images = sizes.grid
        assert (programs - 1) * tokens < prod(sizes.token_size) <= programs * tokens
        assert (heads, images) == (case.heads, case.batch)


def test_sizes_need_neither_torch_nor_triton() -> None:
    program = "import sys, json, debiexport.plugins.agent_attention.sizes; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "triton", "onnx", "numpy"} & set(json.loads(done.stdout))
