"""Which bundles `debiexport bench` measures by themselves: those that ONNX Runtime does not run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from debiexport.errors import BundleError, UsageError
from debiexport.manifest import COREML, TENSORRT, read_manifest

_NAMES = {COREML: "Core ML", TENSORRT: "TensorRT"}
_WHY_ALONE = {COREML: "as its compute units take the turns", TENSORRT: "as its engines take the GPU"}
_HOW = {COREML: "timed by itself on each choice of compute units", TENSORRT: "timed by itself on the GPU"}


def measured_alone(bundles: Sequence[Path]) -> str | None:
    """The target of a bundle that is measured by itself; None where ONNX bundles are compared.

    Raises:
        UsageError: bundles of several targets were given, or several of a target that is measured by itself.
    """
    targets = {path: target for path in bundles if (target := _target(path)) in _NAMES}
    if not targets:
        return None
    first, target = next(iter(targets.items()))
    others = [path for path in bundles if targets.get(path) != target]
    if others:
        raise UsageError(
            f"{first} is a {_NAMES[target]} bundle and {others[0]} is not: they run in different ways, measure each by"
            " itself"
        )
    if len(bundles) > 1:
        raise UsageError(
            f"{len(bundles)} {_NAMES[target]} bundles were given: measure one at a time, {_WHY_ALONE[target]}"
        )
    return target


def refuse_options(target: str, options: dict[str, bool]) -> None:
    """Refuse options that do not apply to a target.

    Args:
        target: that is measured by itself.
        options: whether each was given, by its name.

    Raises:
        UsageError: one was.
    """
    given = [name for name, is_given in options.items() if is_given]
    if given:
        raise UsageError(
            f"{given[0]} does not apply to a {_NAMES[target]} bundle, which is {_HOW[target]}: leave it out"
        )


def _target(bundle: Path) -> str:
    try:
        return read_manifest(bundle).target
    except (BundleError, OSError):  # said where it is opened
        return ""
