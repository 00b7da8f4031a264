"""TensorRT's own plugin layer takes both plugins and gets kernels that fit what it passes to them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from plugin_layer import Build, Kernel, plugin_layer

from debiexport.errors import MissingDependencyError, UsageError

pytest.importorskip("triton")
pytest.importorskip("tensorrt_lean_bindings")

from debiexport.plugins.agent_attention.interface import INTERFACE as AGENT
from debiexport.plugins.ahead_of_time import tactics
from debiexport.plugins.region_attention.interface import INTERFACE as REGION
from debiexport.plugins.registration import register_plugins

Layer = tuple[Any, Any]


@dataclass(frozen=True)
class Case:
    """One node: plugin, attributes, types and shapes of the inputs."""

    name: str
    attributes: dict[str, int]
    types: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]

    def build(self, layer: Layer, **changes: Any) -> Build:
        values = vars(self) | changes
        return Build(layer, values["name"], values["attributes"], values["types"], values["shapes"])


def region(element: str, batch: int | None = 1, tokens: int = 14, width: int = 32) -> Case:
    """Tokens of stage 3 of debi_t attend to their regions, 2 x 2 tokens each."""
    channels = 2 * width
    return Case(
        "RegionAttention",
        {"heads": 2, "regions": 7},
        (element, element, element, "INT32"),
        ((batch, tokens, tokens, channels), (batch, 14, 14, channels), (batch, 14, 14, channels), (batch, 49, 4)),
    )


def agent(element: str, batch: int = 1) -> Case:
    """Tokens attend to 49 agents."""
    return Case(
        "AgentAttention",
        {"heads": 2},
        (element, element, element, "FLOAT", "FLOAT"),
        ((batch, 7, 9, 64), (batch, 7, 7, 64), (batch, 7, 7, 64), (batch, 1, 49, 2), (2, 13, 13)),
    )


CASES = {
    "tokens": region("HALF"),
    "tokens in float32": region("FLOAT", batch=2),
    "agents": region("FLOAT", tokens=7),
    "to agents": agent("HALF", batch=2),
    "to agents in float32": agent("FLOAT"),
}


@pytest.fixture(scope="module")
def layer() -> Iterator[Layer]:
    with plugin_layer() as modules:
        register_plugins(*modules)
        yield modules


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest, layer: Layer) -> tuple[Case, Build, dict[int, Kernel]]:
    case = CASES[request.param]
    build = case.build(layer)
    return case, build, build.kernels()


def test_the_output_is_like_the_queries(built: tuple[Case, Build, dict[int, Kernel]]) -> None:
    case, build, _ = built
    dtype, shape = build.output()
    assert (dtype.name, shape) == (case.types[0], case.shapes[0])


def test_one_combination_of_types_all_linear(built: tuple[Case, Build, dict[int, Kernel]]) -> None:
    case, build, _ = built
    assert [tensor.type.name for tensor in build.formats] == [*case.types, case.types[0]]
    assert {tensor.format.name for tensor in build.formats} == {"LINEAR"}


def test_tactics_are_the_kernels_configurations(built: tuple[Case, Build, dict[int, Kernel]]) -> None:
    case, _, kernels = built
    assert kernels and set(kernels) <= set(range(1, (REGION if "Region" in case.name else AGENT).configurations + 1))
    assert len({(kernel.text, kernel.grid, kernel.block) for kernel in kernels.values()}) == len(kernels)


def test_kernels_take_the_inputs_and_the_output_and_nothing_else(built: tuple[Case, Build, dict[int, Kernel]]) -> None:
    case, _, kernels = built
    for kernel in kernels.values():
        entry = re.search(rf"\.visible \.entry {kernel.name}\(([^)]*)\)", kernel.text)
        assert entry is not None and entry[1].count(".param .u64 .ptr .global") == len(case.shapes) + 1
        assert entry[1].count(".param") == len(case.shapes) + 1 and kernel.scalars == 0


def test_launches_are_those_of_the_sizes(built: tuple[Case, Build, dict[int, Kernel]]) -> None:
    case, _, kernels = built
    interface = REGION if "Region" in case.name else AGENT
    element = "FP16" if case.types[0] == "HALF" else "FP32"
    for tactic, kernel in kernels.items():
        sizes = interface.sizes_of(case.shapes, element, case.attributes).with_configuration(tactic - 1)
        assert kernel.grid == sizes.grid and kernel.grid[2] == case.shapes[0][0]
        assert kernel.block == (32 * sizes.warps, 1, 1)
        assert f".reqntid {kernel.block[0]}\n" in kernel.text
        assert 0 <= kernel.shared_memory_bytes < 48 * 1024
        assert ("global_smem" in kernel.text) == (kernel.shared_memory_bytes > 0)


def test_the_batch_is_in_the_grid_alone(layer: Layer) -> None:
    one, three = (region("HALF", batch=batch).build(layer).kernels()[1] for batch in (1, 3))
    assert one.text == three.text and one.grid[:2] == three.grid[:2] and three.grid[2] == 3


def test_attributes_are_declared_in_order(layer: Layer) -> None:
    """The layer passes them by position, in the order of the creator's fields."""
    for interface in (REGION, AGENT):
        creator = layer[1]._lib.QDP_CREATORS[interface.plugin_id]
        assert tuple(item.name for item in creator.field_names) == interface.attributes
        assert (creator.name, creator.plugin_namespace, creator.plugin_version) == (interface.name, "debiexport", "1")


