"""The batches that an engine is built for: one, or a range with the one it is tuned for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from debiexport.errors import BundleError, UsageError

MAX_BATCH = 1024
_FORM = re.compile(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})\s*:\s*(\d{1,9})\s*)?", re.ASCII)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Batches from `min` to `max`; kernels are chosen for `opt`.

    Raises:
        UsageError: they are out of order, or not in 1..1024.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not all(1 <= batch <= MAX_BATCH for batch in (self.min, self.opt, self.max)):
            raise UsageError(f"--batch is {self}: give batches from 1 to {MAX_BATCH}")
        if not self.min <= self.opt <= self.max:
            raise UsageError(f"--batch is {self}: give the smallest first and the largest last")

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read `N`, or `MIN:OPT:MAX`.

        Raises:
            UsageError: it is neither, or see `Profile`.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise UsageError(
                f"--batch is {text!r}: give a number such as 8, MIN:OPT:MAX such as 1:8:32, or several such as 1,8"
            )
        low = int(found[1])
        return cls(low, int(found[2] or low), int(found[3] or low))

    @property
    def is_range(self) -> bool:
        """Whether it holds more than one batch."""
        return self.min != self.max

    @property
    def batch(self) -> int | None:
        """The only batch, or None if there are several."""
        return None if self.is_range else self.max

    def admits(self, batch: int) -> bool:
        return self.min <= batch <= self.max

    def shapes(self, shape: Sequence[int]) -> tuple[Shape, Shape, Shape]:
        """The smallest, the tuned and the largest shape of an input, whose first side is the batch."""
        tail = tuple(shape[1:])
        return (self.min, *tail), (self.opt, *tail), (self.max, *tail)

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Profile:
        """What `to_dict` wrote.

        Raises:
            BundleError: it did not write that.
        """
        sides = ("min", "opt", "max")
        if not isinstance(data, Mapping) or set(data) != set(sides) or any(type(data[s]) is not int for s in sides):
            raise BundleError(f"the batches of an engine are {data!r}, wanted are min, opt and max: export again")
        try:
            return cls(data["min"], data["opt"], data["max"])
        except UsageError as error:
            raise BundleError(f"the batches of an engine are {data!r}, not in order: export again") from error

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}" if self.is_range else str(self.max)
