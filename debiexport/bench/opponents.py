"""What a bundle is compared with, built from the bundle's own weights and proven before it is timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from debiexport.bench.report import Numerics
from debiexport.bench.subjects import EAGER, OPENVINO, OPPONENTS, PLAIN, Spec
from debiexport.bundle import Bundle, sha256_of
from debiexport.cards import shipped_checkpoint
from debiexport.errors import ParityError, UsageError
from debiexport.extras import EXPORT, require
from debiexport.parity_report import ParityReport
from debiexport.progress import Progress, silent
from debiexport.runtimes.ort import CPU, OrtRuntime

if TYPE_CHECKING:
    from debiexport.checkpoint import Checkpoint
    from debiexport.reference.network import ReferenceNetwork
    from debiexport.runtimes.base import Runtime


class OpponentFailed(ParityError):
    """An opponent that does not compute the reference.

    Attributes:
        parity: what was measured.
    """

    def __init__(self, name: str, parity: ParityReport) -> None:
        super().__init__(f"the opponent {name} does not compute the reference: {parity}; it is not timed")
        self.parity = parity


def check_opponents(opponents: Sequence[str], bundles: Sequence[Bundle], checkpoint: str | None, provider: str) -> None:
    """Refuse opponents that cannot be had, before any work.

    Raises:
        UsageError: no such opponent, bundles of different networks, weights that are not at hand, or a device that an
            opponent does not run on.
        MissingDependencyError: a package is not installed.
    """
    for name in opponents:
        if name not in OPPONENTS:
            raise UsageError(f"--against is {name!r}: allowed are {', '.join(OPPONENTS)}")
        if provider != CPU and name != PLAIN:
            raise UsageError(f"--against {name} runs on the CPU: compare on one device, without --provider {provider}")
    if not opponents:
        return
    first, *others = (b.manifest for b in bundles)
    for other in others:
        if (other.card, other.checkpoint_sha256, other.image_size) != (
            first.card,
            first.checkpoint_sha256,
            first.image_size,
        ):
            raise UsageError(
                f"--against with bundles of different networks ({first.card.name}, {other.card.name}), weights or image"
                " sizes: give bundles of one network, or leave --against out"
            )
    require(EXPORT, f"--against {opponents[0]}", "export")
    if OPENVINO in opponents:
        from debiexport.runtimes.openvino import PACKAGES

        require(PACKAGES, "--against openvino", "openvino")
    if checkpoint is None and first.checkpoint_sha256 is not None and _shipped(bundles[0]) is None:
        raise UsageError(
            f"--against {opponents[0]} needs the weights of {first.checkpoint}, which are not in the bundle: give"
            " --checkpoint"
        )


def reference_of(bundle: Bundle, checkpoint: str | None) -> ReferenceNetwork:
    """The reference network of a bundle, with the given, the shipped or the seeded random weights.

    Raises:
        UsageError: the checkpoint does not exist, or has another number of classes.
        CheckpointError: it is broken, unsafe, or of another network.
    """
    from debiexport.loading import build_reference

    return build_reference(_weights(bundle, checkpoint), bundle.manifest.image_size)


def _weights(bundle: Bundle, given: str | None) -> Checkpoint:
    from debiexport.checkpoint import random_checkpoint, read_checkpoint

    card = bundle.manifest.card
    path = given if given is not None else _shipped(bundle)
    exported = bundle.manifest.checkpoint
    weights = random_checkpoint(card) if path is None else read_checkpoint(path, card, exported_from=exported)
    if weights.card.num_classes != card.num_classes:
        raise UsageError(
            f"--checkpoint has {weights.card.num_classes} classes, the bundle {card.num_classes}:"
            f" give the one that it was exported from, {bundle.manifest.checkpoint}"
        )
    return weights


def _shipped(bundle: Bundle) -> Path | None:
    """The weights that ship with the bundle's card, if they are the bundle's."""
    path = shipped_checkpoint(bundle.manifest.card.name)
    if path is None or bundle.manifest.checkpoint_sha256 is None:
        return None
    return path if sha256_of(path) == bundle.manifest.checkpoint_sha256 else None


def prepare(
    opponents: Sequence[str],
    bundle: Bundle,
    checkpoint: str | None,
    *,
    batch: int,
    threads: int | None,
    provider: str,
    folder: Path,
    progress: Progress = silent,
) -> list[tuple[Spec, Numerics]]:
    """Export what has to be exported into a folder, and prove each opponent against the reference.

    Raises:
        OpponentFailed: an opponent does not compute the reference; it is not timed.
        UsageError, CheckpointError: see `reference_of`.
    """
    model = folder / "plain.onnx"
    network = reference_of(bundle, checkpoint)
    if PLAIN in opponents or OPENVINO in opponents:
        from debiexport.plain import export_plain

        progress(f"exporting {bundle.manifest.card.name} as it was released, batch {batch}")
        model.write_bytes(export_plain(network, batch).SerializeToString())
    prepared = []
    for name in opponents:
        spec = Spec(name, name, str(model), checkpoint, batch, threads, provider)
        if name == EAGER:
            spec = Spec(name, name, str(bundle.path), checkpoint, batch, threads)
            prepared.append((spec, Numerics.of_the_reference()))
            continue
        progress(f"comparing {name} with the reference")
        prepared.append((spec, _judge(name, _runtime(spec), network, bundle)))
    return prepared


def _runtime(spec: Spec) -> Runtime:
    if spec.kind == OPENVINO:
        from debiexport.runtimes.openvino import OpenVinoRuntime

        return OpenVinoRuntime(Path(spec.model), spec.threads)
    return OrtRuntime(Path(spec.model), spec.threads, spec.provider)


def _judge(name: str, runtime: Runtime, network: ReferenceNetwork, bundle: Bundle) -> Numerics:
    from debiexport.oracle import Oracle
    from debiexport.parity import judge
    from debiexport.parity_inputs import parity_images

    images = parity_images(bundle.manifest.card.preprocessing, bundle.manifest.image_size)
    report = judge(runtime, Oracle(network), bundle.geometry, images).report
    if not report.ok:
        raise OpponentFailed(name, report)
    return Numerics.of_report(report)
