"""Distributions: what is installed, and whether its files are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

# Distribution -> a module that it must bring. In the order of the report.
PACKAGES: Mapping[str, str] = {
    "debiexport": "debiexport",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "protobuf": "google.protobuf",
    "pillow": "PIL",
    "typer": "typer",
    "rich": "rich",
    "torch": "torch",
    "onnxscript": "onnxscript",
    "onnx-ir": "onnx_ir",
    "safetensors": "safetensors",
    "scikit-learn": "sklearn",
    "coremltools": "coremltools",
    "onnx-graphsurgeon": "onnx_graphsurgeon",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "cuda-bindings": "cuda.bindings",
    "triton": "triton",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "httptools": "httptools",
    "grpcio": "grpc",
    "tritonclient": "tritonclient",
    "openvino": "openvino",
}

CORE = ("numpy", "onnx", "onnxruntime", "pillow", "typer", "rich")
# Every one of these brings the module `onnxruntime`.
ORT_BUILDS = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Package:
    """One distribution. `version` is None where it is not installed, `missing_module` names what a broken one lacks."""

    name: str
    version: str | None
    missing_module: str | None = None

    @property
    def installed(self) -> bool:
        return self.version is not None

    @property
    def works(self) -> bool:
        return self.installed and self.missing_module is None

    @property
    def requirement(self) -> str:
        """What to give to pip for the same version again."""
        return f"{self.name}=={self.version}" if self.version and release(self.version) else self.name

    @property
    def reinstall(self) -> str:
        """The command that puts a broken package's files back."""
        return f"pip install --force-reinstall --no-deps {self.requirement}"

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "missing_module": self.missing_module}

    def __str__(self) -> str:
        if not self.installed:
            return f"{self.name}: not installed"
        if self.missing_module:
            return (
                f"{self.name} {self.version}: broken, its module {self.missing_module} is not there;"
                f" run: {self.reinstall}"
            )
        return f"{self.name} {self.version}"


def find_package(name: str, module: str) -> Package:
    """The distribution `name`, which must bring `module`."""
    try:
        # Half-removed metadata has no version: None or KeyError, depending on the version of Python.
        version: str | None = metadata.version(name) or "of unknown version"
    except metadata.PackageNotFoundError:
        return Package(name, None)
    except KeyError:
        version = "of unknown version"
    return Package(name, version, None if has_module(module) else module)


def has_module(name: str) -> bool:
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # the parent of a dotted name
        return False
    except ValueError:  # already imported, by something that set no spec
        return True
    # What an uninstalled twin leaves behind, say a cache folder, looks like a namespace package: it has no file.
    return spec is not None and spec.origin is not None


def minimum_versions() -> dict[str, str]:
    """Package -> oldest version that debiexport's own metadata accepts; empty where it is not installed."""
    try:
        requirements = metadata.requires("debiexport") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement) for requirement in requirements)
    return {match[1].lower(): match[2] for match in found if match}


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: "2.13.0+cpu" is (2, 13). () where there are none."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def name_and_version(package: Package) -> str:
    return f"{package.name} {package.version}"
