"""Lowerings: named choices of an implementation for each slot of the static network.

A slot's implementations are one small file each under `static/ops/<slot>/`; each says through
`supports(geometry)` what it can serve and why it refuses the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from debiexport.errors import UsageError


@dataclass(frozen=True)
class Lowering:
    """One implementation's name per slot."""

    name: str
    routing: str
    sampling: str
    bias: str
    norm: str
    layout: str

    def to_dict(self) -> dict[str, str]:
        return vars(self).copy()


LOWERINGS = {
    "gather": Lowering("gather", routing="gather", sampling="hat", bias="hat", norm="layernorm", layout="nchw"),
}


def find_lowering(name: str) -> Lowering:
    """The lowering of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in LOWERINGS:
        raise UsageError(f"no lowering {name!r}: there are {', '.join(LOWERINGS)}")
    return LOWERINGS[name]
