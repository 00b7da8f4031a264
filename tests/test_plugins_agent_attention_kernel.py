"""The kernel of agent attention in Triton's interpreter, and compiled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton
from agent_attention_cases import TOLERANCE, Array, Case, cases_of, error, reference
from interpreting import Launch, run
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from debiexport.plugins.agent_attention.kernel import agent_attention_kernel
from debiexport.plugins.agent_attention.sizes import CONFIGURATIONS, Sizes

_DEBI_T, _DEBI_B = cases_of("debi_t"), cases_of("debi_b")
_ODD = [
    # The table does not step with the tokens, on neither axis alike, and no size is a multiple of a block.
    Case(2, 4, 16, 2, (20, 36), (7, 9), 14),
    Case(1, 2, 64, 1, (13, 10), (5, 4), 14),
    Case(1, 2, 32, 2, (3, 50), (7, 7), 28),
    Case(1, 1, 128, 1, (9, 5), (6, 8), 28),
    Case(1, 1, 16, 1, (2, 2), (1, 1), 2),
]
_SEG = Case(1, 1, 32, 1, (128, 128), (4, 4), 56)  # stage 1 of the released segmenters, with fewer heads and agents


def _interpreted(uses: Sequence[Sizes], inputs: Sequence[tuple[Array, ...]]) -> list[Array]:
    assert all(sizes.refusal is None for sizes in uses)
    return run(
        "debiexport.plugins.agent_attention.kernel",
        "agent_attention_kernel",
        [
            Launch(given, given[0].shape, sizes.grid, sizes.constants())
            for sizes, given in zip(uses, inputs, strict=True)
        ],
    )


def _check(cases: Sequence[Case], dtype: str, configurations: Iterable[int] = (0,)) -> None:
    """Every case in every configuration, all in one process."""
    pairs = [(case, index) for case in cases for index in configurations]
    inputs = [case.inputs(dtype) for case, _ in pairs]
    outputs = _interpreted([case.sizes(dtype).with_configuration(index) for case, index in pairs], inputs)
    for pair, given, out in zip(pairs, inputs, outputs, strict=True):
        assert out.dtype == given[0].dtype
        assert error(out, reference(*given)) <= TOLERANCE[dtype], pair


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_stage_of_debi_t(dtype: str) -> None:
    assert len(_DEBI_T) == 4
    _check([*_DEBI_T, replace(_DEBI_T[2], batch=2)], dtype)


def test_three_heads_a_group_of_debi_b() -> None:
    assert len(_DEBI_B) == 4
    _check(_DEBI_B[2:], "fp16")


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_stage_of_debi_b_in_every_configuration(dtype: str) -> None:
    _check(_DEBI_B, dtype, range(len(CONFIGURATIONS)))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_odd_sizes_in_every_configuration(dtype: str) -> None:
    _check(_ODD, dtype, range(len(CONFIGURATIONS)))


def test_a_map_larger_than_the_table() -> None:
    _check([_SEG], "fp32", [2])


def test_a_bias_between_pixels_is_one_entry_of_the_table() -> None:
    """Of two agents, with scores that are the bias alone, the first one's weight is a sigmoid of the difference."""
    case = Case(1, 1, 16, 1, (5, 5), (1, 2), 5)
    q, k, v, positions, table = case.inputs("fp32")
    q[...] = 0
    v[0, 0] = [[1], [0]]
    positions[0, 0] = [[0.5, -1], [-1, 1]]  # x and y: column 3 of row 0, column 0 of row 4
    (out,) = _interpreted([case.sizes("fp32")], [(q, k, v, positions, table)])
    rows, columns = np.indices((5, 5))
    difference = table[0, rows - 0 + 4, columns - 3 + 4] - table[0, rows - 4 + 4, columns - 0 + 4]
    np.testing.assert_allclose(out[0, :, :, 0], 1 / (1 + np.exp(-difference)), rtol=1e-6)


def test_positions_outside_of_the_map_read_nothing_outside_of_the_table() -> None:
    """What lies around the table is NaN in the interpreter: it would show even where it weighs nothing."""
    case = Case(1, 1, 16, 1, (4, 6), (2, 2), 3)
    *maps, positions, table = case.inputs("fp32")
    inputs = [(*maps, np.full_like(positions, place), table) for place in (-40, -1.001, 1.001, 40)]
    for out in _interpreted([case.sizes("fp32")] * len(inputs), inputs):
        assert np.isfinite(out).all()


def _compiled(sizes: Sizes) -> Any:
    constants = sizes.constants()
    names = agent_attention_kernel.arg_names
    pointers = dict(zip(names, sizes.pointers, strict=False))
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))}
    signature = pointers | dict.fromkeys(constants, "constexpr")
    assert list(signature) == names
    return triton.compile(
        ASTSource(agent_attention_kernel, signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", 80, 32),
        options={"num_warps": sizes.warps, "num_stages": sizes.stages},
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("index", range(len(CONFIGURATIONS)))
def test_compiled_for_debi_t_it_needs_registers_and_little_shared_memory(
    index: int, dtype: str, tmp_path: Path
) -> None:
    sizes = _DEBI_T[0].sizes(dtype).with_configuration(index)
    compiled = _compiled(sizes)
    assert 0 < compiled.metadata.shared <= sizes.shared_memory_bytes
    text = compiled.asm["ptx"]
    assert "ld.global.v4" in text  # 16 bytes at a time
    (tmp_path / "kernel.ptx").write_text(text)
    command = [knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_80", "kernel.ptx", "-o", "kernel.cubin"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in said


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", _ODD, ids=lambda case: f"d{case.head_width}")
def test_compiled_for_other_sizes_it_needs_no_more_shared_memory_than_said(case: Case, dtype: str) -> None:
    sizes = case.sizes(dtype).with_configuration(2)
    assert _compiled(sizes).metadata.shared <= sizes.shared_memory_bytes
