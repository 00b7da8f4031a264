"""Tables and goals of the GPU benchmark, from results made by hand."""

from __future__ import annotations

from typing import Any

from fake_gpu import REGION_USE
from gpu_results import CASES, kernel_result, network_result, run_results

# isort: split
import gpu_report
from gpu_cases import KernelCase


def test_tables() -> None:
    data = run_results()
    text = gpu_report.table(data)
    assert text.startswith(
        "Fake GPU 9000, driver 580.1, CUDA 13.0, torch 2.11.0, triton 3.6.0; memory copies at 1000 GB/s, a kernel that"
        " does nothing takes 1.50 µs in a graph; SM clock 1755 to 1980 MHz."
    )
    assert "Not measured" not in text
    assert "Failed" not in text
    assert (
        "| tiny stage1 tokens | 10.0 µs | PTX 1 | 1e-04 | 1.25 | 4.00 (1.00 - 9.00), gather | 1.10 (1.00 - 9.00) |"
        in text
    )
    assert "| region_attention | fp16 | 8 | 1 | 4.00 - 4.00 | 1.25 - 1.25 |" in text
    assert (
        "| tiny, fp16, batch 8 | 10 ms | 6 ms | 3 ms | 2 ms | 5.00 (? - 9.00) | 3.00 (? - 9.00) | 1.50 (? - 9.00) |"
        in text
    )


def verdicts(data: dict[str, Any]) -> list[bool | None]:
    return [met for _, _, _, met in gpu_report.goals(data)]


def test_goals() -> None:
    data = run_results()
    region, agent, network = CASES[1].name, CASES[0].name, CASES[2].name
    assert verdicts(data) == [True, True, True, True, True, None]
    data["cases"][region] = kernel_result(CASES[1], eager=1.9)  # type: ignore[arg-type]
    data["cases"][agent] = kernel_result(CASES[0], eager=2.9, times_limit=1.51)  # type: ignore[arg-type]
    data["cases"][network] = network_result(CASES[2], eager=2.9)  # type: ignore[arg-type]
    assert verdicts(data) == [False, True, False, False, False, None]
    shown = gpu_report.table(data)
    assert "| at least 2 | 1.90 (1.00 - 9.00) at tiny stage1 tokens, gather; 0 of 1 uses | missed |" in shown
    assert "| at most 1.5 | 1.51 at tiny stage1 broadcast; 0 of 1 uses | missed |" in shown


def test_a_goal_is_met_only_if_every_use_was_measured() -> None:
    data = run_results()
    data["missing"] = ["tiny/stage2/tokens/fp16/b8", "tiny/stage2/tokens/fp16/b1", "tiny/network/fp16/b8"]
    assert verdicts(data) == [None, None, True, True, None, True, None]
    assert "1 of 2 uses" in gpu_report.table(data)
    data["cases"] = {}
    assert verdicts(data) == [None] * 5
    assert "| at least 2 | not measured |  |" in gpu_report.table(data)


def test_forms_that_are_not_judged_do_not_count() -> None:
    case = kernel_result(KernelCase(REGION_USE, "fp16", 8))
    case["ratios"]["index_select + SDPA / PTX 1"]["value"] = 0.5
    found = gpu_report.faster_eager(case)
    assert found is not None
    assert found[0] == "gather"


def test_nothing_measured() -> None:
    data = run_results() | {"cases": {}, "states": [{"at": 1, "gpus": None}]}
    data["environment"] |= {"gpus": None}
    text = gpu_report.table(data)
    assert "driver unknown" in text
    assert "SM clock unknown." in text
    assert text.count("not measured") == 4


def test_what_is_wrong_is_said() -> None:
    data = run_results()
    assert gpu_report.is_correct(data)
    case = data["cases"][CASES[1].name]
    case["subjects"]["PTX 1"]["correct"] = False
    case |= {"best": None, "ratios": {}, "failed": {"PTX 0": "DebiexportError: no"}}
    data["cases"][CASES[2].name]["subjects"]["eager"]["correct"] = False
    text = gpu_report.table(data)
    assert not gpu_report.is_correct(data)
    assert "| tiny stage1 tokens | none is right |" in text
    assert "| 10 ms (wrong) |" in text
    assert f"- the error is beyond what is allowed: {CASES[1].name} PTX 1" in text
    assert f"- DebiexportError: no: {CASES[1].name} PTX 0" in text
    assert [met for _, _, _, met in gpu_report.goals(data)][:2] == [None, None]
