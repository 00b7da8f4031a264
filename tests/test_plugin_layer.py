"""The stand-in of TensorRT comes and goes without a trace."""

from __future__ import annotations

import sys

import pytest
from plugin_layer import plugin_layer

pytest.importorskip("tensorrt_lean_bindings")

from debiexport.plugins.ahead_of_time import is_registered
from debiexport.plugins.region_attention.interface import INTERFACE
from debiexport.plugins.registration import register_plugins


@pytest.mark.parametrize("time", ["first", "second"])
def test_it_starts_empty_and_leaves_nothing_behind(time: str) -> None:
    before = {name for name in sys.modules if name.startswith("tensorrt")}
    with plugin_layer() as (trt, trtp):
        assert sys.modules["tensorrt"] is trt and sys.modules["tensorrt.plugin"] is trtp
        assert not is_registered(trtp, INTERFACE)
        register_plugins(trt, trtp)
        assert is_registered(trtp, INTERFACE)
        registry = trt.get_plugin_registry()
        assert registry.get_creator(INTERFACE.name, "1", "debiexport") is not None
    assert registry.get_creator(INTERFACE.name, "1", "debiexport") is None
    after = {name for name in sys.modules if name.startswith("tensorrt")}
    assert after - before <= {"tensorrt_lean_bindings", "tensorrt_lean_bindings.tensorrt_lean", "tensorrt_lean_libs"}


def test_a_failure_inside_leaves_nothing_behind_either() -> None:
    with pytest.raises(RuntimeError, match="inside"), plugin_layer():
        raise RuntimeError("inside")
    assert "tensorrt" not in sys.modules
