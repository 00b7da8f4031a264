"""TensorRT for RTX takes the plugins' nodes on a machine without a GPU, and refuses others with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from debiexport.plugins.region_attention.function import definition

pytestmark = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed")

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Case:
    """A model: tokens attend to their regions, and what comes out attends to agents."""

    element: int = TensorProto.FLOAT
    keys: int | None = None  # type of k, where it is another
    routes: int = TensorProto.INT32
    positions: int = TensorProto.FLOAT
    batch: int | str = 1
    width: int = 32
    region: dict[str, Any] = field(default_factory=lambda: {"heads": 2, "regions": 7})
    agent: dict[str, Any] = field(default_factory=lambda: {"heads": 2})

    def model(self) -> onnx.ModelProto:
        channels = 2 * self.width
        tokens: Shape = (self.batch, 14, 21, channels)
        agents: Shape = (self.batch, 7, 7, channels)
        inputs = {
            "q": (self.element, tokens),
            "k": (self.keys or self.element, tokens),
            "v": (self.element, tokens),
            "routes": (self.routes, (self.batch, 49, 4)),
            "agent_k": (self.element, agents),
            "agent_v": (self.element, agents),
            "positions": (self.positions, (self.batch, 1, 49, 2)),
            "table": (TensorProto.FLOAT, (2, 27, 27)),
        }
        nodes = [
            helper.make_node("Abs", ["q"], ["own"], name="before"),
            self._node("RegionAttention", ["own", "k", "v", "routes"], "mixed", self.region),
            self._node("AgentAttention", ["mixed", "agent_k", "agent_v", "positions", "table"], "told", self.agent),
            helper.make_node("Abs", ["told"], ["out"], name="after"),
        ]
        graph = helper.make_graph(
            nodes,
            "plugins",
            [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
            [helper.make_tensor_value_info("out", self.element, tokens)],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("debiexport", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    @staticmethod
    def _node(name: str, inputs: list[str], output: str, attributes: dict[str, Any]) -> onnx.NodeProto:
        node = helper.make_node(name, inputs, [output], name=f"stage3.block2/{name}", domain="debiexport", aot=1)
        for key in sorted(attributes, reverse=True):  # the parser passes them in the plugin's order all the same
            node.attribute.append(helper.make_attribute(key, attributes[key]))
        return node


@dataclass(frozen=True)
class Defined(Case):
    """The same model with the definition of one of the operations inside."""

    def model(self) -> onnx.ModelProto:
        model = super().model()
        model.functions.append(definition(20))
        return model


TAKEN = {"float32": Case(), "float16": Case(element=TensorProto.FLOAT16), "batch": Case(batch=3)}
REFUSED = {
    "routes": (
        Case(routes=TensorProto.INT64),
        "RegionAttention: routes is INT64 and has to be INT32: put a Cast before it",
    ),
    "keys": (Case(keys=TensorProto.FLOAT16), "RegionAttention: k is FP16 and has to be FP32: put a Cast before it"),
    "positions": (
        Case(element=TensorProto.FLOAT16, positions=TensorProto.FLOAT16),
        "AgentAttention: positions is FP16 and has to be FP32: put a Cast before it",
    ),
    "missing": (Case(region={"heads": 2}), "RegionAttention has the attributes heads: give heads and regions"),
    "float": (Case(agent={"heads": 2.0}), "AgentAttention: heads is FLOAT32: give an integer"),
    "regions": (Case(region={"heads": 2, "regions": 5}), "with 5 regions a side"),
    "width": (Case(width=12), "RegionAttention: heads are 12 channels wide"),
    "dynamic": (Case(batch="N"), "RegionAttention: q is (?, 14, 21, 64), and the sizes are constants of the kernel"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("twins")
    cases = TAKEN | {name: case for name, (case, _) in REFUSED.items()} | {"defined": Defined()}
    for name, case in cases.items():
        onnx.save(case.model(), folder / f"{name}.onnx")
    # At a plugin's node the parser opens the library by a name that the package does not have.
    spec = find_spec("tensorrt_rtx_libs")
    assert spec is not None and spec.submodule_search_locations
    (library,) = Path(spec.submodule_search_locations[0]).glob("libtensorrt_rtx.so.*")
    (folder / "libtensorrt_rtx.so").symlink_to(library)
    script = Path(__file__).with_name("build_with_twins.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=os.environ | {"LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", TAKEN)
def test_both_nodes_become_plugin_layers(found: dict[str, Any], name: str) -> None:
    case, result = TAKEN[name], found["models"][name]
    assert result["parsed"] and result["refusals"] == []
    dtype = "HALF" if case.element == TensorProto.FLOAT16 else "FLOAT"
    for plugin in ("RegionAttention", "AgentAttention"):
        assert result["layers"][f"stage3.block2/{plugin}"] == ["PLUGIN_V3", [case.batch, 14, 21, 64], dtype]
    assert [kind for kind, _, _ in result["layers"].values()].count("PLUGIN_V3") == 2


@pytest.mark.parametrize("name", TAKEN)
def test_the_network_around_them_is_built_the_same_each_time(found: dict[str, Any], name: str) -> None:
    first, second = found["models"][name]["plans"]
    assert first == second


@pytest.mark.parametrize("name", REFUSED)
def test_other_nodes_are_refused_with_the_reason(found: dict[str, Any], name: str) -> None:
    _, words = REFUSED[name]
    result = found["models"][name]
    assert not result["parsed"] and len(result["refusals"]) == 1
    (refusal,) = result["refusals"]
    assert refusal.startswith("stage3.block2/") and words in refusal and "\n" not in refusal


def test_a_definition_in_the_model_goes_before_the_plugin(found: dict[str, Any]) -> None:
    """So a graph for TensorRT must not have one."""
    result = found["models"]["defined"]
    assert result["parsed"] and "stage3.block2/RegionAttention" not in result["layers"]
    assert [kind for kind, _, _ in result["layers"].values()].count("PLUGIN_V3") == 1
    assert "SOFTMAX" in {kind for kind, _, _ in result["layers"].values()}


def test_attributes_pass_through_an_engine(found: dict[str, Any]) -> None:
    lifecycle = found["lifecycle"]
    assert lifecycle["written"] == [["heads", "INT32", [7]], ["regions", "INT32", [7]]]
    assert lifecycle["attributes"] == lifecycle["cloned"] == {"heads": 7, "regions": 7}


def test_a_twin_does_not_run(found: dict[str, Any]) -> None:
    words = "again: this engine was built to check the graph and does not run; build one with TensorRT"
    assert found["lifecycle"]["enqueue"].startswith(words)
