"""What every runtime can do: load an artifact, run it, and show tensors inside by their stable names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


class Runtime(Protocol):
    """An artifact that can be run."""

    @property
    def batch(self) -> int | None:
        """The only batch it takes, or None if it takes any."""
        ...

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """Outputs, and the tapped tensors, by name.

        Raises:
            BundleError: the artifact has no tensor of a tapped name.
        """
        ...


def float32(array: Array) -> npt.NDArray[np.float32]:
    """A contiguous float32 copy, or the array itself if it is one."""
    return np.ascontiguousarray(array, dtype=np.float32)
