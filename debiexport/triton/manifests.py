"""Writing the manifests: one folder for plain Kubernetes, one for KServe; `kubectl apply -f` takes either."""

from __future__ import annotations

from pathlib import Path

from debiexport.atomic import staged_file
from debiexport.errors import OutputError
from debiexport.triton.kserve import kserve_manifests
from debiexport.triton.kubernetes import kubernetes_manifests
from debiexport.triton.workload import Workload
from debiexport.triton.yaml_text import to_yaml

KUBERNETES, KSERVE = "kubernetes", "kserve"


def write_manifests(workload: Workload, folder: Path) -> tuple[Path, ...]:
    """Write the manifests of a workload; those that are there are replaced, other files are left alone.

    Args:
        folder: gets the folders `kubernetes` and `kserve`.

    Returns:
        The files.

    Raises:
        OutputError: they cannot be written.
    """
    files = {KUBERNETES: kubernetes_manifests(workload), KSERVE: kserve_manifests(workload)}
    written = []
    for kind, manifests in files.items():
        try:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"--kserve {folder} cannot be written ({error.strerror or error}): choose another folder"
            ) from error
        for name, manifest in manifests.items():
            path = folder / kind / name
            with staged_file(path, "--kserve") as staged:
                staged.commit(to_yaml(manifest))
            written.append(path)
    return tuple(written)
