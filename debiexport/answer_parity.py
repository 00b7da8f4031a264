"""Whether a runtime that shows no routes gives the stored answers of the reference: Core ML, or an engine of TensorRT.

Routes that are not shown cannot be forced on the reference: an image whose near-tie falls the other way there differs
from its stored answer for a good reason. How much near-ties can cost is measured at the export, where the evaluated
artifact's routes are near-ties too: the PSNR between the reference with those routes and the reference choosing freely,
of the worst image. The runtime's own rounding may take another set of flips of that size. The stored answers then are
off by both at once, twice the amplitude at most, which is 6 dB less. So what outputs have to reach is the smaller of
what the precision has to reach and that PSNR less 6 dB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from debiexport.errors import BundleError, UsageError
from debiexport.geometry import Geometry
from debiexport.golden import Golden, kept_values
from debiexport.manifest import Manifest
from debiexport.metrics import psnr_db
from debiexport.names import LOGITS
from debiexport.parity import OutputTally, index_groups
from debiexport.parity_report import OutputParity, json_value
from debiexport.runtimes.base import Array, Arrays, Runtime, float32
from debiexport.runtimes.coreml_process import PROBABILITIES
from debiexport.signature import IMAGES

GATE = "min_psnr_db"
"""Key of the manifest's `parity` under which an export keeps the PSNR that its precision has to reach."""

FLIPS = "flips_psnr_db"
"""Key under which it keeps what near-ties cost; see `ParityReport.flips_psnr_db`."""

FLIPS_MARGIN_DB = 6.0


@dataclass(frozen=True)
class PsnrGate:
    """What outputs have to reach.

    Attributes:
        min_psnr_db: what the precision has to reach with the same routes.
        flips_psnr_db: what the flips of the export cost; None if there were none, or if it does not count.
    """

    min_psnr_db: float
    flips_psnr_db: float | None = None

    @property
    def wanted_db(self) -> float:
        """The smaller of both, the latter less the margin for other flips."""
        if self.flips_psnr_db is None:
            return self.min_psnr_db
        return min(self.min_psnr_db, self.flips_psnr_db - FLIPS_MARGIN_DB)

    def to_dict(self) -> dict[str, Any]:
        return {
            "wanted_psnr_db": json_value(self.wanted_db),
            "min_psnr_db": json_value(self.min_psnr_db),
            "flips_psnr_db": json_value(self.flips_psnr_db),
        }

    def __str__(self) -> str:
        text = f"{self.wanted_db:.4g} dB"
        if self.wanted_db == self.min_psnr_db:
            return text
        return (
            f"{text} (near-ties, {self.flips_psnr_db:.1f} dB at the export, less {FLIPS_MARGIN_DB:g};"
            f" {self.min_psnr_db:g} dB with the same routes)"
        )


@dataclass(frozen=True)
class AnswerParity:
    """The outputs of a runtime against the stored answers; see `metrics`.

    Attributes:
        outputs: the worst figures of all images; of a classifier they are of probabilities, not logits.
        images_psnr_db: the worst output of each image, by name.
        gate: what every image has to reach.
    """

    outputs: OutputParity
    images_psnr_db: dict[str, float]
    gate: PsnrGate

    @property
    def worst(self) -> str:
        """The image with the lowest PSNR."""
        return min(self.images_psnr_db, key=self.images_psnr_db.__getitem__)

    @property
    def failure(self) -> str | None:
        """Why parity is lost, or None."""
        if not self.outputs.finite:
            return f"parity is lost: image {self.worst!r} gives outputs that are not finite"
        if not self.outputs.psnr_db >= self.gate.wanted_db:
            return f"parity is lost: PSNR {self.outputs.psnr_db:.1f} dB at image {self.worst!r} is below {self.gate}"
        return None

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.failure is None,
            **self.gate.to_dict(),
            **self.outputs.to_dict(),
            "images_psnr_db": {name: json_value(value) for name, value in self.images_psnr_db.items()},
        }

    def __str__(self) -> str:
        return self.failure or f"parity holds: PSNR {self.outputs.psnr_db:.1f} dB, wanted are {self.gate}"


def psnr_gate(manifest: Manifest, given: float | None) -> PsnrGate:
    """What outputs have to reach: the given PSNR in dB and nothing else, or what the manifest holds.

    Raises:
        UsageError: the given one is no number, or none is given and the manifest has none.
    """
    if given is not None:
        asked = _number(given)
        if asked is None:
            raise UsageError(f"the PSNR to reach is {given}: give a number of dB")
        return PsnrGate(asked)
    least = _number(manifest.parity.get(GATE))
    if least is None:
        raise UsageError(f"the manifest has no {GATE} in its parity: give the PSNR in dB that outputs have to reach")
    return PsnrGate(least, _number(manifest.parity.get(FLIPS)))


def _number(value: Any) -> float | None:
    """A finite number, or None for all else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def judge_answers(
    runtime: Runtime, golden: Golden, geometry: Geometry, gate: PsnrGate, *, batch: int | None = None, who: str
) -> AnswerParity:
    """Run the stored images and compare.

    Args:
        runtime: which takes the batch.
        batch: images per run; None for the only one that the runtime takes.
        who: what a message calls the runtime.
        golden: the stored answers.
        geometry: sizes of the network.
        gate: what every image has to reach.

    Raises:
        BundleError: an output is missing or has another shape, or the runtime fails.
    """
    batch = batch or runtime.batch or 1
    tally = OutputTally(batch)
    images: dict[str, float] = {}
    for indices in index_groups(len(golden.names), batch):
        results = runtime.run({IMAGES: golden.images[indices]})
        for i, image in enumerate(indices):
            given: Arrays = {}
            expected: Arrays = {}
            for name, shape in geometry.output_shapes.items():
                stored = golden.outputs[name][image : image + 1]
                output, reference = _pair(results, name, stored, (len(indices), *shape), who)
                given[name], expected[name] = kept_values(output[i : i + 1]), reference
            tally.add(given, expected)
            images[golden.names[image]] = min(psnr_db(given[name], expected[name]) for name in given)
    return AnswerParity(tally.result(), images, gate)


def _pair(
    results: Mapping[str, Array], name: str, stored: Array, shape: tuple[int, ...], who: str
) -> tuple[Array, Array]:
    """An output (N, ...), and what is expected of one image in it."""
    if name == LOGITS and name not in results and PROBABILITIES in results:  # all the numbers that a classifier gives
        name, stored = PROBABILITIES, _softmax(stored)
    if name not in results:
        raise BundleError(f"{who} gives {', '.join(sorted(results)) or 'nothing'}, and no {name}: export again")
    output = results[name]
    if output.dtype.kind != "f" or output.shape != shape:
        raise BundleError(f"{who} gives {name} {output.dtype} {output.shape}, expected is {shape}: export again")
    return float32(output), stored


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True), dtype=np.float32)
