"""What the real bindings of TensorRT offer, read from the docstrings that pybind11 writes, without a GPU.

Of full TensorRT the bindings alone can be installed where its libraries cannot. They are imported over libraries that
have the names of its functions and nothing else: no call works, but every class and every signature is the real one.
TensorRT for RTX, which has the same classes, is imported as it is. Both in a process of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Signatures = list[tuple[str, bool]]  # parameters without self, each with whether it may be left out

_FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"),
    *("initLibNvInferPlugins", "getBuilderPluginRegistry", "getPluginRegistry"),
)
_DUMP = """
import importlib, inspect, json, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
module, classes, enums = importlib.import_module(sys.argv[1]), sys.argv[2].split(","), sys.argv[3].split(",")
told = {"version": module.__version__, "classes": {}, "enums": {}}
for name in classes:
    kind = getattr(module, name, None)
    if kind is not None:
        members = {n: getattr(kind, n) for n in dir(kind)}
        told["classes"][name] = {
            n: "property" + (" set" if m.fset else "") if isinstance(m, property) else (m.__doc__ or "")
            for n, m in members.items()
        }
for name in enums:
    kind = getattr(module, name, None)
    if kind is not None:
        told["enums"][name] = sorted(kind.__members__)
print(json.dumps(told))
"""


def offered(package: str, classes: list[str], enums: list[str], folder: Path) -> dict[str, Any] | str:
    """What a package offers: "version", "classes" (member by name: a docstring, or "property" or "property set") and
    "enums" (names of the members); or why it cannot be read here.

    Args:
        package: "tensorrt_bindings" (full TensorRT) or "tensorrt_rtx".
        classes, enums: names.
        folder: for the libraries that stand in.
    """
    if find_spec(package) is None:
        return f"{package} is not installed"
    environment = dict(os.environ)
    if package == "tensorrt_bindings" and find_spec("tensorrt_libs") is None:
        compiler = shutil.which("cc")
        if compiler is None:
            return "no C compiler for the libraries that stand in for those of TensorRT"
        environment["LD_LIBRARY_PATH"] = str(_stand_ins(package, folder, compiler))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _DUMP, package, ",".join(classes), ",".join(enums)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _stand_ins(package: str, folder: Path, compiler: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    bindings = next(Path(spec.submodule_search_locations[0]).glob("tensorrt*.so")).read_bytes()
    names = {found.decode() for found in re.findall(rb"libnv[a-z_]+\.so\.\d+", bindings)}
    source = folder / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    for name in names:
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / name), str(source)], check=True, timeout=60)
    return folder


def signatures(docstring: str, method: str) -> list[Signatures]:
    """Every overload that a docstring of pybind11 or Cython begins with."""
    found = []
    for line in docstring.splitlines():
        match = re.match(rf"(?:\d+\. )?{re.escape(method)}\((.*)\)(?: -> .*)?$", line.strip())
        if match and not match[1].startswith("*args"):
            found.append([_parameter(text) for text in _split(match[1]) if not text.startswith("self")])
    return found


def _split(text: str) -> list[str]:
    """At the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _parameter(text: str) -> tuple[str, bool]:
    """The name in `name: type = default` of pybind11, or `type name` of Cython."""
    declared, _, _ = text.partition(" = ")
    return declared.partition(":")[0].split()[-1], " = " in text
