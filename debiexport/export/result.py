"""What an export ends with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.errors import ParityError
from debiexport.manifest import Manifest
from debiexport.parity_report import ParityReport


@dataclass(frozen=True)
class ExportResult:
    """A bundle that was written and proven.

    Attributes:
        path: its folder.
        manifest: what it holds.
        parity: what was measured.
        notes: what a user should know.
        engines: a line for each engine that was built.
    """

    path: Path
    manifest: Manifest
    parity: ParityReport
    notes: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.path),
            "manifest": self.manifest.to_dict(),
            "notes": list(self.notes),
            **({"engines": list(self.engines)} if self.engines else {}),
        }

    def __str__(self) -> str:
        return f"{self.path}: {self.parity}"


class UnverifiedExport(ParityError):
    """An export whose artifact lost parity; it was left, marked, for a look.

    Attributes:
        path: of the folder that was left, ending in `.unverified`.
        parity: what was measured.
    """

    def __init__(self, path: Path, parity: ParityReport, why: str | None = None) -> None:
        super().__init__(f"{why or parity}; the artifact is not usable and was left in {path} for inspection")
        self.path, self.parity = path, parity
