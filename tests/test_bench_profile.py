"""Profiles: a canned one, and one of a real tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from debiexport.bench.profile import profile, read_profile, stable_place
from debiexport.bench.subjects import BUNDLE, Spec, pool_of
from debiexport.bench.tables import profile_lines
from debiexport.bundle import MODEL, open_bundle
from debiexport.errors import DebiexportError


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("stage3.block2.attn2/MatMul_kernel_time", "stage3.block2.attn2/MatMul"),
        ("stage3.block2.attn2/MatMul_2/MatmulTransposeFusion/_kernel_time", "stage3.block2.attn2/MatMul_2"),
        ("stage1.block1.attn1.v/MatMul/MatMulAddFusion_kernel_time", "stage1.block1.attn1.v/MatMul"),
        ("stem.conv1/Conv_nchwc_kernel_time", "stem.conv1/Conv"),
        ("stage1.block1.pos_embed1_nchwc_kernel_time", "stage1.block1.pos_embed1"),
        ("stage1.block1.attn2/Gather_2/GatherSliceToSplitFusion_kernel_time", "stage1.block1.attn2/Gather_2"),
        ("ReorderOutput_token_693_kernel_time", "runtime/Kind"),
        ("gemm_input_reshape_kernel_time", "runtime/Kind"),
    ],
)
def test_stable_names(name: str, place: str) -> None:
    assert stable_place(name, "Kind") == place


def run(ts: int, scale: int = 1) -> list[dict[str, Any]]:
    """One run of three nodes as ONNX Runtime writes it: the session's event comes after its nodes'."""

    def node(name: str, op: str, offset: int, duration: int) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "ts": ts + offset, "dur": duration * scale, "args": {"op_name": op}}

    return [
        node("a.x/Conv_nchwc_kernel_time", "Conv", 1, 500),
        node("a.x/Conv_fence_before", "Conv", 2, 99_999),
        node("b.y/MatMul_kernel_time", "MatMul", 600, 200),
        node("b.y/MatMul_2_kernel_time", "MatMul", 900, 300),
        {"cat": "Session", "name": "SequentialExecutor::Execute", "ts": ts, "dur": 1100 * scale},
        {"cat": "Session", "name": "model_run", "ts": ts, "dur": 1200 * scale},
    ]


def test_a_canned_profile() -> None:
    events = [{"cat": "Session", "name": "model_loading_uri", "ts": 0, "dur": 5}]
    events += run(1_000_000, 50) + run(5_000_000) + run(6_000_000)
    found = read_profile(events, warmup_runs=1)
    assert (found.runs, found.run_ms, found.nodes_ms) == (2, 1.2, 1.0)
    assert [(s.name, s.ms, s.share, s.count) for s in found.operations] == [
        ("Conv", 0.5, 0.5, 1),
        ("MatMul", 0.5, 0.5, 2),
    ]
    assert [(s.name, s.ms) for s in found.places] == [("a.x/Conv", 0.5), ("b.y/MatMul_2", 0.3), ("b.y/MatMul", 0.2)]
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_headline_says_what_profiling_costs() -> None:
    headline, *_ = profile_lines("bundle", read_profile([*run(1), *run(1000)], warmup_runs=1))
    assert headline.startswith("bundle, profile of 1 runs: ")
    assert headline.endswith("; profiling adds time, so read the shares here and the latency above")


def test_a_profile_of_nothing() -> None:
    with pytest.raises(DebiexportError, match="no run"):
        read_profile(run(1), warmup_runs=1)


def test_a_real_profile(dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = open_bundle(dynamic_bundle)
    spec = Spec("tiny", BUNDLE, str(bundle.file(MODEL)), None, 2, 1)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = profile(spec, pool_of(bundle, 2), runs=3, warmup_runs=1)
    assert found.runs == 3
    assert 0 < found.nodes_ms <= found.run_ms
    assert sum(s.share for s in found.operations) == pytest.approx(1)
    assert "Conv" in {s.name for s in found.operations}
    assert len(found.places) == 10
    assert any(s.name.startswith("stage") for s in found.places)
    assert not [s.name for s in found.places if "Fusion" in s.name or "nchwc" in s.name]
    assert sorted(tmp_path.rglob("*")) == before  # the profile's file lies elsewhere, and is gone
