"""The versions of a model that is in a repository already, and whether another can join them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from debiexport.errors import BundleError, InputError, OutputError
from debiexport.triton.dtypes import config_type
from debiexport.triton.model_config import LABELS, add_provenance, config_dims, has_labels
from debiexport.triton.protos import CONFIG, ModelConfig, classes, from_text, to_text
from debiexport.triton.served import ServedModel

MAX_CONFIG_BYTES = 2**20


def version_numbers(folder: Path) -> list[int]:
    """The versions of a model's folder, ascending: subfolders named by a number that Triton takes for one.

    There are none where there is no folder.
    """
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0")


def read_config_text(folder: Path) -> str:
    """The text of a model's configuration.

    Raises:
        InputError: there is none, or it is no text.
    """
    path = folder / CONFIG
    try:
        if not path.is_file():
            raise InputError(f"{folder} has no {CONFIG}: it is no model of Triton's; choose another --output")
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(
                f"{path} has {path.stat().st_size} bytes, too many for a model's configuration: put the right one there"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): check its permissions and content") from error


def read_config(folder: Path) -> ModelConfig:
    """A model's configuration.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    text = read_config_text(folder)
    try:
        return from_text(text)
    except ValueError as error:
        raise InputError(f"{folder / CONFIG} cannot be read ({error}): repair it first") from error


def joined_config(folder: Path, served: ServedModel, version: int) -> str:
    """The text of a model's configuration with the provenance of one more version at its end.

    What is there stays as it is, so that a figure that somebody has tuned is kept, and a comment.

    Args:
        folder: of the model in the repository.
        served: what becomes the version.

    Raises:
        InputError: the configuration is missing or cannot be read.
        BundleError: the model is another one: clients of the older versions could not use it.
    """
    text, config = read_config_text(folder), read_config(folder)
    reason = _differs(config, served) or _labels_differ(folder, served)
    if reason is not None:
        raise BundleError(
            f"{served.file} cannot become version {version} of {served.name}: {reason}; give it a name of its own, as"
            f" in {served.name}_2=BUNDLE"
        )
    addition = classes().ModelConfig()
    add_provenance(addition, version, served.provenance)
    return f"{text.rstrip()}\n{to_text(addition)}"


def served_versions(config: ModelConfig, versions: Sequence[int]) -> list[int]:
    """Those of a model's versions, ascending, that Triton serves by the policy of its configuration."""
    policy = config.version_policy
    if policy.HasField("all"):
        return list(versions)
    if policy.HasField("specific"):
        return [version for version in versions if version in policy.specific.versions]
    return list(versions[-(policy.latest.num_versions or 1) :])


def check_unchanged(folder: Path, joined: str) -> None:
    """Refuse to replace a configuration that somebody has changed since `joined_config` read it.

    Raises:
        OutputError: it has changed.
    """
    if not joined.startswith(read_config_text(folder).rstrip() + "\n"):
        raise OutputError(f"{folder / CONFIG} was changed meanwhile: run the command again")


def _differs(config: ModelConfig, served: ServedModel) -> str | None:
    """In what a model differs from a configuration, in words; None where one configuration does for both."""
    if config.platform != served.platform:
        return f"it is of {served.platform}, the others of {config.platform or 'no platform'}"
    if (config.max_batch_size > 0) != (served.max_batch > 0):
        kinds = {True: "any batch", False: "a fixed batch"}
        return f"it takes {kinds[served.max_batch > 0]}, the others {kinds[config.max_batch_size > 0]}"
    if served.largest_batch is not None and config.max_batch_size > served.largest_batch:
        return f"it takes batches of at most {served.largest_batch}, max_batch_size is {config.max_batch_size}"
    for what, tensors, found in (("input", served.inputs, config.input), ("output", served.outputs, config.output)):
        theirs = [(t.name, t.data_type, list(t.dims)) for t in found]
        ours = [(t.name, classes().DataType.Value(config_type(t.dtype)), config_dims(served, t)) for t in tensors]
        if ours != theirs:
            return f"its {what}s are {_shown(ours)}, the others' {_shown(theirs)}"
    for name, value in served.interface.items():
        other = config.parameters[name].string_value if name in config.parameters else "not known"
        if other != value:
            return "its labels are others" if name == "labels" else f"its {name} is {value}, the others' is {other}"
    return None


def _labels_differ(folder: Path, served: ServedModel) -> str | None:
    path = folder / LABELS
    labels = served.labels if any(has_labels(served, tensor) for tensor in served.outputs) else None
    theirs = path.read_bytes() if path.is_file() else None
    return None if theirs == labels_file(labels) else "its labels are others"


def labels_file(labels: tuple[str, ...] | None) -> bytes | None:
    """The content of a file of labels, one a line.

    Raises:
        BundleError: a label is empty or more than a line.
    """
    if labels is None:
        return None
    for label in labels:
        if len(label.splitlines()) != 1:
            raise BundleError(f"the label {label!r:.80} is not one line: export with --labels, one a line")
    return "".join(f"{label}\n" for label in labels).encode()


def _shown(tensors: list[tuple[str, int, list[int]]]) -> str:
    name = classes().DataType.Name
    return ", ".join(f"{tensor} {name(dtype)} {dims}" for tensor, dtype, dims in tensors)
