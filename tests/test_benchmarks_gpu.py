"""The GPU benchmark on a CPU, with another device in the GPU's place: cases, runs, the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import AGENT_USE, REGION_USE, FakeGpu, OneLine, on_a_gpu
from gpu_results import CASES, COST, STATE, Clock, kernel_result, network_result, run_results

from debiexport.cards import load_card
from debiexport.errors import DebiexportError, InputError, UsageError
from debiexport.plugins.agent_attention.sizes import Sizes as AgentSizes
from debiexport.plugins.region_attention.sizes import Sizes as RegionSizes

# isort: split
import gpu
import gpu_device
import gpu_kernels
import gpu_report
from gpu_cases import (
    AGENTS,
    BROADCAST,
    REGION,
    TOKENS,
    KernelCase,
    all_cases,
    input_shapes,
    moved_bytes,
    uses_of,
)


def test_the_most_wanted_cases_come_first() -> None:
    names = [case.name for case in all_cases()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"debi_t/stage\d/\w+/fp16/b8", name) for name in names[:10])
    assert names[10:12] == ["debi_t/network/fp16/b8", "debi_b/stage1/tokens/fp16/b8"]
    assert names[21:23] == ["debi_b/network/fp16/b8", "debi_t/stage1/tokens/fp16/b1"]
    assert [name for name in names if "onnxruntime" in name] == names[-6:]
    for card in ("debi_t", "debi_b"):
        for precision in ("fp16", "fp32"):
            for batch in (1, 8, 64):
                assert sum(name.startswith(card) and name.endswith(f"/{precision}/b{batch}") for name in names) == 11


def test_uses_are_those_of_the_network() -> None:
    uses = uses_of(load_card("debi_t"))
    assert [(use.stage, use.role, use.count) for use in uses] == [
        *((stage, role, 1) for stage in ("stage1", "stage2") for role in (TOKENS, AGENTS, BROADCAST)),
        *(("stage3", role, 4) for role in (TOKENS, AGENTS, BROADCAST)),
        ("stage4", BROADCAST, 2),  # its top-k covers every region: nothing is routed
    ]
    assert all(use.sizes.refusal is None for name in ("debi_t", "debi_b") for use in uses_of(load_card(name)))


def test_shapes_give_the_sizes_back() -> None:
    for use in uses_of(load_card("debi_b")):
        sizes = KernelCase(use, "fp16", 8).sizes
        shapes = list(input_shapes(sizes).values())
        if use.operation == REGION:
            assert RegionSizes.of(*shapes, heads=sizes.heads, regions=sizes.regions, dtype="fp16") == sizes
        else:
            assert AgentSizes.of(*shapes, heads=sizes.heads, dtype="fp16") == sizes


def test_bytes_are_those_of_every_tensor_once() -> None:
    # q and out 4x6x32, k and v 8x4x32 in T; routes 4x3.
    assert moved_bytes(REGION_USE.sizes) == 4 * (2 * 24 * 32 + 2 * 32 * 32 + 12)
    assert moved_bytes(KernelCase(REGION_USE, "fp16", 3).sizes) == 3 * (2 * (2 * 24 * 32 + 2 * 32 * 32) + 4 * 12)
    # q and out 5x4x64, k and v 6x64 in T; positions 2x6x2 an image, and one table 4x9x9.
    assert moved_bytes(KernelCase(AGENT_USE, "fp16", 3).sizes) == (
        3 * (2 * (2 * 20 * 64 + 2 * 6 * 64) + 4 * 24) + 4 * 4 * 81
    )


def test_configurations_that_launch_the_same_kernel_are_one() -> None:
    agents = {use.name: use for use in uses_of(load_card("debi_t"))}["debi_t/stage3/agents"]
    found = KernelCase(agents, "fp16", 8).configurations()
    assert found[0] == 0
    assert len(found) < 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A run whose cases take the seconds of `COST` and give results made by hand."""
    clock = Clock()

    def result(case: Any, *_: Any) -> dict[str, Any]:
        clock.now += COST[case.name]
        return kernel_result(case) if isinstance(case, KernelCase) else network_result(case)

    monkeypatch.setattr(gpu_kernels, "measure_kernel", result)
    monkeypatch.setattr("gpu_network.measure_network", result)
    monkeypatch.setattr(gpu_kernels, "begin_compiling", lambda case, compiler: None)
    monkeypatch.setattr(gpu_device, "clock_state", lambda: STATE)
    monkeypatch.setattr(gpu_device, "copy_bandwidth", lambda device: 1e12)
    monkeypatch.setattr(gpu_device, "launch_floor_ns", lambda device: 1500.0)
    return clock


def measured_run(clock: Clock, seconds: float | None = None) -> tuple[dict[str, Any], list[str]]:
    device: Any = FakeGpu()
    data, saved = gpu.begin(device, ["--budget", "9"]), []
    budget = gpu.Budget(seconds, clock)
    gpu.run(CASES, device, data, lambda: saved.append(json.dumps(data, allow_nan=False)), budget, lambda line: None)
    return data, saved


def test_a_run_is_saved_after_every_case(clock: Clock) -> None:
    data, saved = measured_run(clock)
    assert [len(json.loads(text)["cases"]) for text in saved] == [1, 2, 3]
    assert [json.loads(text)["missing"] for text in saved] == [[c.name for c in CASES[i:]] for i in (1, 2, 3)]
    assert set(data) == set(run_results())
    assert (data["format"], data["format_version"], data["command"]) == tuple(run_results().values())[:3]
    assert data["options"] == ["--budget", "9"]
    assert {"torch", "triton"} <= set(data["environment"]["packages"])
    assert data["seconds"] == 80
    assert data["states"] == [STATE] * 2  # at the beginning, and after the group of cases


