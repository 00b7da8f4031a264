from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from region_attention_cases import Case, reference
from torch import Tensor, nn

from debiexport.errors import UsageError
from debiexport.plugins.region_attention import op
from debiexport.plugins.region_attention.op import region_attention

OneLine = Callable[[BaseException], str]
CASES = [
    Case(2, 3, 16, 3, (3, 6), (6, 9), 5),
    Case(1, 2, 32, 2, (10, 6), (14, 6), 3),
    Case(1, 2, 24, 1, (2, 3), (1, 5), 1),
]
CASE = CASES[0]


def tensors(case: Case, dtype: str) -> list[Tensor]:
    return [torch.from_numpy(array) for array in case.inputs(dtype)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-6), ("fp16", 6e-4)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_the_cpu(case: Case, dtype: str, tolerance: float) -> None:
    inputs = tensors(case, dtype)
    out = region_attention(*inputs, case.heads, case.regions)
    assert out.dtype == inputs[0].dtype
    assert out.is_contiguous()
    expected = reference(*(x.numpy() for x in inputs), case.heads, case.regions)
    assert np.abs(out.numpy() - expected).max() / np.abs(expected).max() <= tolerance


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck(case: Case, dtype: str) -> None:
    operator = torch.ops.debiexport.region_attention.default
    results = torch.library.opcheck(operator, (*tensors(case, dtype), case.heads, case.regions))
    assert set(results.values()) == {"SUCCESS"}


def test_maps_need_not_be_contiguous() -> None:
    q, *rest = tensors(CASE, "fp32")
    channels_first = q.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not channels_first.is_contiguous()
    arguments = (*rest, CASE.heads, CASE.regions)
    assert torch.equal(region_attention(channels_first, *arguments), region_attention(q, *arguments))


class Network(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, routes: Tensor) -> Tensor:
        return region_attention(q * 2, k, v, routes, CASE.heads, CASE.regions)


def test_traced_with_any_batch() -> None:
    inputs = tuple(tensors(CASE, "fp32"))
    program = torch.export.export(Network(), inputs, dynamic_shapes=({0: torch.export.Dim("N")},) * 4)
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.debiexport.region_attention.default) == 1
    tripled = tuple(torch.cat([x] * 3) for x in inputs)
    assert torch.equal(program.module()(*tripled), Network()(*tripled))


def test_types_that_do_not_fit(one_line: OneLine) -> None:
    q, k, v, routes = tensors(CASE, "fp32")
    brain = tuple(x.bfloat16() for x in (q, k, v))
    for given in ((q.half(), k, v, routes), (q, k, v, routes.long()), (*brain, routes)):
        with pytest.raises(UsageError) as error:
            region_attention(*given, CASE.heads, CASE.regions)
        assert "give q, k, v in one of float32 and float16, routes in int32" in one_line(error.value)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shapes_that_do_not_fit(device: str) -> None:
    inputs = [x.to(device) for x in tensors(CASE, "fp32")]
    with pytest.raises(UsageError, match="48 channels in 5 heads"):
        region_attention(*inputs, 5, CASE.regions)


class Kernel:
    """Stands for the Triton kernel, which cannot run here: it keeps what it is launched with."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Tensor, **options: int) -> None:
            self.grid, self.arguments, self.options = grid, arguments, options
            arguments[-1].fill_(7)

        return launch


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    module: Any = ModuleType("debiexport.plugins.region_attention.kernel")
    module.region_attention_kernel = Kernel()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    return module.region_attention_kernel  # type: ignore[no-any-return]


def test_the_launch_on_a_gpu(kernel: Kernel) -> None:
    q, *rest = tensors(CASE, "fp16")
    view = q.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    out = op._launch(view, *rest, CASE.heads, CASE.regions)
    sizes = CASE.sizes("fp16")
    assert (out.shape, out.dtype) == (q.shape, torch.float16)
    assert (out == 7).all()
    assert kernel.grid == sizes.grid
    assert all(x.is_contiguous() for x in kernel.arguments)
    for given, wanted in zip(kernel.arguments, (q, *rest, out), strict=True):
        assert torch.equal(given, wanted)
    assert kernel.options == {**sizes.constants(), "num_warps": sizes.warps, "num_stages": sizes.stages}


def test_what_the_kernel_refuses_on_a_gpu(kernel: Kernel, one_line: OneLine) -> None:
    case = CASES[2]
    with pytest.raises(UsageError) as error:
        op._launch(*tensors(case, "fp16"), case.heads, case.regions)
    assert "24 channels wide" in one_line(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3)])
@pytest.mark.parametrize("case", [*CASES[:2], Case(2, 3, 32, 7, (7, 7), (56, 56), 4)], ids=str)
def test_on_a_gpu(case: Case, dtype: str, tolerance: float) -> None:
    inputs = tensors(case, dtype)
    out = region_attention(*(x.cuda() for x in inputs), case.heads, case.regions).cpu()
    expected = reference(*(x.numpy() for x in inputs), case.heads, case.regions)
    assert np.abs(out.numpy() - expected).max() / np.abs(expected).max() <= tolerance
