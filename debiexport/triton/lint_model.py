"""What the linter's rules look at and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.triton.model_config import BACKENDS
from debiexport.triton.protos import CONFIG, ModelConfig, classes

ERROR, WARNING = "error", "warning"
ONNXRUNTIME, TENSORRT = BACKENDS.values()
FILENAMES = {ONNXRUNTIME: "model.onnx", TENSORRT: "model.plan"}


@dataclass(frozen=True)
class Finding:
    """Something wrong with a repository.

    Attributes:
        severity: "error" for what fails or hurts in service, "warning" for what may.
        file: in the repository, as "debi_nano/config.pbtxt"; the repository itself where it is empty.
        what: is wrong, with the values.
        advice: what to do.
    """

    severity: str
    file: str
    what: str
    advice: str

    @property
    def is_error(self) -> bool:
        return self.severity == ERROR

    def to_dict(self) -> dict[str, str]:
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.what}; {self.advice}"


@dataclass(frozen=True)
class LintedModel:
    """A model of a repository.

    Attributes:
        folder: of the model.
        config: its configuration.
        versions: its versions, ascending.
    """

    folder: Path
    config: ModelConfig
    versions: tuple[int, ...]

    @property
    def backend(self) -> str:
        """The backend that runs it, also where only its platform is named."""
        return str(self.config.backend or BACKENDS.get(self.config.platform, ""))

    @property
    def filename(self) -> str:
        """The model's file in a version's folder; empty for backends that are not known here."""
        return str(self.config.default_model_filename or FILENAMES.get(self.backend, ""))

    @property
    def max_batch(self) -> int:
        return int(self.config.max_batch_size)

    def parameter(self, name: str) -> str | None:
        """A parameter of the configuration, None where it has none of that name."""
        return str(self.config.parameters[name].string_value) if name in self.config.parameters else None

    def error(self, what: str, advice: str, file: str = CONFIG) -> Finding:
        return Finding(ERROR, f"{self.folder.name}/{file}", what, advice)

    def warning(self, what: str, advice: str, file: str = CONFIG) -> Finding:
        return Finding(WARNING, f"{self.folder.name}/{file}", what, advice)


Rule = Callable[[LintedModel], Iterator[Finding]]
"""One rule: it looks at a model and says what it finds."""


def dims_of(tensor: Any) -> list[int]:
    """The sides that the model itself gets of a tensor of the configuration."""
    return list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def type_name(data_type: int) -> str:
    """As "TYPE_FP32"; a number that Triton does not know stays one."""
    enum = classes().DataType
    return str(enum.Name(data_type)) if data_type in enum.values() else str(data_type)