def test_a_run_ends_in_time_and_says_what_is_missing(clock: Clock) -> None:
    data, _ = measured_run(clock, seconds=70)
    # 40 s are set aside for the first kernel; the second one may take 1.2 times the first; a network wants 72 s.
    assert list(data["cases"]) == [CASES[0].name, CASES[1].name]
    assert data["missing"] == [CASES[2].name]
    assert f"Not measured: {CASES[2].name}." in gpu_report.table(data)
    assert measured_run(Clock(), seconds=39)[0]["cases"] == {}


def test_a_case_that_fails_is_said_and_the_run_goes_on(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(case: Any, *_: Any) -> Any:
        if case == CASES[0]:
            raise RuntimeError("CUDA out of memory.\nTried")
        return kernel_result(case)

    monkeypatch.setattr(gpu_kernels, "measure_kernel", fails)
    data, _ = measured_run(clock)
    assert data["failed"] == {CASES[0].name: "RuntimeError: CUDA out of memory. Tried"}
    assert data["missing"] == [CASES[0].name]
    assert list(data["cases"]) == [case.name for case in CASES[1:]]
    assert f"- RuntimeError: CUDA out of memory. Tried: {CASES[0].name}" in gpu_report.table(data)


def test_a_run_ends_where_the_gpu_does(clock: Clock, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setattr(gpu_device, "is_alive", lambda device: False)
    with pytest.raises(DebiexportError, match="--resume") as caught:
        measured_run(clock)
    assert CASES[0].name in one_line(caught.value)


def test_a_run_is_taken_up_again(clock: Clock, one_line: OneLine) -> None:
    earlier, _ = measured_run(clock, seconds=70)
    device: Any = FakeGpu()
    data = gpu.resumed(gpu.begin(device, []), earlier)
    done = clock.now
    gpu.run(CASES, device, data, lambda: None, gpu.Budget(None, clock), lambda line: None)
    assert clock.now - done == COST[CASES[2].name]
    assert list(data["cases"]) == [case.name for case in CASES]
    earlier["gpu"]["name"] = "another"
    with pytest.raises(UsageError, match=r"another gpu \(name differ\)") as caught:
        gpu.resumed(gpu.begin(device, []), earlier)
    one_line(caught.value)


def test_without_a_gpu_it_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 5
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: the GPU benchmark needs an NVIDIA GPU and a torch that sees it, and ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("hip", "cuda", "reason"),
    [("6.4", None, "built for AMD"), (None, None, "built without CUDA"), (None, "13.0", "sees none")],
)
def test_why_there_is_no_gpu(hip: str | None, cuda: str | None, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reason in (gpu_device.why_no_gpu() or "")


def test_float32_is_not_rounded() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        gpu_device.use_full_float32()
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        with torch.backends.cudnn.flags(enabled=False):  # as an export does
            pass
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_the_whole_command(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_device, "find_gpu", FakeGpu)
    monkeypatch.setattr(gpu, "all_cases", lambda cards: CASES)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    assert gpu.main(["--only", "kernels"]) == 0
    path = tmp_path / "results" / "gpu_fake_gpu_9000.json"
    assert list(gpu.read_results(path)["cases"]) == [CASES[0].name, CASES[1].name]
    assert gpu.main(["--resume"]) == 0
    printed = capsys.readouterr().out
    assert gpu.main(["--table", str(path)]) == 0
    assert capsys.readouterr().out.strip() == printed[printed.rindex("Fake GPU 9000") :].strip()
    assert list((tmp_path / "results").iterdir()) == [path]


def test_a_wrong_result_ends_with_3(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_device, "find_gpu", FakeGpu)
    monkeypatch.setattr(gpu, "all_cases", lambda cards: CASES)
    wrong = kernel_result(CASES[0])
    wrong["subjects"]["PTX 1"]["correct"] = False
    monkeypatch.setattr(gpu_kernels, "measure_kernel", lambda case, *_: wrong)
    assert gpu.main(["--output", str(tmp_path / "x.json")]) == 3


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    assert gpu.main(["--table", str(path)]) == 2
    path.write_text("{")
    assert gpu.main(["--table", str(path)]) == 4
    path.write_text('{"format": "debiexport-gpu-benchmark", "format_version": 0}')
    assert gpu.main(["--table", str(path)]) == 4
    assert capsys.readouterr().err.count("\n") == 3
    with pytest.raises(InputError):
        gpu.read_results(path)


def test_slugs() -> None:
    assert gpu.slug("NVIDIA H200") == "nvidia_h200"
    assert gpu.slug("NVIDIA GeForce RTX 4090 (Laptop)") == "nvidia_geforce_rtx_4090_laptop"


@pytest.mark.gpu
@on_a_gpu
def test_the_memory_and_the_clocks_of_a_gpu() -> None:
    device = gpu_device.find_gpu()
    assert 1e9 < gpu_device.copy_bandwidth(device) < 1e14
    assert 100 < gpu_device.launch_floor_ns(device) < 1e6
    assert device.describe()["name"]
    assert gpu_device.is_alive(device)
