"""The GPU benchmark's kernels and what they replace, on a CPU, and the smallest cases on a GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import agent_attention_cases
import numpy as np
import pytest
import region_attention_cases
import torch
from fake_gpu import AGENT_USE, QUICK, REGION_USE, FakeDriver, FakeGpu, Immediate, OneLine, OnOneDevice, on_a_gpu
from gpu_results import kernel_result

from debiexport.bench.runner import Plan
from debiexport.errors import DebiexportError
from debiexport.plugins.agent_attention.op import agent_attention
from debiexport.plugins.ptx import Ptx
from debiexport.plugins.region_attention.op import region_attention

# isort: split
import gpu_device
import gpu_eager
import gpu_kernels
import gpu_ptx
from gpu_cases import (
    AGENT,
    REGION,
    KernelCase,
    Use,
    input_shapes,
    moved_bytes,
)
from gpu_timing import Timings, plan_dict


def test_inputs_are_the_same_again_and_route_to_every_region() -> None:
    sizes = KernelCase(REGION_USE, "fp16", 5).sizes
    first, again = (gpu_eager.make_inputs(sizes, torch.device("cpu")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [x.dtype for x in first] == [torch.float16] * 3 + [torch.int32]
    assert [tuple(x.shape) for x in first] == list(input_shapes(sizes).values())
    for image in first[-1]:
        assert all(len(set(row)) == 3 for row in image.tolist())
        assert torch.bincount(image.flatten(), minlength=4).tolist() == [3] * 4


@pytest.mark.parametrize("place", range(3))
def test_every_form_of_region_attention(place: int) -> None:
    case = region_attention_cases.Case(2, 2, 16, 2, (4, 6), (8, 4), 3)
    given = case.inputs("fp32")
    form = gpu_eager.FORMS[REGION][place]
    inputs = [torch.from_numpy(x) for x in given]
    out = form.run(case.sizes("fp32"), *form.prepare(case.sizes("fp32"), inputs))
    expected = region_attention_cases.reference(*given, 2, 2)
    assert np.abs(out.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()
    wide = gpu_eager.reference(case.sizes("fp32"), inputs)
    assert np.abs(wide.numpy() - expected).max() <= 1e-13 * np.abs(expected).max()


@pytest.mark.parametrize("place", range(2))
def test_every_form_of_agent_attention(place: int) -> None:
    case = agent_attention_cases.Case(3, 4, 16, 2, (5, 4), (3, 4), 5)
    given = case.inputs("fp32")
    form = gpu_eager.FORMS[AGENT][place]
    inputs = [torch.from_numpy(x) for x in given]
    out = form.run(case.sizes("fp32"), *form.prepare(case.sizes("fp32"), inputs))
    expected = agent_attention_cases.reference(*given)
    assert agent_attention_cases.error(out.numpy(), expected) <= 1e-5
    wide = gpu_eager.reference(case.sizes("fp32"), inputs)
    assert agent_attention_cases.error(wide.numpy(), expected) <= 1e-13


@pytest.mark.parametrize("case", [KernelCase(u, p, 2) for u in (REGION_USE, AGENT_USE) for p in ("fp32", "fp16")])
def test_eager_forms_can_be_captured(case: KernelCase) -> None:
    inputs = [x.to("meta") for x in gpu_eager.make_inputs(case.sizes, torch.device("cpu"))]
    for form in gpu_eager.FORMS[case.use.operation]:
        given = form.prepare(case.sizes, inputs)
        with OnOneDevice():
            out = form.run(case.sizes, *given)
        assert (out.shape, out.dtype) == (inputs[0].shape, inputs[0].dtype)


def ptx_of(operation: str, sizes: Any) -> Ptx:
    """Stands for compiled PTX, without the seconds that compiling takes."""
    name = f"{operation}_{'_'.join(map(str, sizes.blocks))}"
    return Ptx(name, f"// {name} {sizes.warps}", 1024, 32 * sizes.warps, len(sizes.pointers), "0" * 64)


def driver_for(case: KernelCase) -> FakeDriver:
    """A driver that computes the case's operation in torch."""
    inputs = gpu_eager.make_inputs(case.sizes, torch.device("cpu"))
    shapes = [(tuple(x.shape), x.dtype) for x in [*inputs, inputs[0]]]
    sizes = case.sizes
    if case.use.operation == REGION:
        return FakeDriver(shapes, lambda *given: region_attention(*given, sizes.heads, sizes.regions))
    return FakeDriver(shapes, lambda *given: agent_attention(*given, sizes.heads))


