"""The reference's answers, image by image, with routes free or forced, in float32 and float64."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from debiexport.reference.network import ReferenceNetwork, ReferenceRun
from debiexport.runtimes.base import Array


@dataclass(frozen=True)
class Answer:
    """What the reference computes for one image.

    Attributes:
        outputs: (1, ...) in float32, by output name.
        wide_outputs: the same in float64 with the same routes.
        affinities: (1, R, R) in float32, by the stable name of the attention.
        wide_affinities: the same in float64.
    """

    outputs: dict[str, Array]
    wide_outputs: dict[str, Array]
    affinities: dict[str, Array]
    wide_affinities: dict[str, Array]


@dataclass(frozen=True)
class Inside:
    """What the reference computes on its way for one image: the residual stream and the outputs, by stable name.

    Attributes:
        narrow: (1, ...) in float32.
        wide: the same in float64 with the same routes.
    """

    narrow: dict[str, Array]
    wide: dict[str, Array]


class Oracle:
    """Answers are remembered, since an artifact takes the same routes at every batch size but for near-ties.

    Args:
        reference: loaded from the checkpoint, float32; it is not changed.
    """

    def __init__(self, reference: ReferenceNetwork) -> None:
        self._narrow = reference
        self._wide = copy.deepcopy(reference).double()
        self._answers: dict[bytes, Answer] = {}
        self._inside: tuple[bytes, Inside] | None = None  # of the last image only: it is large

    def forced(self, image: Array, routes: Mapping[str, Array]) -> Answer:
        """The answer for an image (3, H, W) with routes (1, R, k) forced on the attentions named."""
        key = _key(image, routes)
        if key not in self._answers:
            self._answers[key] = self._ask(image, routes)
        return self._answers[key]

    def free(self, image: Array) -> dict[str, Array]:
        """The outputs (1, ...) in float32 for an image (3, H, W), every route its own choice."""
        run = self._narrow.run(torch.from_numpy(image[None]), {})
        return {name: tensor.numpy() for name, tensor in run.outputs.items()}

    def inside(self, image: Array, routes: Mapping[str, Array]) -> Inside:
        """The residual stream and the outputs for an image (3, H, W), forced as in `forced`."""
        key = _key(image, routes)
        if self._inside is None or self._inside[0] != key:
            runs = self._run(image, routes, stream=True)
            narrow, wide = ({n: t.numpy() for n, t in (run.stream | run.outputs).items()} for run in runs)
            self._inside = key, Inside(narrow, wide)
        return self._inside[1]

    def _run(
        self, image: Array, routes: Mapping[str, Array], *, stream: bool = False
    ) -> tuple[ReferenceRun, ReferenceRun]:
        """One run in float32 and one in float64."""
        given = {name: torch.from_numpy(r.astype(np.int64)) for name, r in routes.items()}
        batch = torch.from_numpy(image[None])
        return self._narrow.run(batch, given, stream=stream), self._wide.run(batch.double(), given, stream=stream)

    def _ask(self, image: Array, routes: Mapping[str, Array]) -> Answer:
        narrow, wide = self._run(image, routes)
        return Answer(
            outputs={name: t.numpy() for name, t in narrow.outputs.items()},
            wide_outputs={name: t.numpy() for name, t in wide.outputs.items()},
            affinities={name: t.numpy() for name, t in narrow.affinities.items() if name in routes},
            wide_affinities={name: t.numpy() for name, t in wide.affinities.items() if name in routes},
        )


def _key(image: Array, routes: Mapping[str, Array]) -> bytes:
    digest = hashlib.sha256(image.tobytes())
    for name in sorted(routes):
        digest.update(name.encode() + routes[name].astype(np.int64).tobytes())
    return digest.digest()
