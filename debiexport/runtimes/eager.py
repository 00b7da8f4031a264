"""The reference network in torch, as a runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from debiexport.preprocess import normalise
from debiexport.reference.network import ReferenceNetwork
from debiexport.runtimes.base import Array, Arrays
from debiexport.signature import IMAGES


class EagerRuntime:
    """Takes normalised images (N, 3, H, W) or RGB bytes (N, H, W, 3), any number of them."""

    def __init__(self, network: ReferenceNetwork) -> None:
        self._network = network

    @property
    def batch(self) -> int | None:
        """Any."""
        return None

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """See `Runtime.run`; nothing inside is tapped."""
        if taps:
            raise ValueError("the eager network has no taps here")
        images = inputs[IMAGES]
        if images.dtype == np.uint8:
            images = np.stack([normalise(image, self._network.card.preprocessing) for image in images])
        with torch.inference_mode():
            run = self._network.run(torch.from_numpy(images), {})
        return {name: tensor.numpy() for name, tensor in run.outputs.items()}
