"""Model repositories: what Triton loads, written whole or not at all.

    NAME/config.pbtxt     how the model is served
    NAME/labels.txt       its classes, where it has any
    NAME/1/model.onnx     version 1, or model.plan

Everything is put together beside the repository, checked by the linter, and then moved in. A model that is there
already gains a version: its configuration gains lines at its end, and no other file of it is touched. A Triton that
serves the repository meanwhile sees each model as it was or as it will be, and loads a version that is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.atomic import StagedFolder, staged_folder
from debiexport.bundle import open_bundle, sha256_of
from debiexport.errors import BundleError, OutputError, UsageError
from debiexport.progress import Progress, silent
from debiexport.triton.json_size import SAFE_BYTES, json_bytes
from debiexport.triton.lint import RULES, lint_model
from debiexport.triton.lint_files import RULES_OF_VERSIONS as FILE_RULES
from debiexport.triton.merging import merge, staging_place
from debiexport.triton.model_config import LABELS, has_labels, model_config, untold
from debiexport.triton.presets import ServingOptions
from debiexport.triton.protos import CONFIG, ModelConfig, from_text, to_text
from debiexport.triton.served import MODEL_SHA256, ServedModel, named_bundle, served_models
from debiexport.triton.settings import check_settings
from debiexport.triton.versions import joined_config, labels_file, read_config, served_versions, version_numbers
from debiexport.triton.words import listed

_HEADER = "# Of debiexport. What is zero is left out: max_batch_size 0 is a fixed batch, which the dims then include.\n"


@dataclass(frozen=True)
class WrittenVersion:
    """A version of a model that was added to a repository.

    Attributes:
        name, version: that clients ask for.
        platform: "onnxruntime_onnx" or "tensorrt_plan".
        max_batch: the largest batch that Triton puts together, 0 for a fixed one.
        file: the model's, in the repository.
    """

    name: str
    version: int
    platform: str
    max_batch: int
    file: Path

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "file": str(self.file)}

    def __str__(self) -> str:
        batches = f"batches of up to {self.max_batch}" if self.max_batch else "a fixed batch"
        return f"{self.name} version {self.version}: {self.platform}, {batches}"


@dataclass(frozen=True)
class RepositoryResult:
    """What was written.

    Attributes:
        path: the repository.
        versions: that were added, in order.
        notes: what a user should know.
    """

    path: Path
    versions: tuple[WrittenVersion, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        versions = [version.to_dict() for version in self.versions]
        return {"repository": str(self.path), "versions": versions, "notes": list(self.notes)}

    def __str__(self) -> str:
        return f"{self.path}: {'; '.join(map(str, self.versions))}"


def write_repository(
    bundles: Sequence[str | Path],
    output: str | Path,
    *,
    options: ServingOptions | None = None,
    max_batch: int | None = None,
    onnx: bool = False,
    check: Callable[[Path], object] | None = None,
    progress: Progress = silent,
) -> RepositoryResult:
    """Write bundles as a model repository, or add them to one.

    Several bundles of one model become its versions, in order: 1, 2, ..., or the next that are free.

    Args:
        bundles: folders, or `NAME=FOLDER` to name a model otherwise than its card.
        output: the repository; made if it is not there.
        options: how new models are served; a model that is there keeps its own, which have to be those that are asked
            for here. None for the defaults.
        max_batch, onnx: see `served_models`.
        check: is called with a folder of what is about to be added; what it raises leaves the repository as it was.

    Raises:
        UsageError: no bundle, an option that cannot be used, or one that differs from what a model that is there has.
        BundleError: a bundle is altered, lost parity, cannot be served, or does not fit the versions that are there.
        InputError: a model that is there cannot be read.
        OutputError: the repository cannot be written.
        MissingDependencyError: tritonclient is not installed.
    """
    if not bundles:
        raise UsageError("no bundle to serve: give the folder that an export wrote")
    repository, options = Path(output), options or ServingOptions()
    served: list[ServedModel] = []
    for text in bundles:
        name, folder = (None, text) if isinstance(text, Path) else named_bundle(text)
        progress(f"checking the files of {folder}")
        served += served_models(open_bundle(folder), name, max_batch=max_batch, onnx=onnx)
    models: dict[str, list[ServedModel]] = {}
    for one in served:
        models.setdefault(one.name, []).append(one)
    if repository.exists() and not repository.is_dir():
        raise OutputError(f"--output {repository} exists and is not a folder: choose another path")
    exists = repository.is_dir()
    there = [name for name in models if (repository / name).is_dir()]
    for name in there:
        check_settings(repository / name, options, max_batch)
    notes = [f"{name} keeps the settings of its {CONFIG}" for name in there]
    with staged_folder(staging_place(repository) if exists else repository, marker=CONFIG) as staged:
        written = [
            version
            for name, ones in models.items()
            for version in _stage(staged, repository, name, ones, options, progress)
        ]
        for name in models:
            _refuse_findings(staged.path / name, joins=(repository / name).is_dir())
        configs = {name: read_config(staged.path / name) for name in models}
        for name, config in configs.items():
            versions = {number for root in (repository, staged.path) for number in version_numbers(root / name)}
            notes += _left_out(name, config, sorted(versions), [one.version for one in written if one.name == name])
        if check is not None:
            check(staged.path)
        if exists:
            merge(staged.path, repository)
        else:
            staged.commit()
    for name, ones in models.items():
        notes += [note for one in ones for note in _notes(one, configs[name], max_batch)]
    notes += _large_json(served, configs)
    return RepositoryResult(repository, tuple(written), tuple(dict.fromkeys(notes)))


def _stage(
    staged: StagedFolder,
    repository: Path,
    name: str,
    served: Sequence[ServedModel],
    options: ServingOptions,
    progress: Progress,
) -> list[WrittenVersion]:
    """Put the new versions of one model, and the configuration that goes with them, into the staged folder."""
    there, folder = repository / name, staged.path / name
    folder.mkdir()
    text: str | None = None
    next_version = max(version_numbers(there), default=0) + 1
    written = []
    for version, one in enumerate(served, next_version):
        progress(f"writing {name} version {version} ({one.file.stat().st_size / 1e6:.1f} MB)")
        _copy(one, folder / str(version) / one.filename)
        if there.is_dir() or text is not None:
            text = joined_config(there if text is None else folder, one, version)
        else:
            text = _HEADER + to_text(model_config(one, options))
        _write_settings(folder, one, text)
        file = repository / name / str(version) / one.filename
        written.append(WrittenVersion(name, version, one.platform, from_text(text).max_batch_size, file))
    return written


def _write_settings(folder: Path, served: ServedModel, config: str) -> None:
    labels = labels_file(served.labels)
    if labels is not None and any(has_labels(served, tensor) for tensor in served.outputs):
        (folder / LABELS).write_bytes(labels)
    (folder / CONFIG).write_text(config, encoding="utf-8")


def _copy(served: ServedModel, to: Path) -> None:
    """Copy a model and make sure that the copy is what the manifest says."""
    to.parent.mkdir()
    shutil.copyfile(served.file, to)
    if sha256_of(to) != served.provenance[MODEL_SHA256]:
        raise BundleError(f"{served.file} was changed while it was copied: copy the bundle again, or export again")


def _refuse_findings(model: Path, *, joins: bool) -> None:
    """What is written has to be what the linter asks for; where it joins a model, only its own files are looked at."""
    for finding in lint_model(model, FILE_RULES if joins else RULES):
        if finding.is_error:
            raise BundleError(f"{finding.file} would not be served: {finding.what}; {finding.advice}")


def _left_out(name: str, config: ModelConfig, versions: list[int], new: list[int]) -> list[str]:
    """Which of a model's versions Triton does not serve."""
    chosen = served_versions(config, versions)
    if config.version_policy.HasField("specific"):  # of which somebody else has thought
        return [
            f"{name} serves the versions that its version_policy names, and {version} is none of them"
            for version in new
            if version not in chosen
        ]
    rest = [version for version in versions if version not in chosen]
    if not rest:
        return []
    which = f"{'version' if len(chosen) == 1 else 'versions'} {listed(chosen)}"
    return [f"Triton serves {which} of {name}; {listed(rest)} {'stays' if len(rest) == 1 else 'stay'} in the folder"]


