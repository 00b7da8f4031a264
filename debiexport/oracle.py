"""The reference's answers, image by image, with routes free or forced, in float32 and float64."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from debiexport.reference.network import ReferenceNetwork
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


class Oracle:
    """Answers are remembered, since an artifact takes the same routes at every batch size but for near-ties.

    Args:
        reference: loaded from the checkpoint, float32; it is not changed.
    """

    def __init__(self, reference: ReferenceNetwork) -> None:
        self._narrow = reference
        self._wide = copy.deepcopy(reference).double()
        self._answers: dict[bytes, Answer] = {}

    def forced(self, image: Array, routes: Mapping[str, Array]) -> Answer:
        """The answer for an image (3, H, W) with routes (1, R, k) forced on the attentions named."""
        digest = hashlib.sha256(image.tobytes())
        for name in sorted(routes):
            digest.update(name.encode() + routes[name].astype(np.int64).tobytes())
        key = digest.digest()
        if key not in self._answers:
            self._answers[key] = self._ask(image, routes)
        return self._answers[key]

    def _ask(self, image: Array, routes: Mapping[str, Array]) -> Answer:
        given = {name: torch.from_numpy(r.astype(np.int64)) for name, r in routes.items()}
        batch = torch.from_numpy(image[None])
        narrow, wide = self._narrow.run(batch, given), self._wide.run(batch.double(), given)
        return Answer(
            outputs={name: t.numpy() for name, t in narrow.outputs.items()},
            wide_outputs={name: t.numpy() for name, t in wide.outputs.items()},
            affinities={name: t.numpy() for name, t in narrow.affinities.items() if name in routes},
            wide_affinities={name: t.numpy() for name, t in wide.affinities.items() if name in routes},
        )
