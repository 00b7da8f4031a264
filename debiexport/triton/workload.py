"""What a pod that serves a repository needs: read off the repository's configurations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

from debiexport.errors import InputError, UsageError
from debiexport.triton.model_config import THREADS
from debiexport.triton.protos import CONFIG, ModelConfig, classes
from debiexport.triton.served import PLAN_PLATFORM, TENSORRT_VERSION
from debiexport.triton.versions import read_config, served_versions, version_numbers
from debiexport.triton.words import listed

DEFAULT_IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"
"""The container of the Triton that the generated repositories are tested with. Plans need the one that has the
TensorRT that built them."""
DEFAULT_STORAGE = "pvc://model-repository"
"""A claim that is to be made, and to be filled with the repository."""
SERVER_MIB, FRONTEND_CPUS = 1024, 1
WEIGHT_COPIES = 3  # measured are 2 (debi_t); one more while a new version is loaded
# Bytes that a run adds over those of its input: measured are 12 (debi_nano) and 20 (debi_t), and ONNX Runtime takes its
# memory in pieces that double.
RUN_PER_INPUT = 40
_STORAGE = re.compile(r"(pvc|s3|gs|as)://[A-Za-z0-9][A-Za-z0-9_./:-]*")
_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_CLAIM = re.compile(rf"(?=.{{1,253}}$){_LABEL}([.]{_LABEL})*")
_MIB = 2**20


@dataclass(frozen=True)
class Workload:
    """A Triton over one repository.

    Attributes:
        name: of the objects in Kubernetes: lower-case letters, digits and "-".
        image: the container of Triton.
        storage: where the repository is, as "pvc://CLAIM/FOLDER" or "s3://BUCKET/FOLDER".
        cpus, memory_mib, gpus: what a pod asks for and is limited to.
        full_queue: requests that may wait in a pod before another pod is worth starting.
        tensorrt: versions that built the plans that are served; the container has to have theirs.
    """

    name: str
    image: str
    storage: str
    cpus: int
    memory_mib: int
    gpus: int
    full_queue: int
    tensorrt: tuple[str, ...] = ()

    @property
    def claim(self) -> tuple[str, str] | None:
        """The claim of a volume and the folder in it; None where the repository is in an object store."""
        scheme, _, rest = self.storage.partition("://")
        name, _, folder = rest.partition("/")
        return (name, folder.strip("/")) if scheme == "pvc" else None


def workload_of(
    repository: Path,
    *,
    adding: Path | None = None,
    name: str | None = None,
    image: str | None = None,
    storage: str = DEFAULT_STORAGE,
) -> Workload:
    """The pod that a repository needs.

    CPUs are those of all instances and one for the server. Memory is an estimate that errs on the high side: the
    weights of every kept version, the tensors inside the networks at their largest batch, and full queues.

    Args:
        repository: need not be there yet, where there is something to add.
        adding: a folder of models, or of versions with the new configuration, that is to be moved into it.
        image: None for `DEFAULT_IMAGE`, which does for ONNX models.
        name: None for that of the only model, or of the repository's folder.

    Raises:
        UsageError: a name that cannot be used, a plan without an image, or see `check_image` and `check_storage`.
        InputError: a configuration cannot be read, or there is none.
    """
    roots = [root for root in (adding, repository) if root is not None and root.is_dir()]
    names = sorted({folder.name for root in roots for folder in root.iterdir() if (folder / CONFIG).is_file()})
    if not names:
        raise InputError(f"{repository} holds no model: write a bundle into it with --output")
    folders = {model: [root / model for root in roots if (root / model).is_dir()] for model in names}
    configs = {model: read_config(places[0]) for model, places in folders.items()}
    chosen = name or (names[0] if len(names) == 1 else repository.resolve().name)
    on_gpus = any(_kind(group) == "KIND_GPU" for config in configs.values() for group in config.instance_group)
    return Workload(
        object_name(chosen),
        _image_of(folders, configs) if image is None else check_image(image),
        check_storage(storage),
        FRONTEND_CPUS + sum(_cpus(config) for config in configs.values()),
        SERVER_MIB + sum(_memory_mib(places, configs[model]) for model, places in folders.items()),
        1 if on_gpus else 0,
        max(max(1, config.max_batch_size) * _instances(config) for config in configs.values()),
        tuple(sorted({version for model in names for version in _tensorrt(folders[model], configs[model])})),
    )


def check_storage(storage: str) -> str:
    """Where a cluster finds a repository.

    Raises:
        UsageError: it is of another form than "pvc://CLAIM/FOLDER", or the same with s3, gs or as; or no claim can
            have the name.
    """
    if not _STORAGE.fullmatch(storage) or ".." in storage:
        raise UsageError(
            f"--storage-uri is {storage!r}: give pvc://CLAIM/FOLDER, or s3://, gs:// or as:// with the folder"
        )
    scheme, _, rest = storage.partition("://")
    claim = rest.partition("/")[0]
    if scheme == "pvc" and not _CLAIM.fullmatch(claim):
        raise UsageError(
            f"--storage-uri is {storage!r}, and no claim is named {claim!r}: Kubernetes takes up to 253 lower-case"
            " letters, digits, - and ., with a letter or digit at each end"
        )
    return storage


def check_image(image: str) -> str:
    """A container's name.

    Raises:
        UsageError: it is empty, or has spaces or letters in it that no name has.
    """
    if not re.fullmatch(r"[!-~]+", image):
        raise UsageError(f"--image is {image!r}: give a container of Triton, as {DEFAULT_IMAGE}")
    return image


def object_name(text: str) -> str:
    """A name as Kubernetes takes it, from any name.

    Raises:
        UsageError: nothing of it can be used.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    if not name:
        raise UsageError(f"no name for Kubernetes can be made of {text!r}: give the model or the folder one of letters")
    return name if name[0].isalpha() else f"m-{name}"


