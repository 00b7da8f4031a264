"""The network exported as it was released: what a user gets who gives it to `torch.onnx.export` as it stands.

It is an opponent for comparisons, no artifact. The mathematics is the reference's own; only the gathering of
keys and values, which the reference does region by region, is put back into its released form: `torch.gather`
with an index expanded over regions, tokens and channels, which copies all keys and values once per query
region. The position bias is sampled from a grid of all tokens and agents, as in the reference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from debiexport.cards import Card
from debiexport.errors import DebiexportError
from debiexport.graph.metadata import write_metadata
from debiexport.graph.outputs import keep_outputs
from debiexport.graph.scopes import name_places
from debiexport.names import routed_sites
from debiexport.reference import bra, dbra
from debiexport.reference.network import ReferenceNetwork
from debiexport.reference.trace import Trace
from debiexport.targets.quiet import quiet_exporter

OPSET = 20
_ROOT = "network"
_ATTENTION = "routed_attention"
_BLOCK = re.compile(r"^stages\.(\d+)\.(?:blocks\.)?(\d+)")


def gathered_attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, heads: int, scale: float) -> Tensor:
    """`reference.regions.routed_attention` as the released code gathers keys and values."""
    n, r, tq, c = q.shape
    tk, topk, d = k.shape[2], routes.shape[-1], c // heads
    index = routes.reshape(n, r, topk, 1, 1).expand(-1, -1, -1, tk, c)

    def gather(x: Tensor) -> Tensor:  # (N, R, Tk, C) -> (N, R, M, topk*Tk, d)
        rows = torch.gather(x.reshape(n, 1, r, tk, c).expand(-1, r, -1, -1, -1), 2, index)
        return rows.reshape(n, r, topk * tk, heads, d).transpose(2, 3)

    queries = q.reshape(n, r, tq, heads, d).transpose(2, 3)
    scores = (queries * scale) @ gather(k).transpose(-2, -1)
    return (scores.softmax(-1) @ gather(v)).transpose(2, 3).reshape(n, r, tq, c)


@contextmanager
def released_gathering() -> Iterator[None]:
    """Let reference networks gather as the released code does while the block runs."""
    kept = [(module, getattr(module, _ATTENTION)) for module in (bra, dbra)]
    try:
        for module, _ in kept:
            setattr(module, _ATTENTION, gathered_attention)
        yield
    finally:
        for module, attention in kept:
            setattr(module, _ATTENTION, attention)


class NamedReference(nn.Module):
    """Returns affinities and routes beside the outputs, which is how the exporters learn their names.

    Whatever traces it, keys and values are gathered in the released form.
    """

    def __init__(self, network: ReferenceNetwork) -> None:
        super().__init__()
        self.network = network

    def named(self, images: Tensor) -> dict[str, Tensor]:
        trace = Trace(keep=True)
        with released_gathering():
            outputs = self.network.outputs(images, trace)
        return {**outputs, **trace.tensors}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())


def export_plain(network: ReferenceNetwork, batch: int) -> onnx.ModelProto:
    """The reference network in its released form as an ONNX model with a static batch.

    Its affinities and routes have their stable names inside, so that it can be judged like an artifact.

    Raises:
        DebiexportError: the exporter made something else than the released form.
    """
    routed = NamedReference(network).eval()
    example = torch.zeros(batch, 3, *network.image_size)
    with quiet_exporter(), torch.no_grad():
        names = list(routed.named(example[:1]))
        program = torch.onnx.export(
            routed,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise DebiexportError("torch.onnx.export returned no program: please report this with `debiexport doctor`")
    inside = [name for name in names if name.startswith("stage")]
    name_places(program.model, _ROOT, names)
    _name_blocks(program.model)
    keep_outputs(program.model, [name for name in names if name not in inside])
    write_metadata(program.model, f"{network.card.name}, as released", {})
    proto: onnx.ModelProto = program.model_proto
    check_histogram(proto, network.card)
    return proto


def check_histogram(model: onnx.ModelProto, card: Card) -> None:
    """Refuse a model that is not the released form.

    Each routed attention gathers twice (keys and values) with expanded indices, each DBRA samples twice
    (agents and position bias).

    Raises:
        DebiexportError: the number of nodes of a kind is another.
    """
    sites = routed_sites(card)
    gathers, samples = 2 * len(sites), 2 * sum(site.kind == "dbra" for site in sites)
    found = Counter(node.op_type for node in model.graph.node)
    if found["GatherElements"] != gathers or found["GridSample"] != samples or found["Expand"] < gathers:
        raise DebiexportError(
            f"the plain export of {card.name} is not the released form: {found['GatherElements']} GatherElements,"
            f" {found['GridSample']} GridSample, {found['Expand']} Expand where {gathers}, {samples} and at least"
            f" {gathers} are expected; compare with another opponent, and report this with `debiexport doctor`"
        )


def _name_blocks(model: ir.Model) -> None:
    """`stages.2.1.attn2/MatMul` becomes `stage3.block2.attn2/MatMul`, as in a bundle."""

    def place(match: re.Match[str]) -> str:
        return f"stage{int(match[1]) + 1}.block{int(match[2]) + 1}"

    for node in model.graph:
        node.name = _BLOCK.sub(place, node.name or "")
        for value in node.outputs:  # a fused node takes the name of its output
            value.name = _BLOCK.sub(place, value.name or "")
