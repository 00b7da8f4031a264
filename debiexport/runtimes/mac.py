"""A Mac as its own commands describe it, and what in it slows a measurement down."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from debiexport.environment import UNKNOWN


@dataclass(frozen=True)
class Mac:
    """The chip, and the version and build of macOS; "unknown" where the system does not tell."""

    chip: str
    macos: str
    build: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.chip}, macOS {self.macos} ({self.build})"


@dataclass(frozen=True)
class Power:
    """What slows a Mac down; "unknown" where the system does not tell.

    Attributes:
        source: such as "AC Power" or "Battery Power".
        low_power_mode: "on" or "off".
        thermal_state: "nominal", or the limits that are in force.
    """

    source: str
    low_power_mode: str
    thermal_state: str

    @classmethod
    def of_texts(cls, battery: str, settings: str, thermal: str) -> Power:
        """From what `pmset -g batt`, `pmset -g` and `pmset -g therm` print."""
        return cls(_power_source(battery), _low_power_mode(settings), _thermal_state(thermal))

    @property
    def reasons(self) -> tuple[str, ...]:
        """What makes the machine slower than it can be."""
        found = [] if self.source in (UNKNOWN, "AC Power") else [f"the machine runs on {self.source}"]
        if self.low_power_mode == "on":
            found.append("low power mode is on")
        if self.thermal_state not in (UNKNOWN, "nominal"):
            found.append(f"the machine is hot: {self.thermal_state}")
        return tuple(found)

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.source}, low power mode {self.low_power_mode}, thermal state {self.thermal_state}"


def _power_source(text: str) -> str:
    """`Now drawing from 'AC Power'`"""
    found = re.search(r"drawing from '([^']+)'", text)
    return found[1] if found else UNKNOWN


def _low_power_mode(text: str) -> str:
    """`lowpowermode 1`, or `powermode 1` on machines that have a high power mode (2) too."""
    found = re.search(r"^\s*(?:lowpowermode|powermode)\s+(\d+)", text, re.MULTILINE)
    if found is None:
        return UNKNOWN
    return "on" if found[1] == "1" else "off"


def _thermal_state(text: str) -> str:
    """Notes that nothing has been recorded, or lines such as `CPU_Speed_Limit = 100`, the limit in percent."""
    limits = re.findall(r"^\s*([\w ]*(?:limit|level))\s*=\s*(\d+)", text, re.MULTILINE | re.IGNORECASE)
    told = [f"{name} {value}" for name, value in limits if int(value) != (100 if "limit" in name.lower() else 0)]
    if told:
        return ", ".join(told)
    return "nominal" if limits or "No thermal warning level" in text else UNKNOWN