def _image_of(folders: Mapping[str, Sequence[Path]], configs: Mapping[str, ModelConfig]) -> str:
    """The default container, which runs ONNX models; its TensorRT is hardly ever the one that built a plan.

    Raises:
        UsageError: there is a plan.
    """
    plans = [model for model, config in configs.items() if config.platform == PLAN_PLATFORM]
    if plans:
        versions = sorted({version for model in plans for version in _tensorrt(folders[model], configs[model])})
        theirs = listed(versions) if versions else "the version that built it"
        raise UsageError(
            f"no --image, and {plans[0]} is a plan, which runs with the TensorRT that built it alone: give the"
            f" container of Triton whose TensorRT is {theirs}, as listed in NVIDIA's support matrix"
        )
    return DEFAULT_IMAGE


def _kind(group: ModelConfig) -> str:
    return str(group.Kind.Name(group.kind))


def _instances(config: ModelConfig) -> int:
    return sum(max(1, group.count) for group in config.instance_group) or 1


def _served(folders: Sequence[Path], config: ModelConfig) -> dict[int, Path]:
    """The folders of the versions that Triton serves."""
    places = {version: folder / str(version) for folder in folders for version in version_numbers(folder)}
    return {version: places[version] for version in served_versions(config, sorted(places))}


def _tensorrt(folders: Sequence[Path], config: ModelConfig) -> list[str]:
    names = [f"{version}.{TENSORRT_VERSION}" for version in _served(folders, config)]
    return [config.parameters[name].string_value for name in names if name in config.parameters]


def _cpus(config: ModelConfig) -> int:
    threads = config.parameters[THREADS].string_value if THREADS in config.parameters else ""
    each = int(threads) if threads.isdigit() else 1
    return sum(max(1, group.count) * (each if _kind(group) == "KIND_CPU" else 1) for group in config.instance_group)


def _memory_mib(folders: Sequence[Path], config: ModelConfig) -> int:
    sizes: list[int] = [
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in _served(folders, config).values()
    ]
    images = max(1, config.max_batch_size)
    request: int = images * sum(_bytes(tensor) for tensor in config.input)
    queue: int = config.dynamic_batching.default_queue_policy.max_queue_size * request
    instance = _instances(config) * len(sizes) * request * RUN_PER_INPUT
    return ceil((sum(sizes) * WEIGHT_COPIES * _instances(config) + instance + queue) / _MIB)


def _bytes(tensor: ModelConfig) -> int:
    name = str(classes().DataType.Name(tensor.data_type))
    width = 1 if name in ("TYPE_BOOL", "TYPE_UINT8", "TYPE_INT8") else 2 if name.endswith("16") else 4
    return int(width * prod(max(1, side) for side in tensor.dims))
