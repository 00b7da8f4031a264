"""Lowerings: named choices of an implementation for each slot of the static network.

A slot's implementations are one small file each under `static/ops/<slot>/`; each says through
`supports(geometry)` what it can serve and why it refuses the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from debiexport.errors import UsageError


@dataclass(frozen=True)
class Lowering:
    """One implementation's name per slot."""

    name: str
    routing: str
    sampling: str
    bias: str
    broadcast: str
    heads: str
    norm: str
    layout: str

    def to_dict(self) -> dict[str, str]:
        return vars(self).copy()


SLOTS = ("routing", "sampling", "bias", "broadcast", "heads", "norm", "layout")

_ROWS = Lowering(
    "gather",
    routing="gather",
    sampling="hat",
    bias="hat",
    broadcast="rows",
    heads="permute",
    norm="layernorm",
    layout="nchw",
)
_CHANNELS = Lowering(
    "ane",
    routing="smallest",
    sampling="channels",
    bias="smallest",
    broadcast="channels",
    heads="interleaved",
    norm="channel",
    layout="channels",
)

LOWERINGS = {
    # The cheapest implementation of each attention on a CPU.
    "cpu": replace(_ROWS, name="cpu", routing="auto", bias="auto", heads="rows", norm="instance"),
    # Regions copied as rows everywhere; sampling and bias as products with hat functions.
    "gather": _ROWS,
    # Masks and matrix products only: no TopK, no Gather, no GridSample.
    "dense": replace(_ROWS, name="dense", routing="dense"),
    # Sampling and bias with the target's own GridSample.
    "grid_sample": replace(_ROWS, name="grid_sample", sampling="grid_sample", bias="grid_sample"),
    # For Apple's Neural Engine: channels first throughout, no index, no integer.
    "ane": _CHANNELS,
    # The same with regions chosen by top-k and copied by their indices.
    "ane_gather": replace(_CHANNELS, name="ane_gather", routing="indexed"),
}
DEFAULT = "cpu"

PLAIN = Lowering("plain", *["released"] * 7)
"""No rewrite: the network in its released form, for comparisons."""

COREML_LOWERINGS = {"ane": _CHANNELS, "gather": replace(LOWERINGS["ane_gather"], name="gather"), "plain": PLAIN}
COREML_DEFAULT = "ane"

TENSORRT_LOWERINGS = {
    # Attention in the form that TensorRT fuses: products of transposed heads, layer norms in one node.
    "native": replace(_ROWS, name="native"),
    # The attentions that TensorRT cannot fuse as nodes of our plugins.
    "plugins": replace(_ROWS, name="plugins", routing="fused", bias="fused", broadcast="fused"),
}


def find_lowering(text: str) -> Lowering:
    """A lowering by its name, or the default one with slots replaced: `routing=masked,bias=hat`.

    Raises:
        UsageError: there is no such lowering or slot. An unknown implementation is refused where it is built.
    """
    if "=" not in text:
        if text not in LOWERINGS:
            raise UsageError(f"--lowering is {text!r}: give one of {', '.join(LOWERINGS)}, or slot=NAME,…")
        return LOWERINGS[text]
    chosen: dict[str, str] = {}
    for part in text.split(","):
        slot, _, name = part.strip().partition("=")
        if slot not in SLOTS or not name or slot in chosen:
            raise UsageError(f"--lowering has {part.strip()!r}: give slot=NAME once for slots of {', '.join(SLOTS)}")
        chosen[slot] = name
    label = ",".join(f"{slot}={name}" for slot, name in sorted(chosen.items()))
    return replace(LOWERINGS[DEFAULT], name=label, **chosen)