def test_a_launch_gives_the_driver_addresses_grid_and_block() -> None:
    case = KernelCase(AGENT_USE, "fp32", 2)
    driver, inputs = driver_for(case), gpu_eager.make_inputs(case.sizes, torch.device("cpu"))
    kernel = gpu_ptx.Launched.load(ptx_of(AGENT, case.sizes), case.sizes.grid, driver)
    out = torch.full_like(inputs[0], math.nan)
    kernel([*inputs, out], stream=7)
    assert torch.equal(out, agent_attention(*inputs, 4))
    assert driver.launches == [(*case.sizes.grid, 32 * case.sizes.warps, 1, 1, 1024, 7)]
    kernel.close()
    assert not driver.loaded


def test_the_driver_says_what_it_refuses(one_line: OneLine) -> None:
    case = KernelCase(AGENT_USE, "fp32", 1)
    driver = driver_for(case)
    with pytest.raises(DebiexportError, match="takes 6 tensors, given are 1") as caught:
        gpu_ptx.Launched.load(ptx_of(AGENT, case.sizes), (1, 1, 1), driver)([torch.zeros(1)], 0)
    one_line(caught.value)
    driver.refused["cuModuleLoadData"] = 222
    with pytest.raises(DebiexportError, match=r"cuModuleLoadData: CUDA_ERROR_222") as caught:
        gpu_ptx.Launched.load(ptx_of(AGENT, case.sizes), (1, 1, 1), driver)
    one_line(caught.value)


def test_the_names_are_those_of_the_driver() -> None:
    driver = gpu_ptx.import_driver()
    for name in ("cuModuleLoadData", "cuModuleGetFunction", "cuModuleUnload", "cuLaunchKernel", "cuGetErrorName"):
        assert callable(getattr(driver, name))
    assert int(driver.CUstream(7)) == 7


def test_a_kernel_is_compiled_once_for_all_batches_in_another_process() -> None:
    with gpu_ptx.Compiler() as compiler:
        futures = [compiler.begin(AGENT, KernelCase(AGENT_USE, "fp16", batch).sizes) for batch in (1, 8)]
        assert futures[0] is futures[1]
        ptx = compiler.ptx(AGENT, KernelCase(AGENT_USE, "fp16", 64).sizes)
    assert ptx.name == "agent_attention_kernel"
    assert ptx.parameters == 6


def test_triton_is_given_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *tensors, **constants: seen.append((grid, tensors, constants))

    monkeypatch.setattr(gpu_kernels, "kernel_of", lambda operation: Kernel())
    sizes = KernelCase(REGION_USE, "fp16", 2).sizes.with_configuration(1)
    inputs = gpu_eager.make_inputs(sizes, torch.device("cpu"))
    gpu_kernels.launch_triton(REGION, sizes, inputs, inputs[0])
    [(grid, tensors, constants)] = seen
    assert grid == sizes.grid
    assert [id(x) for x in tensors] == [id(x) for x in [*inputs, inputs[0]]]
    assert constants == {**sizes.constants(), "num_warps": sizes.warps, "num_stages": sizes.stages}


def in_torch(operation: str, sizes: Any, inputs: Any, out: torch.Tensor) -> None:
    """In place of `gpu_kernels.launch_triton`."""
    q, k, v, *rest = inputs
    if operation == REGION:
        out.copy_(region_attention(q, k, v, *rest, sizes.heads, sizes.regions))
    else:
        out.copy_(agent_attention(q, k, v, *rest, sizes.heads))


