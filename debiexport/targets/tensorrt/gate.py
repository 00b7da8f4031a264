"""The compile gate: TensorRT for RTX builds a typed model, on any machine, and took it for what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from debiexport.errors import EngineError
from debiexport.graph.attentions import attention_products
from debiexport.graph.functions import DOMAIN, drop_functions
from debiexport.targets.tensorrt import rtx
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.rtx_report import RtxBuild

_PLUGIN = "PLUGIN_V3"


@dataclass(frozen=True)
class Passed:
    """A model that TensorRT for RTX has built.

    Attributes:
        found: what the build found out.
        attentions: of the model in native operations, all of them recognised as attention.
        plugins: nodes of the project's own operators, all of them taken for plugins.
    """

    found: RtxBuild
    attentions: int
    plugins: int


def compile_gate(
    model: Path,
    plan: Path | None,
    capabilities: Sequence[str],
    profile: Profile,
    *,
    timeout_s: float = rtx.TIMEOUT_S,
) -> Passed:
    """Build a typed model.

    Args:
        model: the ONNX file.
        plan: where to write the engine. Of a model with plugins none is written: it would have stand-ins in their
            place, which compute nothing.
        capabilities: the GPUs it is for, such as "sm89".
        profile: the batches that it is to take.
        timeout_s: seconds after which the build is ended.

    Raises:
        EngineError: TensorRT refuses the model, misses an attention, or takes a plugin for something else.
        DebiexportError: see `rtx.build`.
    """
    read = onnx.load(str(model))
    expected = [name for pair in attention_products(read) for name in pair]
    plugins = sum(node.domain == DOMAIN for node in read.graph.node)
    with TemporaryDirectory(prefix="debiexport-") as folder:
        called = model
        if plugins:  # with their definitions inside they would be put in place of the plugins
            called = Path(folder) / model.name
            called.write_bytes(drop_functions(read).SerializeToString())
        found = rtx.build(
            called,
            None if plugins else plan,
            capabilities,
            with_plugins=plugins > 0,
            profile=(profile.min, profile.opt, profile.max) if profile.is_range else None,
            timeout_s=timeout_s,
        )
    unfused = found.unfused(expected)
    if unfused:
        raise EngineError(
            f"TensorRT for RTX did not recognise {len(unfused)} of {len(expected)} products of attentions, such as"
            f" {unfused[0]}, as parts of one: please report this with `debiexport doctor`"
        )
    taken = found.layer_types().get(_PLUGIN, 0)
    if taken != plugins:
        raise EngineError(
            f"{model.name} has {plugins} fused operations, and TensorRT for RTX took {taken} of them for plugins:"
            " please report this with `debiexport doctor`"
        )
    return Passed(found, len(expected) // 2, plugins)