def test_registering_again_changes_nothing(layer: Layer) -> None:
    trtp = layer[1]
    before = dict(trtp._lib.QDP_REGISTRY)
    register_plugins(*layer)
    assert before == trtp._lib.QDP_REGISTRY and set(before) == {REGION.plugin_id, AGENT.plugin_id}


def test_types_are_known_before_shapes(layer: Layer) -> None:
    build = region("HALF").build(layer)
    (dtype,) = build.plugin.get_output_data_types(build.types, [4, 4, 4, 3])
    assert dtype.name == "HALF"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"types": ("HALF", "FLOAT", "HALF", "INT32")}, "RegionAttention: k is FP32 and has to be FP16: put a Cast"),
        (
            {"types": ("HALF", "HALF", "HALF", "INT64")},
            "RegionAttention: routes is INT64 and has to be INT32: put",
        ),
        ({"types": ("INT8", "INT8", "INT8", "INT32")}, "RegionAttention of INT8: give FP32 or FP16"),
        (
            {"types": ("HALF",), "shapes": ((1, 7, 7, 64),)},
            "RegionAttention has 1 inputs: give q, k, v, routes",
        ),
        ({"attributes": {"heads": 2}}, "RegionAttention has the attributes heads: give heads and regions"),
        ({"attributes": {"regions": 7, "heads": 2}}, "has the attributes regions, heads: give heads and regions"),
        ({"attributes": {"heads": 2, "regions": 5}}, "with 5 regions a side"),
        ({"attributes": {"heads": 8, "regions": 7}}, "RegionAttention: heads are 8 channels wide.*without the plugin"),
        (
            {"shapes": region("HALF", batch=None).shapes},
            r"RegionAttention: q is \(\?, 14, 14, 64\), and the sizes",
        ),
    ],
)
def test_other_nodes_are_refused(layer: Layer, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        region("HALF").build(layer, **changes).output()


def test_a_tactic_that_was_not_offered_is_refused(layer: Layer) -> None:
    build = region("HALF").build(layer)
    build.kernels()
    with pytest.raises(UsageError, match="there is no configuration -1"):
        build.kernel(0)


def test_equal_configurations_are_one_tactic() -> None:
    class Sizes:
        """Configuration 2 launches what configuration 0 does."""

        def __init__(self, index: int = 0) -> None:
            self.grid, self.warps, self.stages, self.index = (1, 1, 1), 4, 2, index

        def constants(self) -> dict[str, int]:
            return {"BLOCK": self.index % 2}

        def with_configuration(self, index: int) -> Sizes:
            return Sizes(index)

    sizes: Any = Sizes()
    assert tactics(sizes, 3) == [1, 2]


def test_a_tensorrt_without_embedded_kernels_is_refused() -> None:
    with pytest.raises(MissingDependencyError, match=r"TensorRT 10\.3\.0 embeds no plugin's kernel .*10\.9 or newer"):
        register_plugins(SimpleNamespace(__version__="10.3.0"), None)


def test_registering_needs_neither_triton_nor_torch() -> None:
    code = (
        "import sys, debiexport.plugins.registration, debiexport.plugins.twins\n"
        "print([name for name in ('triton', 'torch', 'tensorrt') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
