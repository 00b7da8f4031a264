"""What an engine is bound to, and what is said where it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRT

from debiexport.errors import BundleError
from debiexport.runtimes.cuda import Gpu
from debiexport.targets.tensorrt.fingerprint import (
    AMPERE_PLUS,
    SAME_CAPABILITY,
    Fingerprint,
    fingerprint_of,
    refuse,
)
from debiexport.targets.tensorrt.version import RTX, TENSORRT

OneLine = Callable[[BaseException], str]
HERE = Fingerprint(TENSORRT, "11.4.0.106", "NVIDIA L4", ("8.9",), "13.0")


def test_of_a_machine() -> None:
    module = FakeTensorRT(FakeCuda(), "11.4.0.106")
    assert fingerprint_of(TENSORRT, module, Gpu("NVIDIA L4", "8.9", "13.0")) == HERE
    assert str(HERE) == "TensorRT 11.4.0.106, NVIDIA L4 (8.9)"


def test_there_and_back() -> None:
    rtx = Fingerprint(RTX, "1.7.1.116", None, ("8.6", "8.9", "12.0"))
    assert str(rtx) == "TensorRT for RTX 1.7.1.116, any GPU (8.6, 8.9, 12.0)"
    for one in (HERE, rtx, replace(HERE, hardware_compatibility=AMPERE_PLUS)):
        assert Fingerprint.from_dict(one.to_dict()) == one


def test_nothing_speaks_against_it() -> None:
    assert refuse(HERE, HERE) is None
    assert refuse(replace(HERE, driver="12.9"), HERE) is None  # for the record only


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flavour": RTX, "version": "1.7.1.116"}, "the engine is of TensorRT for RTX, this is TensorRT: install"),
        ({"version": "10.13.3.9"}, "was built with TensorRT 10.13.3.9, this is 11.4.0.106"),
        ({"version": "11.4.0.105"}, "build it again here, or install 11.4.0.105"),
        ({"compute_capabilities": ("8.6",)}, "is for compute capability 8.6, this is NVIDIA L4 (8.9): build it again"),
        ({"gpu": "NVIDIA L40S"}, "was built on NVIDIA L40S (8.9), this is NVIDIA L4 (8.9): build it again on this"),
    ],
)
def test_what_differs_is_said(changes: dict[str, Any], words: str) -> None:
    told = refuse(replace(HERE, **changes), HERE)
    assert told is not None and words in told and "\n" not in told


def test_engines_for_several_gpus() -> None:
    other = replace(HERE, gpu="NVIDIA L40S")
    assert refuse(replace(other, hardware_compatibility=SAME_CAPABILITY), HERE) is None
    told = refuse(replace(other, hardware_compatibility=SAME_CAPABILITY, compute_capabilities=("9.0",)), HERE)
    assert told is not None and "is for compute capability 9.0" in told
    ampere = replace(other, hardware_compatibility=AMPERE_PLUS, compute_capabilities=("8.0",))
    assert refuse(ampere, HERE) is None
    assert refuse(ampere, replace(HERE, compute_capabilities=("10.3",))) is None
    told = refuse(ampere, replace(HERE, compute_capabilities=("7.5",), gpu="NVIDIA T4"))
    assert told is not None and "8.0 and newer, this is NVIDIA T4 (7.5)" in told


def test_engines_for_rtx_name_their_gpus() -> None:
    here = Fingerprint(RTX, "1.7.1.116", "NVIDIA GeForce RTX 4090", ("8.9",), "13.0")
    engine = Fingerprint(RTX, "1.7.1.116", None, ("8.6", "8.9"))
    assert refuse(engine, here) is None
    told = refuse(replace(engine, compute_capabilities=("12.0", "12.1")), here)
    assert told is not None and "is for compute capability 12.0, 12.1, this is NVIDIA GeForce RTX 4090 (8.9)" in told


@pytest.mark.parametrize(
    "changes",
    [
        {"flavour": "onnx"},
        {"flavour": ["tensorrt"]},
        {"version": 11},
        {"gpu": 4},
        {"driver": 13.0},
        {"compute_capabilities": []},
        {"compute_capabilities": "8.9"},
        {"compute_capabilities": ["sm89"]},
        {"compute_capabilities": [8.9]},
        {"hardware_compatibility": "all"},
        {"hardware_compatibility": {}},
    ],
)
def test_what_a_file_may_hold_instead(changes: dict[str, Any], one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        Fingerprint.from_dict({**HERE.to_dict(), **changes})
    assert "does not say a TensorRT and GPUs" in one_line(caught.value)


@pytest.mark.parametrize("data", [None, [], {}, {"flavour": "tensorrt"}, {**HERE.to_dict(), "more": 1}])
def test_other_keys(data: Any, one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        Fingerprint.from_dict(data)
    assert "has not the keys compute_capabilities, driver, flavour" in one_line(caught.value)