def _notes(served: ServedModel, config: ModelConfig, max_batch: int | None) -> list[str]:
    on_gpus = {group.Kind.Name(group.kind) for group in config.instance_group} == {"KIND_GPU"}
    notes = [] if on_gpus else list(served.notes)
    if max_batch is not None and not served.max_batch:
        notes.append(f"{served.name} has a fixed batch of {served.batch}: --max-batch is not for it")
    lost = [] if served.is_plan else untold(served.session)
    if lost:
        notes.append(
            f"Triton's ONNX Runtime has no setting for {', '.join(lost)} of {served.name}: it runs with the default,"
            " the same numbers and another speed or memory"
        )
    return notes


def _large_json(served: Sequence[ServedModel], configs: dict[str, ModelConfig]) -> list[str]:
    """One note, of the largest request of all."""
    sizes = [(json_bytes(one.inputs, configs[one.name].max_batch_size or one.batch or 1), one.name) for one in served]
    size, name = max(sizes)
    if size <= SAFE_BYTES:
        return []
    return [
        f"a JSON body of more than about {SAFE_BYTES / 1e6:.0f} MB can end Triton 2.51 (24.10) with signal 11, and the"
        f" largest batch of {name} is up to {size / 1e6:.0f} MB as JSON: send batches as binary or over gRPC, and let"
        " no client that you do not trust reach the HTTP port"
    ]
