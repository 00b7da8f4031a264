"""Everything `debiexport doctor` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from debiexport.doctor.abilities import ABILITIES, Ability, judge_ability
from debiexport.doctor.conflicts import CONFLICTS, Conflict
from debiexport.doctor.machine import Machine, read_machine
from debiexport.doctor.measuring import Measuring, read_measuring
from debiexport.doctor.packages import PACKAGES, Package, find_package, minimum_versions
from debiexport.doctor.wrapping import wrapped


@dataclass(frozen=True)
class Diagnosis:
    """Everything `debiexport doctor` reports."""

    machine: Machine
    packages: tuple[Package, ...]
    abilities: tuple[Ability, ...]
    conflicts: tuple[Conflict, ...]
    measuring: Measuring

    @property
    def broken(self) -> tuple[Package, ...]:
        """Packages that are installed but have lost their files."""
        return tuple(package for package in self.packages if package.installed and not package.works)

    @property
    def healthy(self) -> bool:
        """Whether nothing that is installed has to be mended. What is merely not installed is no illness."""
        return not self.conflicts and not self.broken

    def to_dict(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "machine": self.machine.to_dict(),
            "packages": [package.to_dict() for package in self.packages],
            "abilities": [ability.to_dict() for ability in self.abilities],
            "conflicts": [conflict.to_dict() for conflict in self.conflicts],
            "bench": self.measuring.to_dict(),
        }

    def report(self) -> str:
        """The whole diagnosis for people, long lines wrapped, the summary last."""
        lines = [*wrapped(str(self.machine), indent=""), "", "Packages"]
        for package in self.packages:
            lines += wrapped(str(package), [package.reinstall])
        lines += ["", "What can be done here"]
        for ability in self.abilities:
            lines += wrapped(str(ability), ability.commands)
        lines += ["", "Measuring with bench"]
        for line in self.measuring.lines():
            lines += wrapped(line, self.measuring.cuda_commands)
        if self.conflicts:
            lines += ["", "Conflicts"]
            for conflict in self.conflicts:
                lines += wrapped(str(conflict), [c for remedy in conflict.remedies for c in remedy.commands])
        return "\n".join([*lines, "", str(self)])

    def __str__(self) -> str:
        possible = sum(ability.ok for ability in self.abilities)
        return (
            f"{possible} of {len(self.abilities)} abilities ok, {len(self.broken)} packages broken,"
            f" {len(self.conflicts)} conflicts"
        )


def diagnose() -> Diagnosis:
    """Look at this Python environment and this machine. Imports no package and writes nothing."""
    packages = {name: find_package(name, module) for name, module in PACKAGES.items()}
    minimums = minimum_versions()
    return Diagnosis(
        read_machine(),
        tuple(packages.values()),
        tuple(judge_ability(need, packages, minimums) for need in ABILITIES),
        tuple(found for find in CONFLICTS if (found := find(packages)) is not None),
        read_measuring(packages),
    )
