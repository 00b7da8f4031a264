"""`check` of a Core ML bundle: what its package asks of the Neural Engine, counted again from the saved files."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

from debiexport.bundle import PACKAGE, Bundle
from debiexport.errors import BundleError
from debiexport.placement.report import PlacementReport, placement_of
from debiexport.runtimes.coreml import read_saved

_FINDINGS = "never_on_ane"


def check_placement(bundle: Bundle, notes: list[str]) -> PlacementReport:
    """Count again, and compare with what the manifest says.

    Args:
        bundle: of the target "coreml".
        notes: are told of a difference.

    Raises:
        BundleError: the package is damaged.
    """
    model = bundle.models[0]
    found = placement_of(read_saved(bundle.path / PACKAGE, model.sha256), bundle.path / PACKAGE, model.function)
    if bundle.manifest.placement is None:
        notes.append("the manifest holds no placement report, so there is none to compare with")
        return found
    try:
        written = PlacementReport.from_dict(bundle.manifest.placement)
    except BundleError as error:
        notes.append(f"in the manifest, {error}")
        return found
    differing = differences(found, written)
    if differing:
        notes.append(
            f"the manifest's placement report is not what is counted here, it differs in {', '.join(differing)}:"
            " another version of debiexport wrote it, or it was changed"
        )
    return found


def differences(one: PlacementReport, other: PlacementReport) -> list[str]:
    """Names of the figures that differ; the wording of the evidence is no figure."""
    names = [field.name for field in fields(PlacementReport) if field.name != _FINDINGS]
    differing = [name for name in names if getattr(one, name) != getattr(other, name)]
    return differing + [_FINDINGS] * (_counts(one) != _counts(other))


def _counts(report: PlacementReport) -> Counter[tuple[str, str]]:
    return Counter({(finding.reason, finding.type): finding.count for finding in report.never_on_ane})
