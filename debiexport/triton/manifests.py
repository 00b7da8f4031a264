"""Writing the manifests: one folder for plain Kubernetes, one for KServe; `kubectl apply -f` takes either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from debiexport.atomic import staged_file
from debiexport.errors import OutputError
from debiexport.triton.kserve import kserve_manifests
from debiexport.triton.kubernetes import kubernetes_manifests
from debiexport.triton.words import listed
from debiexport.triton.workload import Workload
from debiexport.triton.yaml_text import to_yaml

KUBERNETES, KSERVE = "kubernetes", "kserve"
MANY_CPUS = 8
"""CPUs of one pod beyond which nodes that could take it are few."""


def check_manifests(workload: Workload, folder: Path, *, force: bool = False) -> None:
    """Make sure that `write_manifests` replaces nothing without being told to.

    Raises:
        OutputError: a manifest is there already and differs, or cannot be read, or the folder is a file.
    """
    for name, text in _texts(workload):
        path = folder / name
        try:
            differs = path.read_bytes() != text.encode()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _refusal(folder, error) from error
        if differs and not force:
            raise OutputError(
                f"--kserve {path} exists and differs from what would be written: choose another folder, or replace it"
                " with --force"
            )


def write_manifests(workload: Workload, folder: Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write the manifests of a workload; other files are left alone.

    Args:
        folder: gets the folders `kubernetes` and `kserve`.
        force: replace manifests that are there and differ.

    Returns:
        The files.

    Raises:
        OutputError: they cannot be written, or see `check_manifests`.
    """
    check_manifests(workload, folder, force=force)
    written = []
    for name, text in _texts(workload):
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refusal(folder, error) from error
        with staged_file(path, "--kserve") as staged:
            staged.commit(text)
        written.append(path)
    return tuple(written)


def manifest_notes(workload: Workload) -> list[str]:
    """What the manifests leave to the user."""
    notes = []
    if workload.claim is None:
        notes.append(
            "the manifests hold no credentials: give the pods a Secret or a service account that may read"
            f" {workload.storage}"
        )
    if workload.cpus > MANY_CPUS:
        notes.append(
            f"each pod asks for {workload.cpus} CPUs, those of all models together: lower --threads or --instances"
            " where nodes have fewer"
        )
    if len(workload.tensorrt) > 1:
        notes.append(
            f"the plans were built by TensorRT {listed(workload.tensorrt)}, and a container has one of them: the others"
            " would not load"
        )
    return notes


def _texts(workload: Workload) -> Iterator[tuple[str, str]]:
    """Each file's path in the folder, and its content."""
    for kind, manifests in ((KUBERNETES, kubernetes_manifests(workload)), (KSERVE, kserve_manifests(workload))):
        for name, manifest in manifests.items():
            yield f"{kind}/{name}", to_yaml(manifest)


def _refusal(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"--kserve {folder} cannot be written ({error.strerror or error}): choose another folder")
