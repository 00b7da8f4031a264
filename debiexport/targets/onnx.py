"""Static network -> ONNX model with stable names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from debiexport.errors import DebiexportError, UsageError
from debiexport.graph.gathers import shape_gathers
from debiexport.graph.grid_samples import drop_default_mode
from debiexport.graph.hats import fuse_hats
from debiexport.graph.metadata import write_metadata
from debiexport.graph.outputs import keep_outputs
from debiexport.graph.reshapes import merge_reshapes
from debiexport.graph.scopes import name_places
from debiexport.signature import IMAGES
from debiexport.static.network import StaticNetwork
from debiexport.static.taps import Taps
from debiexport.targets.fused import DOMAIN, VERSION, add_definitions, translations
from debiexport.targets.quiet import quiet_exporter

OPSETS = (18, 19, 20)
DEFAULT_OPSET = 20
BATCH_AXIS = "batch"
MAX_BATCH = 1024
MAX_FILE_BYTES = 2**31 - 1  # protobuf's limit
_ROOT = "network"

Pass = Callable[[ir.Model, Collection[str]], None]
PASSES: Mapping[str, Pass] = {
    "merge_reshapes": merge_reshapes,
    "shape_gathers": shape_gathers,
    "fuse_hats": fuse_hats,
}
"""What makes the graph smaller without changing a number. The taps are still outputs, and so stay."""


def check_opset(opset: int) -> int:
    """Refuse an opset that the exporter cannot save.

    Raises:
        UsageError: out of range.
    """
    if opset not in OPSETS:
        raise UsageError(f"--opset is {opset}: allowed are {OPSETS[0]} to {OPSETS[-1]}")
    return opset


class _Tapped(nn.Module):
    """Returns the taps as outputs, which is how the exporter learns their names."""

    def __init__(self, network: StaticNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        taps = Taps()
        return (*self.network.outputs(images, taps), *taps.values())


def tap_names(network: StaticNetwork) -> list[str]:
    """Stable names that the network's model holds, in order."""
    taps = Taps()
    with torch.no_grad():
        network.outputs(network.example(1), taps)
    return list(taps)


def to_onnx(
    network: StaticNetwork,
    *,
    batch: int | None,
    opset: int = DEFAULT_OPSET,
    properties: Mapping[str, str] | None = None,
    passes: Mapping[str, Pass] = PASSES,
) -> onnx.ModelProto:
    """Convert a static network to one ONNX model: `images` -> `logits`, or `feature1` to `feature4`.

    Where the lowering has fused operations, their definitions are in the model, see `targets.fused`.

    Args:
        network: float32.
        batch: N, or None for a dynamic batch.
        opset: 18 to 20.
        properties: model properties to store.
        passes: over the graph, in order, each told which tensors have to stay.

    Raises:
        UsageError: the opset is out of range.
        DebiexportError: the exporter saved another opset than asked for, an invalid graph or too large a file.
    """
    check_opset(opset)
    taps = tap_names(network)
    example = network.example(batch or 2)
    shapes = None if batch else ({0: torch.export.Dim(BATCH_AXIS, min=1, max=MAX_BATCH)},)
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            _Tapped(network).eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[IMAGES],
            output_names=[*network.output_names, *taps],
            dynamic_shapes=shapes,
            custom_translation_table=translations(),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise DebiexportError("torch.onnx.export returned no program: please report this with `debiexport doctor`")
    model = program.model
    name_places(model, _ROOT, taps)
    for apply in passes.values():
        apply(model, taps)
    keep_outputs(model, network.output_names)
    drop_default_mode(model)
    write_metadata(model, network.geometry.card.name, properties or {})
    proto: onnx.ModelProto = program.model_proto
    add_definitions(proto)
    _verify(proto, opset)
    return proto


def _verify(proto: onnx.ModelProto, opset: int) -> None:
    saved = {entry.domain: entry.version for entry in proto.opset_import}
    wanted = {"": opset} | ({DOMAIN: VERSION} if proto.functions else {})
    if saved != wanted:
        raise DebiexportError(f"asked for opset {opset}, the exporter made {saved}: please report this")
    size = proto.ByteSize()
    if size > MAX_FILE_BYTES:
        raise DebiexportError(f"the model has {size} bytes, one ONNX file holds at most {MAX_FILE_BYTES}")
    onnx.checker.check_model(proto, full_check=True)
