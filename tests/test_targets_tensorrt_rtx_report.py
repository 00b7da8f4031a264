"""The report of a build, which comes from another process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from debiexport.errors import EngineError
from debiexport.targets.tensorrt.rtx_report import RtxBuild, RtxGridSample, RtxLayer, RtxTensor

X, P = RtxTensor("x", "float16", (-1, 8)), RtxTensor("p", "float32", None)
REPORT = RtxBuild(
    version="1.7.1.116",
    capabilities=("sm80", "sm89"),
    profile=(1, 2, 4),
    layers=(
        RtxLayer("scores", "MATRIX_MULTIPLY", "scores", (X, X), (P,)),
        RtxLayer("scores#1", "CONSTANT", "", (), (X,)),
        RtxLayer("values", "MATRIX_MULTIPLY", "values", (P, X), (X,)),
    ),
    grid_samples=(RtxGridSample("bias", "linear", True, "fill"),),
    attentions=("scores", "values"),
    parse_s=0.25,
    build_s=3.0,
    peak_rss_mb=512.5,
    scratch_bytes=1024,
    plan_bytes=24_500_000,
    plan_sha256="0123456789abcdef" * 4,
)


def test_there_and_back() -> None:
    assert RtxBuild.from_dict(json.loads(json.dumps(REPORT.to_dict()))) == REPORT


def test_what_may_be_unknown() -> None:
    data = {**REPORT.to_dict(), "profile": None, "peak_rss_mb": None, "scratch_bytes": None, "parse_s": 1}
    found = RtxBuild.from_dict(data)
    assert (found.profile, found.peak_rss_mb, found.scratch_bytes, found.parse_s) == (None, None, None, 1.0)
    assert "peak" not in str(found)


def test_counts() -> None:
    assert REPORT.layer_types() == {"MATRIX_MULTIPLY": 2, "CONSTANT": 1}
    assert REPORT.tensor_types() == {"float16": 2, "float32": 1}


def test_unfused_keeps_the_order() -> None:
    assert REPORT.unfused(["z", "scores", "a"]) == ["z", "a"]
    assert REPORT.unfused([]) == []


def test_one_line() -> None:
    assert str(REPORT) == (
        "TensorRT for RTX 1.7.1.116 builds it for sm80, sm89: 3 layers, plan 24.5 MB, parsed in 0.2 s, built in 3.0 s,"
        " peak 512 MB"
    )


@pytest.mark.parametrize("key", REPORT.to_dict())
def test_a_figure_that_is_missing(key: str, one_line: Callable[[BaseException], str]) -> None:
    data = REPORT.to_dict()
    del data[key]
    with pytest.raises(EngineError, match=rf"damaged \(KeyError: '{key}'\): build again") as caught:
        RtxBuild.from_dict(data)
    one_line(caught.value)


LAYER = REPORT.to_dict()["layers"][0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 17),
        ("version", None),
        ("capabilities", "sm80"),
        ("capabilities", [80]),
        ("profile", [1, 2]),
        ("profile", [2, 1, 4]),
        ("profile", [0, 1, 2]),
        ("profile", "1:2"),
        ("profile", [1, 2, True]),
        ("layers", {}),
        ("layers", ["scores"]),
        ("layers", [{**LAYER, "type": 3}]),
        ("layers", [{**LAYER, "inputs": None}]),
        ("layers", [{**LAYER, "outputs": [{"name": "x", "dtype": "float16", "shape": [1.5]}]}]),
        ("layers", [{**LAYER, "outputs": [{"name": "x", "dtype": "float16", "shape": "8"}]}]),
        ("layers", [{**LAYER, "outputs": [{"name": "x", "dtype": "float16"}]}]),
        ("grid_samples", [{"name": "bias", "mode": "linear", "align_corners": 1, "padding": "fill"}]),
        ("attentions", [None]),
        ("parse_s", -1.0),
        ("parse_s", "1"),
        ("build_s", float("inf")),
        ("build_s", float("nan")),
        ("build_s", True),
        ("peak_rss_mb", "much"),
        ("scratch_bytes", 1.5),
        ("plan_bytes", -1),
        ("plan_bytes", True),
        ("plan_sha256", "0123"),
        ("plan_sha256", "G" * 64),
        ("plan_sha256", 64),
    ],
    ids=str,
)
def test_a_figure_that_is_none(key: str, value: Any, one_line: Callable[[BaseException], str]) -> None:
    with pytest.raises(EngineError, match="is damaged") as caught:
        RtxBuild.from_dict({**REPORT.to_dict(), key: value})
    one_line(caught.value)
