"""The kernel of region attention in Triton's interpreter, and compiled for a GPU that need not be there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from interpreting import Launch, run
from region_attention_cases import Case, cases_of, reference

from debiexport.plugins.region_attention.sizes import CONFIGURATIONS, Sizes

TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}  # of the largest number

ODD = [
    Case(1, 2, 32, 2, (10, 6), (14, 6), 3),  # tiles of 15 queries and 21 keys
    Case(2, 3, 16, 3, (3, 6), (6, 9), 5),
    Case(2, 2, 64, 2, (8, 8), (8, 8), 2),
    Case(1, 1, 128, 2, (2, 2), (10, 10), 3),
    Case(1, 1, 128, 2, (10, 14), (10, 10), 3),
    Case(2, 1, 32, 1, (1, 1), (1, 1), 1),  # one query, one key
]
LARGE_TILES = [
    Case(1, 1, 32, 2, (2, 2), (32, 32), 4),  # 1024 keys a query
    Case(1, 1, 32, 2, (4, 4), (32, 32), 2),
    Case(1, 1, 32, 1, (13, 21), (13, 21), 1),
]
LARGE_MAPS = [
    Case(1, 1, 32, 8, (128, 128), (128, 128), 1),  # tiles of 16 x 16
    Case(1, 1, 32, 8, (16, 16), (128, 128), 4),
    Case(1, 1, 32, 16, (208, 336), (208, 336), 1),  # tiles of 13 x 21
]


def check(cases: Sequence[Case], dtype: str, configurations: Sequence[int] = (0,)) -> None:
    """Run the kernel and compare with the reference, every case in every configuration."""
    inputs = [case.inputs(dtype) for case in cases]
    launches = []
    for configuration in configurations:
        for case, given in zip(cases, inputs, strict=True):
            sizes = case.sizes(dtype).with_configuration(configuration)
            assert sizes.refusal is None
            launches.append(Launch(given, given[0].shape, sizes.grid, sizes.constants()))
    outputs = iter(run("debiexport.plugins.region_attention.kernel", "region_attention_kernel", launches))
    expected = [reference(*given, case.heads, case.regions) for case, given in zip(cases, inputs, strict=True)]
    for configuration in configurations:
        for case, wanted in zip(cases, expected, strict=True):
            out = next(outputs)
            assert out.dtype == np.dtype({"fp32": "float32", "fp16": "float16"}[dtype])
            error = np.abs(out - wanted).max() / np.abs(wanted).max()
            assert error <= TOLERANCE[dtype], (case, configuration)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_attention_of_debi_t_with_two_heads(dtype: str) -> None:
    check([replace(case, heads=2) for case in cases_of("debi_t")], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_odd_sizes_and_large_tiles_in_every_configuration(dtype: str) -> None:
    check([*ODD, *LARGE_TILES], dtype, range(len(CONFIGURATIONS)))


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("card", ["debi_t", "debi_b"])
def test_every_attention(card: str, dtype: str) -> None:
    cases = cases_of(card)
    check([*cases, *(replace(case, batch=2) for case in cases[:2])], dtype)


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_large_maps(dtype: str) -> None:
    check(LARGE_MAPS, dtype)


def compile_and_check(sizes: Sizes, folder: Path) -> None:
    """Compile, and look at what the memory has to do: registers, shared memory, width of loads."""
    from triton import knobs

    from debiexport.plugins.ptx import portable_ptx
    from debiexport.plugins.region_attention.kernel import region_attention_kernel

    ptx = portable_ptx(region_attention_kernel, sizes.pointers, sizes.constants(), sizes.warps, sizes.stages)
    assert ptx.parameters == len(sizes.pointers)
    assert ptx.shared_memory_bytes <= sizes.shared_memory_bytes < 48 * 1024
    # Keys and values come 8 or 16 bytes a lane, into registers or on their way to shared memory. So do the queries,
    # unless there is but one number of them for each lane.
    assert re.search(r"ld\.global\.v[24]\.b32|cp\.async\.cg\.shared\.global \[[^]]*\], \[[^]]*\], 0x10", ptx.text)
    alone = sizes.blocks[0] * sizes.head_width < 2 * 32 * sizes.warps
    assert len(re.findall(r"ld\.global\.b16", ptx.text)) <= alone
    source = folder / "kernel.ptx"
    source.write_text(ptx.text)
    command = [knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_80", source, "-o", folder / "kernel.cubin"]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in words, sizes


COMPILED = [
    Case(1, 3, 32, 7, (56, 56), (56, 56), 1),
    Case(1, 3, 32, 7, (7, 7), (56, 56), 4),
    Case(1, 12, 32, 7, (14, 14), (14, 14), 16),
    Case(1, 2, 64, 8, (128, 128), (128, 128), 4),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", COMPILED)
def test_compiled(case: Case, dtype: str, tmp_path: Path) -> None:
    compile_and_check(case.sizes(dtype), tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("head_width", [16, 32, 64, 128])
@pytest.mark.parametrize("configuration", range(len(CONFIGURATIONS)))
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_configuration_compiled(dtype: str, configuration: int, head_width: int, tmp_path: Path) -> None:
    for case in [*COMPILED, *LARGE_TILES]:
        compile_and_check(replace(case, head_width=head_width).sizes(dtype).with_configuration(configuration), tmp_path)
