"""`lint_repository`: what Triton finds late or never, found before it starts.

Triton checks the names of fields and a few numbers when it loads a model, a wrong image size when the first request
comes, and a queue without a bound never.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.errors import InputError, UsageError
from debiexport.manifest import MANIFEST
from debiexport.triton import lint_config, lint_files, lint_warmup
from debiexport.triton.lint_model import ERROR, Finding, LintedModel, Rule
from debiexport.triton.protos import CONFIG, classes, from_text
from debiexport.triton.versions import read_config_text, version_numbers
from debiexport.triton.words import counted

RULES: tuple[Rule, ...] = (*lint_config.RULES, *lint_warmup.RULES, *lint_files.RULES)


@dataclass(frozen=True)
class LintReport:
    """What was found in a repository.

    Attributes:
        path: of the repository.
        models: names of the models that were looked at.
        findings: in the order of the models.
    """

    path: Path
    models: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong that fails or hurts in service; warnings are allowed."""
        return not any(finding.is_error for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "repository": str(self.path),
            "ok": self.ok,
            "models": list(self.models),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        errors = sum(finding.is_error for finding in self.findings)
        warnings = len(self.findings) - errors
        counts = ((len(self.models), "model"), (errors, "error"), (warnings, "warning"))
        return f"{self.path}: {', '.join(counted(number, noun) for number, noun in counts)}"


def lint_repository(path: str | Path) -> LintReport:
    """Look for mistakes in a model repository; nothing is run and nothing changed.

    Args:
        path: of the repository.

    Raises:
        UsageError: there is no folder, or it is a bundle.
        MissingDependencyError: tritonclient is not installed.
    """
    repository = Path(path)
    if not repository.is_dir():
        raise UsageError(f"no model repository at {repository}: give the folder that holds the models' folders")
    for mark, advice in ((MANIFEST, "write it as one with --output"), (CONFIG, "give the folder above it")):
        if (repository / mark).is_file():
            what = "a bundle" if mark == MANIFEST else "a model"
            raise UsageError(f"{repository} is {what} and no model repository: {advice}")
    classes()  # or the first model would be said to have no configuration
    folders = sorted(folder for folder in repository.iterdir() if folder.is_dir())
    findings = [finding for folder in folders for finding in lint_model(folder)]
    if not folders:
        findings.append(
            Finding(ERROR, str(repository), "holds no model's folder", "write a bundle into it with --output")
        )
    return LintReport(repository, tuple(folder.name for folder in folders), tuple(findings))


def lint_model(folder: Path, rules: Sequence[Rule] = RULES) -> Iterator[Finding]:
    """What rules find in the folder of one model."""
    file = f"{folder.name}/{CONFIG}"
    if not (folder / CONFIG).is_file():
        yield Finding(ERROR, file, "is missing", "add it, or move the folder away if it is no model")
        return
    try:
        config = from_text(read_config_text(folder))
    except ValueError as error:
        yield Finding(ERROR, file, f"cannot be read ({error})", "correct the line; Triton knows no other fields")
        return
    except InputError as error:
        what, _, advice = str(error).rpartition(": ")
        yield Finding(ERROR, file, what.removeprefix(f"{folder / CONFIG} "), advice)
        return
    model = LintedModel(folder, config, tuple(version_numbers(folder)))
    for rule in rules:
        yield from rule(model)
