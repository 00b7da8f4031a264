"""Where Core ML means to run each operation of a model, as its compute plan tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NEURAL_ENGINE, GPU, CPU = "NeuralEngine", "GPU", "CPU"
DEVICES = (NEURAL_ENGINE, GPU, CPU)


@dataclass(frozen=True)
class PlacedOperation:
    """One operation and its device.

    Attributes:
        type: such as "conv", without the version of its operation set.
        output: name of its first output, "" if it has none.
        device: one of `DEVICES` that Core ML prefers; None if it does not tell.
        supported: devices that could run it.
        cost: estimated share, 0 to 1, of the model's time; None if Core ML does not tell.
    """

    type: str
    output: str
    device: str | None
    supported: tuple[str, ...]
    cost: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "output": self.output,
            "device": self.device,
            "supported": list(self.supported),
            "cost": self.cost,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlacedOperation:
        """The inverse of `to_dict`."""
        return cls(data["type"], data["output"], data["device"], tuple(data["supported"]), data["cost"])

    def __str__(self) -> str:
        able = " although the Neural Engine could" if NEURAL_ENGINE in self.supported else ""
        return f"{self.type} -> {self.output} on {self.device or 'unknown'}{able}"


@dataclass(frozen=True)
class ComputePlan:
    """What Core ML plans before it runs; it is an estimate, and no record of a run.

    Attributes:
        unit: the compute units that were allowed.
        function: of the model.
        operations: in order, constants left out.
    """

    unit: str
    function: str
    operations: tuple[PlacedOperation, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Operations per device."""
        found = Counter(operation.device for operation in self.operations)
        return {device: found[device] for device in DEVICES}

    @property
    def unknown(self) -> int:
        """Operations whose device Core ML does not tell."""
        return sum(operation.device is None for operation in self.operations)

    @property
    def cost_shares(self) -> dict[str, float] | None:
        """Share of the estimated cost per device, of the operations with both; None if there are none."""
        costs = dict.fromkeys(DEVICES, 0.0)
        for operation in self.operations:
            if operation.device is not None and operation.cost is not None:
                costs[operation.device] += operation.cost
        total = sum(costs.values())
        return {device: cost / total for device, cost in costs.items()} if total > 0 else None

    @property
    def off_neural_engine(self) -> tuple[PlacedOperation, ...]:
        """Operations that are known to run elsewhere."""
        return tuple(o for o in self.operations if o.device not in (None, NEURAL_ENGINE))

    def to_dict(self) -> dict[str, Any]:
        shares = self.cost_shares
        return {
            "unit": self.unit,
            "function": self.function,
            "cost_share": None if shares is None else {device: round(share, 6) for device, share in shares.items()},
            "operations": self.counts,
            "operations_of_unknown_device": self.unknown,
            "off_neural_engine": [operation.to_dict() for operation in self.off_neural_engine],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Every operation as a JSON value; see `of_rows`."""
        return [operation.to_dict() for operation in self.operations]

    @classmethod
    def of_rows(cls, unit: str, function: str, rows: Sequence[Mapping[str, Any]]) -> ComputePlan:
        """The plan of which `rows` gave these."""
        return cls(unit, function, tuple(map(PlacedOperation.from_dict, rows)))

    def __str__(self) -> str:
        shares, counts = self.cost_shares, self.counts
        if not any(counts.values()):
            return f"Core ML tells no device for any of {len(self.operations)} operations"
        parts = [
            f"{device} {counts[device]}" + ("" if shares is None else f" ({shares[device]:.0%} of the cost)")
            for device in DEVICES
        ]
        return "operations: " + ", ".join(parts) + (f", unknown {self.unknown}" if self.unknown else "")
