"""What every export writes of itself, whatever its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from debiexport._version import __version__
from debiexport.export.source import Loaded
from debiexport.lowerings import Lowering
from debiexport.manifest import Artifact, Manifest
from debiexport.parity_report import ParityReport


def manifest_of(
    target: str,
    loaded: Loaded,
    lowering: Lowering,
    artifacts: Sequence[Artifact],
    report: ParityReport,
    packages: Sequence[str],
    versions: Mapping[str, str] | None = None,
    **more: Any,
) -> Manifest:
    """The manifest of a bundle.

    Args:
        target: of `debiexport.manifest`.
        loaded: the network that was exported.
        lowering: with which.
        artifacts: the bundle's files.
        report: of their parity.
        packages: whose versions shaped the files.
        versions: other ones.
        more: fields that only this target has.
    """
    return Manifest(
        target=target,
        card=loaded.card,
        checkpoint=loaded.description,
        checkpoint_sha256=loaded.sha256,
        image_size=loaded.geometry.image_size,
        artifacts=tuple(artifacts),
        lowering=lowering,
        versions={name: version(name) for name in packages} | {"debiexport": __version__, **(versions or {})},
        labels=loaded.labels,
        parity=report.to_dict(),
        **more,
    )
