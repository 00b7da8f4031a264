"""What an artifact of a precision has to reach for its parity to hold.

float32 artifacts are held to a multiple of the reference's own rounding noise. Half precision is far above that noise
whatever is done well: its outputs have to reach a peak signal-to-noise ratio, and its affinities may be off by a
multiple of the same noise, scaled by the ratio of the rounding units: what amplifies rounding in one precision does so
in the other. Where weights are compressed the network is another one on purpose: it has to stay
within a coarse bound that no broken conversion reaches, its routes are reported and not judged, and accuracy decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from debiexport.errors import BundleError

FLOAT32 = "float32"
_SINGLE, _HALF = 2.0**-23, 2.0**-10


@dataclass(frozen=True)
class Gate:
    """The bounds of a precision.

    Attributes:
        precision: as artifacts name it.
        epsilon: rounding unit of the activations.
        factor: how many times the reference's rounding noise, in that unit, affinities may be off.
        min_psnr_db: of the outputs against the forced reference; None where a multiple of the reference's noise is
            the bound.
        judges_routes: whether a region that rounding does not explain is a failure.
    """

    precision: str
    epsilon: float
    factor: float
    min_psnr_db: float | None = None
    judges_routes: bool = True

    @property
    def unit(self) -> float:
        """The rounding unit in those of float32, in which the reference's noise is measured."""
        return self.epsilon / _SINGLE


GATES = {
    gate.precision: gate
    for gate in (
        Gate(FLOAT32, _SINGLE, 8.0),
        Gate("fp32", _SINGLE, 8.0, min_psnr_db=110.0),
        Gate("fp16", _HALF, 2.0, min_psnr_db=55.0),
        Gate("int8", _HALF, 2.0, min_psnr_db=30.0, judges_routes=False),
        Gate("palette6", _HALF, 2.0, min_psnr_db=20.0, judges_routes=False),
        Gate("palette4", _HALF, 2.0, min_psnr_db=10.0, judges_routes=False),
    )
}


def find_gate(precision: str) -> Gate:
    """The gate of a precision that a bundle names.

    Raises:
        BundleError: there is none.
    """
    if precision not in GATES:
        raise BundleError(f"nothing is known of the precision {precision!r}: it is one of {', '.join(GATES)}")
    return GATES[precision]
