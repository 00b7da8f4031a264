from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from agent_attention_cases import TOLERANCE, Case, error, reference
from torch import Tensor, nn

from debiexport.errors import UsageError
from debiexport.plugins.agent_attention import op
from debiexport.plugins.agent_attention.op import agent_attention

OneLine = Callable[[BaseException], str]
CASES = [
    Case(2, 4, 16, 2, (9, 6), (5, 3), 7),
    Case(1, 2, 32, 1, (14, 14), (7, 7), 14),
    Case(1, 2, 24, 2, (2, 3), (1, 1), 2),
]
CASE = CASES[0]


def tensors(case: Case, dtype: str) -> list[Tensor]:
    return [torch.from_numpy(array) for array in case.inputs(dtype)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 2e-6), ("fp16", 6e-4)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_the_cpu(case: Case, dtype: str, tolerance: float) -> None:
    inputs = tensors(case, dtype)
    out = agent_attention(*inputs, case.heads)
    assert out.dtype == inputs[0].dtype
    assert out.is_contiguous()
    assert error(out.numpy(), reference(*case.inputs(dtype))) <= tolerance


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck(case: Case, dtype: str) -> None:
    operator = torch.ops.debiexport.agent_attention.default
    results = torch.library.opcheck(operator, (*tensors(case, dtype), case.heads))
    assert set(results.values()) == {"SUCCESS"}


def test_maps_need_not_be_contiguous() -> None:
    q, *rest = tensors(CASE, "fp32")
    channels_first = q.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not channels_first.is_contiguous()
    assert torch.equal(agent_attention(channels_first, *rest, CASE.heads), agent_attention(q, *rest, CASE.heads))


class Network(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        return agent_attention(q * 2, k, v, positions, table, CASE.heads)


def test_traced_with_any_batch() -> None:
    *maps, table = tensors(CASE, "fp32")
    batch = {0: torch.export.Dim("N")}
    program = torch.export.export(Network(), (*maps, table), dynamic_shapes=(*(batch,) * 4, None))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.debiexport.agent_attention.default) == 1
    tripled = (*(torch.cat([x] * 3) for x in maps), table)
    assert torch.equal(program.module()(*tripled), Network()(*tripled))


def test_types_that_do_not_fit(one_line: OneLine) -> None:
    q, k, v, positions, table = tensors(CASE, "fp32")
    for given in (
        (q.half(), k, v, positions, table),
        (q.half(), k.half(), v.half(), positions.half(), table),
        (q, k, v, positions, table.double()),
        (q.bfloat16(), k.bfloat16(), v.bfloat16(), positions, table),
    ):
        with pytest.raises(UsageError) as error:
            agent_attention(*given, CASE.heads)
        assert "give q, k, v in one of float32 and float16, positions and table in float32" in one_line(error.value)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shapes_that_do_not_fit(device: str) -> None:
    inputs = [x.to(device) for x in tensors(CASE, "fp32")]
    with pytest.raises(UsageError, match="64 channels in 5 heads"):
        agent_attention(*inputs, 5)


class Kernel:
    """Stands for the Triton kernel, which cannot run here: it keeps what it is launched with."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Tensor, **options: int) -> None:
            self.grid, self.arguments, self.options = grid, arguments, options
            arguments[-1].fill_(7)

        return launch


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    module: Any = ModuleType("debiexport.plugins.agent_attention.kernel")
    module.agent_attention_kernel = Kernel()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    return module.agent_attention_kernel  # type: ignore[no-any-return]


def test_the_launch_on_a_gpu(kernel: Kernel) -> None:
    q, *rest = tensors(CASE, "fp16")
    view = q.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    out = op._launch(view, *rest, CASE.heads)
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
        op._launch(*tensors(case, "fp16"), case.heads)
    assert "24 channels wide" in one_line(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", [*CASES[:2], Case(2, 3, 32, 1, (56, 56), (7, 7), 56)], ids=str)
def test_on_a_gpu(case: Case, dtype: str) -> None:
    inputs = tensors(case, dtype)
    out = agent_attention(*(x.cuda() for x in inputs), case.heads).cpu()
    assert error(out.numpy(), reference(*case.inputs(dtype))) <= TOLERANCE[dtype]
