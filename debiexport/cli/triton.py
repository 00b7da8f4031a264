"""`debiexport triton`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from debiexport.cli.options import Debug, Json, Quiet, parse_destination, parse_number
from debiexport.cli.output import OUTPUT
from debiexport.errors import InputError, UsageError

if TYPE_CHECKING:
    from debiexport.triton.lint import LintReport
    from debiexport.triton.workload import Workload

_Bundles = Annotated[
    list[str],
    typer.Argument(metavar="[NAME=]BUNDLE...", help="Folders that exports wrote; with --lint alone, repositories."),
]
_Output = Annotated[
    str | None, typer.Option("--output", metavar="DIR", help="The model repository, or one to add versions to.")
]
_Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar="latency|throughput", help="Whether requests wait for others to join (default: latency)."
    ),
]
_MaxBatch = Annotated[
    str | None,
    typer.Option("--max-batch", metavar="N", help="Most images put together (default: 8, or what a plan takes)."),
]
_Instances = Annotated[
    str | None,
    typer.Option(
        "--instances",
        metavar="N",
        help="Copies of each model, on each GPU if any (default: 1); two keep a lone client from long waits (README).",
    ),
]
_Threads = Annotated[
    str | None, typer.Option("--threads", metavar="N", help="Threads of a copy on a CPU (default: 4).")
]
_Gpu = Annotated[bool | None, typer.Option("--gpu", help="Run ONNX models on GPUs; plans always do.")]
_Onnx = Annotated[bool, typer.Option("--onnx", help="Serve the ONNX models of TensorRT bundles, not their engines.")]
_Kserve = Annotated[
    str | None, typer.Option("--kserve", metavar="DIR", help="Write manifests for KServe and plain Kubernetes too.")
]
_StorageUri = Annotated[
    str | None,
    typer.Option("--storage-uri", metavar="URI", help="Where the cluster finds the repository, as pvc://CLAIM/FOLDER."),
]
_Image = Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="Triton's container, for --kserve.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace manifests that are there and differ.")]
_Lint = Annotated[bool, typer.Option("--lint", help="Look for mistakes in the repository; exit code 4 if there are.")]


def command(
    bundles: _Bundles,
    output: _Output = None,
    preset: _Preset = None,
    max_batch: _MaxBatch = None,
    instances: _Instances = None,
    threads: _Threads = None,
    gpu: _Gpu = None,
    onnx: _Onnx = False,
    kserve: _Kserve = None,
    storage_uri: _StorageUri = None,
    image: _Image = None,
    force: _Force = False,
    lint: _Lint = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write bundles as a model repository of NVIDIA Triton, or look for mistakes in one."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.triton.presets import ServingOptions
    from debiexport.triton.presets import preset as preset_of
    from debiexport.triton.repository import write_repository

    destination = parse_destination(output, "--output")
    manifests = _parse_manifests(kserve, storage_uri, image, force)
    if destination is None:
        if not lint:
            raise UsageError("no --output: give the folder of the model repository, or --lint to look at one")
        if manifests is not None:
            raise UsageError("--kserve needs --output: the manifests are of a repository that is written")
        _lint(bundles)
        return
    options = ServingOptions(
        None if preset is None else preset_of(preset),
        instances=None if instances is None else parse_number(instances, "--instances"),
        threads=None if threads is None else parse_number(threads, "--threads"),
        gpu=gpu,
    )
    result = write_repository(
        bundles,
        destination,
        options=options,
        max_batch=None if max_batch is None else parse_number(max_batch, "--max-batch"),
        onnx=onnx,
        check=None if manifests is None else lambda adding: manifests.check(destination, adding),
        progress=OUTPUT.progress,
    )
    for note in result.notes:
        OUTPUT.note(note)
    lines, data = [f"{result.path}:", *(f"  {version}" for version in result.versions)], result.to_dict()
    if manifests is not None:
        files = manifests.write(destination)
        lines += [f"{manifests.folder}:", *(f"  {file.relative_to(manifests.folder)}" for file in files)]
        data["manifests"] = [str(file) for file in files]
    if lint:
        from debiexport.triton.lint import lint_repository

        _print_reports([report := lint_repository(destination)], lines, {**data, "lint": report.to_dict()})
    else:
        OUTPUT.result("\n".join(lines), data)


@dataclass(frozen=True)
class _Manifests:
    """The manifests that are asked for; None where nothing was said."""

    folder: Path
    storage: str | None
    image: str | None
    force: bool

    def check(self, repository: Path, adding: Path) -> None:
        """Refuse what cannot be written, before the repository is."""
        from debiexport.triton.manifests import check_manifests

        check_manifests(self._workload(repository, adding), self.folder, force=self.force)

    def write(self, repository: Path) -> tuple[Path, ...]:
        from debiexport.triton.manifests import manifest_notes, write_manifests
        from debiexport.triton.workload import DEFAULT_STORAGE

        workload = self._workload(repository)
        for note in manifest_notes(workload):
            OUTPUT.note(note)
        if self.storage is None:
            OUTPUT.note(
                f"the manifests read {DEFAULT_STORAGE}: say with --storage-uri where your cluster has the repository"
            )
        return write_manifests(workload, self.folder, force=self.force)

    def _workload(self, repository: Path, adding: Path | None = None) -> Workload:
        from debiexport.triton.workload import DEFAULT_STORAGE, workload_of

        return workload_of(repository, adding=adding, image=self.image, storage=self.storage or DEFAULT_STORAGE)


def _parse_manifests(folder: str | None, storage: str | None, image: str | None, force: bool) -> _Manifests | None:
    from debiexport.triton.workload import check_image, check_storage

    destination = parse_destination(folder, "--kserve")
    if destination is not None:
        return _Manifests(
            destination,
            None if storage is None else check_storage(storage),
            None if image is None else check_image(image),
            force,
        )
    if storage is not None or image is not None or force:
        raise UsageError("--storage-uri, --image and --force are for the manifests: give --kserve DIR too")
    return None


def _lint(repositories: Sequence[str]) -> None:
    from debiexport.triton.lint import lint_repository

    reports = [lint_repository(path) for path in repositories]
    found = [report.to_dict() for report in reports]
    _print_reports(reports, [], found[0] if len(found) == 1 else {"repositories": found})


def _print_reports(reports: list[LintReport], lines: Sequence[str], data: dict[str, Any]) -> None:
    """Print what was found after what was done, and exit with the code of a bad file if a finding is an error."""
    text = "\n".join([*lines, *(str(one) for report in reports for one in (*report.findings, report))])
    bad = [report for report in reports if not report.ok]
    if not bad:
        OUTPUT.result(text, data)
        return
    first = next(finding for finding in bad[0].findings if finding.is_error)
    summary = f"{bad[0]}; the first: {first.file}: {first.what}; {first.advice}"
    OUTPUT.result(text, {**data, "error": summary, "exit_code": InputError.exit_code})
    OUTPUT.error(summary)
    raise typer.Exit(InputError.exit_code)
