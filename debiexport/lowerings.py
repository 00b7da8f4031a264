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
    heads: str
    norm: str
    layout: str

    def to_dict(self) -> dict[str, str]:
        return vars(self).copy()


SLOTS = ("routing", "sampling", "bias", "heads", "norm", "layout")

LOWERINGS = {
    # The cheapest implementation of each attention on a CPU.
    "cpu": Lowering("cpu", routing="auto", sampling="hat", bias="auto", heads="rows", norm="instance", layout="nchw"),
    # Regions copied as rows everywhere; sampling and bias as products with hat functions.
    "gather": Lowering(
        "gather", routing="gather", sampling="hat", bias="hat", heads="permute", norm="layernorm", layout="nchw"
    ),
    # Masks and matrix products only: no TopK, no Gather, no GridSample.
    "dense": Lowering(
        "dense", routing="dense", sampling="hat", bias="hat", heads="permute", norm="layernorm", layout="nchw"
    ),
    # Sampling and bias with the target's own GridSample.
    "grid_sample": Lowering(
        "grid_sample",
        routing="gather",
        sampling="grid_sample",
        bias="grid_sample",
        heads="permute",
        norm="layernorm",
        layout="nchw",
    ),
}
DEFAULT = "cpu"


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
