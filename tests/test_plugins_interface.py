"""What a plugin takes is said once, and everything else is refused in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from debiexport.errors import UsageError
from debiexport.plugins.agent_attention.interface import INTERFACE as AGENT
from debiexport.plugins.interface import Interface, word_of
from debiexport.plugins.region_attention.interface import INTERFACE as REGION

SHAPES = ((2, 14, 14, 64), (2, 14, 14, 64), (2, 14, 14, 64), (2, 49, 4))


def dtypes(*names: str) -> list[Any]:
    """Stand-ins of trt.DataType."""
    return [SimpleNamespace(name=name) for name in names]


@pytest.mark.parametrize(
    ("interface", "types", "pointers"),
    [
        (REGION, ("FP16", "FP16", "FP16", "INT32", "FP16"), ("*fp16", "*fp16", "*fp16", "*i32", "*fp16")),
        (AGENT, ("FP16", "FP16", "FP16", "FP32", "FP32", "FP16"), ("*fp16",) * 3 + ("*fp32",) * 2 + ("*fp16",)),
    ],
)
def test_tensorrt_and_the_kernel_are_told_the_same_types(
    interface: Interface, types: tuple[str, ...], pointers: tuple[str, ...]
) -> None:
    shapes = SHAPES if interface is REGION else (*SHAPES[:3], (2, 1, 196, 2), (2, 27, 27))
    attributes = dict.fromkeys(interface.attributes, 7) | {"heads": 2}
    assert interface.types("FP16") == types
    assert interface.sizes_of(shapes, "FP16", attributes).pointers == pointers
    assert interface.configurations > 0 and interface.plugin_id == f"debiexport::{interface.name}"


def test_the_element_type_is_that_of_the_maps() -> None:
    assert REGION.element_type(dtypes("HALF", "HALF", "HALF", "INT32")) == "FP16"
    assert AGENT.element_type(dtypes("HALF", "HALF", "HALF", "FLOAT", "FLOAT")) == "FP16"
    assert AGENT.element_type(dtypes(*["FLOAT"] * 5)) == "FP32"
    assert word_of(SimpleNamespace(name="BF16")) == "BF16"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("BF16", "BF16", "BF16", "INT32"), "RegionAttention of BF16: give FP32 or FP16"),
        (("HALF", "HALF", "FLOAT", "INT32"), "v is FP32 and has to be FP16: put a Cast before it"),
        (("HALF", "HALF", "HALF", "FLOAT"), "routes is FP32 and has to be INT32: put a Cast before it"),
        (("HALF", "HALF", "HALF"), "RegionAttention has 3 inputs: give q, k, v, routes"),
    ],
)
def test_other_types_are_refused(given: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        REGION.element_type(dtypes(*given))


@pytest.mark.parametrize("unknown", [None, -1])
def test_symbolic_shapes_are_refused(unknown: int | None) -> None:
    shapes = ((unknown, *SHAPES[0][1:]), *SHAPES[1:])
    with pytest.raises(UsageError, match=r"q is \(\?, 14, 14, 64\), and the sizes are constants .* fixed batch"):
        REGION.sizes_of(shapes, "FP32", {"heads": 2, "regions": 7})


def test_what_the_kernel_does_not_cover_is_refused() -> None:
    with pytest.raises(UsageError, match=r"RegionAttention: heads are 8 channels wide.*; export .* without the plugin"):
        REGION.sizes_of(SHAPES, "FP32", {"heads": 8, "regions": 7})


@pytest.mark.parametrize("given", [{}, {"heads": 2}, {"regions": 7, "heads": 2}, {"heads": 2, "regions": 7, "aot": 1}])
def test_other_attributes_are_refused(given: dict[str, int]) -> None:
    REGION.check_attributes({"heads": 2, "regions": 7})
    with pytest.raises(UsageError, match=r"RegionAttention has the attributes .*: give heads and regions"):
        REGION.check_attributes(given)
