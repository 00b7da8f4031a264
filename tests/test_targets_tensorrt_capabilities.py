"""The GPUs that TensorRT for RTX builds for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from rtx_models import needs_rtx

from debiexport.errors import UsageError
from debiexport.targets.tensorrt.capabilities import CAPABILITIES, check_capabilities, member, parse_capabilities


@needs_rtx
def test_the_table_is_that_of_the_package() -> None:
    program = "import json, tensorrt_rtx as trt; print(json.dumps(list(trt.ComputeCapability.__members__)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    members = set(json.loads(done.stdout)) - {"NONE", "CURRENT"}
    assert {member(name) for name in CAPABILITIES} == members


@pytest.mark.parametrize(
    ("text", "names"),
    [("sm89", ("sm89",)), ("sm89,sm80", ("sm89", "sm80")), (" SM120 , sm86,", ("sm120", "sm86"))],
)
def test_lists(text: str, names: tuple[str, ...]) -> None:
    assert parse_capabilities(text) == names == check_capabilities(names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sm90", r"--gpu sm90 is not served by TensorRT for RTX: choose from sm75 \(Turing\), .*sm89 \(Ada, RTX 40\)"),
        ("sm89,h100", "--gpu h100 is not served"),
        ("", "names no compute capability: choose from sm75"),
        (",", "names no compute capability"),
        ("sm89,sm80,sm89", "names sm89 twice"),
    ],
)
def test_refused_lists(text: str, words: str, one_line: Callable[[BaseException], str]) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_capabilities(text)
    one_line(caught.value)