def measured(case: KernelCase, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver | None = None) -> dict[str, Any]:
    monkeypatch.setattr(gpu_ptx, "compile_ptx", ptx_of)
    monkeypatch.setattr(gpu_kernels, "launch_triton", in_torch)
    driver = driver or driver_for(case)
    with gpu_ptx.Compiler(Immediate()) as compiler:
        gpu_kernels.begin_compiling(case, compiler)
        found = gpu_kernels.measure_kernel(case, FakeGpu(), 1e9, compiler, QUICK, driver)  # type: ignore[arg-type]
    assert not driver.loaded
    json.dumps(found, allow_nan=False)
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_region_attention_is_measured(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = KernelCase(REGION_USE, precision, 2)
    found = measured(case, monkeypatch)
    indices = case.configurations()
    names = [f"{launch} {index}" for launch in ("Triton", "PTX") for index in indices]
    assert list(found["subjects"]) == ["gather", "index_select", "index_select + SDPA", *names]
    assert not found["failed"]
    for name, row in found["subjects"].items():
        assert row["correct"]
        assert row["ours"] == (name in names)
        assert row["relative_error"] <= gpu_kernels.TOLERANCE[precision]
        assert 0 < row["p50_ms"]["value"] < 1000
        assert row["times_limit"] == pytest.approx(row["p50_ms"]["value"] / found["limit_ms"], rel=1e-4)
    assert found["limit_ms"] == pytest.approx(moved_bytes(case.sizes) / 1e6, rel=1e-5)
    assert found["best"] in names[len(indices) :]
    index = found["best"].split()[1]
    others = ["gather", "index_select", "index_select + SDPA", f"Triton {index}"]
    assert list(found["ratios"]) == [f"{name} / {found['best']}" for name in others]
    assert found["copies"] >= 2
    by_hand = kernel_result(case)  # what the tests of the tables read
    assert set(by_hand) <= set(found)
    assert set(by_hand["subjects"]["PTX 1"]) <= set(found["subjects"]["PTX 0"])
    assert found["copied_bytes"] >= 3 * 2**12


def test_agent_attention_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(KernelCase(AGENT_USE, "fp32", 2), monkeypatch)
    assert not found["failed"]
    assert {"grid_sample", "grid_sample + SDPA", "Triton 0", "PTX 0"} <= set(found["subjects"])
    assert all(row["correct"] for row in found["subjects"].values())


def test_a_wrong_kernel_is_marked_and_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    case = KernelCase(AGENT_USE, "fp32", 1)
    driver = driver_for(case)
    right = driver._compute
    driver._compute = lambda *given: right(*given) * 1.001
    found = measured(case, monkeypatch, driver)
    assert not found["subjects"]["PTX 0"]["correct"]
    assert found["best"].startswith("Triton")
    driver._compute = lambda *given: right(*given).fill_(math.nan)
    found = measured(case, monkeypatch, driver)
    assert found["subjects"]["PTX 0"]["relative_error"] is None
    assert not found["subjects"]["PTX 0"]["correct"]


def test_what_fails_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    case = KernelCase(AGENT_USE, "fp32", 1)
    driver = driver_for(case)
    driver.refused["cuModuleLoadData"] = 222
    found = measured(case, monkeypatch, driver)
    assert {name.split()[0] for name in found["failed"]} == {"PTX"}
    assert "CUDA_ERROR_222" in found["failed"]["PTX 0"]
    assert "PTX 0" not in found["subjects"]
    assert found["best"].startswith("Triton")


def test_times_are_of_one_launch() -> None:
    class Steady(FakeGpu):
        def time_ns(self, replay: Callable[[], None]) -> int:
            replay()
            return 6_000_000

    device = Steady()
    timings = Timings(device, QUICK)  # type: ignore[arg-type]
    timings.add_graph("three", device.capture(lambda: None), 3)
    timings.add_graph("one", device.capture(lambda: None))
    rows = timings.measure()
    assert rows["three"]["p50_ms"]["value"] == 2
    assert timings.p50_ms("one") == 6
    assert timings.ratio("one", "three")["value"] == 3
    assert plan_dict(Plan(p99_width=math.inf))["p99_width"] is None


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("use", [REGION_USE, AGENT_USE], ids=[REGION, AGENT])
def test_kernels_on_a_gpu(use: Use, precision: str) -> None:
    """Launched by Triton and from PTX, in every configuration."""
    with gpu_ptx.Compiler(Immediate()) as compiler:
        found = gpu_kernels.measure_kernel(KernelCase(use, precision, 2), gpu_device.find_gpu(), 1e12, compiler)
    assert not found["failed"]
    assert all(row["correct"] for row in found["subjects"].values() if row["ours"])
    assert found["best"].startswith("PTX")
