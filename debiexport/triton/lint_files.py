"""Rules on the files: versions, labels, and what each model takes and gives against what the configuration says."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from debiexport.bundle import sha256_of
from debiexport.errors import DebiexportError
from debiexport.geometry import parse_image_size
from debiexport.signature import INPUTS, input_spec
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton.lint_model import ONNXRUNTIME, TENSORRT, Finding, LintedModel, dims_of
from debiexport.triton.lint_onnx import compare
from debiexport.triton.lint_warmup import WARMUP_FOLDER
from debiexport.triton.served import BATCHES, IMAGE_SIZE, INPUT, MODEL_SHA256, TENSORRT_VERSION

_NO_VERSIONS = (WARMUP_FOLDER, "configs")
"""Folders of a model that Triton knows and that hold no version."""
MAX_LABELS_BYTES = 16 * 2**20


def versions(model: LintedModel) -> Iterator[Finding]:
    if not model.versions:
        yield model.error("no version's folder, so Triton has nothing to load", "add a folder named 1", file="")
    for path in sorted(path for path in model.folder.iterdir() if path.is_dir()):
        is_number = path.name.isascii() and path.name.isdigit()
        if (not is_number or path.name[0] == "0") and path.name not in _NO_VERSIONS:
            yield model.warning(
                "is no version: Triton takes only folders named 1, 2, ...", "rename or remove it", file=f"{path.name}/"
            )
    for version in model.versions if model.filename else ():
        path = model.folder / str(version) / model.filename
        if not path.exists():
            there = sorted(other.name for other in path.parent.iterdir())
            yield model.error(
                f"is missing, its folder {'holds ' + ', '.join(there) if there else 'is empty'}",
                "add it, or name what is there by default_model_filename" if there else "add it, or remove the folder",
                file=f"{version}/{model.filename}",
            )
        elif path.is_file():
            yield from _version(model, version, path)


def _version(model: LintedModel, version: int, path: Path) -> Iterator[Finding]:
    file, recorded = f"{version}/{model.filename}", model.parameter(f"{version}.{MODEL_SHA256}")
    if recorded is not None and recorded != (found := sha256_of(path)):
        yield model.error(
            f"was altered: its SHA-256 is {found[:12]}…, the parameters say {recorded[:12]}…",
            "copy it again",
            file=file,
        )
    if model.backend == ONNXRUNTIME:
        yield from compare(model, path, file)
    elif model.backend == TENSORRT:
        yield from _plan(model, version, file)


def _plan(model: LintedModel, version: int, file: str) -> Iterator[Finding]:
    """A plan says nothing without its GPU: its parameters speak for it."""
    batches, tensorrt = (model.parameter(f"{version}.{name}") for name in (BATCHES, TENSORRT_VERSION))
    if tensorrt is None:
        yield model.warning(
            "the parameters do not say which TensorRT built it, and it runs with no other",
            f"add the parameter {version}.{TENSORRT_VERSION}",
            file=file,
        )
    if batches is None:
        yield model.warning(
            "the parameters do not say which batches it takes, so max_batch_size cannot be checked",
            f"add the parameter {version}.{BATCHES}, as 1:4:8",
            file=file,
        )
        return
    try:
        profile = Profile.parse(batches)
    except DebiexportError:
        yield model.error(f"the parameter {version}.{BATCHES} is {batches!r}", "give one such as 1:4:8")
        return
    if model.max_batch > profile.max or (model.max_batch > 0 and not profile.is_range):
        yield model.error(
            f"max_batch_size is {model.max_batch}, the plan takes {profile}",
            "give what the plan takes, 0 for one batch",
        )
    elif model.max_batch > 0 and profile.min > 1:
        yield model.error(f"the plan takes {profile}, and single requests are fewer", "build it for batches from 1 on")
    for tensor in (*model.config.input, *model.config.output):
        fixed = dims_of(tensor)[:1]
        if model.max_batch == 0 and fixed and fixed != [profile.max] and not profile.is_range:
            yield model.error(
                f"{tensor.name!r} has a batch of {fixed[0]}, the plan one of {profile}", "give the plan's"
            )


def described_input(model: LintedModel) -> Iterator[Finding]:
    """The parameters say what an image is to become; the input has to be that."""
    size, form = model.parameter(IMAGE_SIZE), model.parameter(INPUT)
    if size is None or form is None:
        return
    try:
        sides = parse_image_size(size)
    except DebiexportError:
        yield model.error(f"the parameter {IMAGE_SIZE} is {size!r}", "give one such as 224x224")
        return
    if form not in INPUTS:
        yield model.error(f"the parameter {INPUT} is {form!r}", f"give {' or '.join(INPUTS)}")
        return
    wanted = list(input_spec(sides, None, form).shape[1:])
    for tensor in model.config.input:
        dims = dims_of(tensor)
        if (dims if model.max_batch > 0 else dims[1:]) != wanted:
            yield model.error(
                f"the input {tensor.name!r} has the dims {dims}, images of {size} are {wanted}",
                f"correct the dims, or the parameters {IMAGE_SIZE} and {INPUT}",
            )


def sizes(model: LintedModel) -> Iterator[Finding]:
    """A side that is left open lets wrong images through to the model."""
    for tensor in (*model.config.input, *model.config.output):
        open_sides = dims_of(tensor) if model.max_batch > 0 else dims_of(tensor)[1:]
        if any(side < 1 for side in open_sides):
            yield model.error(
                f"{tensor.name!r} has the dims {list(tensor.dims)}: a side of -1 takes any image, and the model fails",
                "give the real sizes",
            )


def labels(model: LintedModel) -> Iterator[Finding]:
    for tensor in model.config.output:
        if not tensor.label_filename:
            continue
        path = model.folder / tensor.label_filename
        if not path.is_file():
            yield model.error(
                f"is missing, which {tensor.name!r} names: classes have no names", "add it", file=tensor.label_filename
            )
            continue
        classes = _classes(tensor, model.max_batch)
        found = _count_lines(path)
        if found is None:
            yield model.error("is no text of UTF-8", "give one label a line", file=tensor.label_filename)
        elif classes != found:
            yield model.error(
                f"has {found} labels, {tensor.name!r} {classes} classes", "give one a line", file=tensor.label_filename
            )


def _classes(tensor: Any, max_batch: int) -> int:
    return prod(dims_of(tensor)[0 if max_batch > 0 else 1 :])


def _count_lines(path: Path) -> int | None:
    if path.stat().st_size > MAX_LABELS_BYTES:
        return None
    try:
        return len(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        return None


RULES_OF_VERSIONS = (versions,)
RULES = (sizes, *RULES_OF_VERSIONS, described_input, labels)
