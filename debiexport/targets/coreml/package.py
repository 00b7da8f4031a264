"""A converted model becomes a package on disk, the same bytes whenever it is made of the same things.

coremltools gives a package's entries random identifiers and notes the day; here identifiers follow from the content,
and the metadata are those that are passed.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from debiexport.bundle import sha256_of

_AUTHOR = "com.apple.CoreML"
MODEL_FILE = f"Data/{_AUTHOR}/model.mlmodel"
WEIGHTS_FILE = f"Data/{_AUTHOR}/weights/weight.bin"
MANIFEST_FILE = "Manifest.json"
_NAMESPACE = uuid.UUID("6fd1a5cf-2f3c-5f0e-9d0c-6b6f1c0f9d5e")  # of identifiers that follow from content


def write_package(
    spec: Any,
    weights: Path,
    destination: Path,
    *,
    keep: Collection[str],
    properties: Mapping[str, str],
    description: str,
) -> None:
    """Write a package.

    Args:
        spec: Model_pb2.Model; it is changed.
        weights: its weight.bin.
        destination: a folder that does not exist.
        keep: names of the outputs; other outputs become tensors inside.
        properties: metadata to store, instead of coremltools' own.
        description: one line for people.
    """
    keep_outputs(spec, keep)
    write_metadata(spec, properties, description)
    model = destination / MODEL_FILE
    model.parent.mkdir(parents=True)
    model.write_bytes(spec.SerializeToString(deterministic=True))
    (destination / WEIGHTS_FILE).parent.mkdir()
    shutil.copyfile(weights, destination / WEIGHTS_FILE)
    _write_manifest(destination)


def keep_outputs(spec: Any, keep: Collection[str]) -> None:
    """Make outputs that are not named tensors inside, in every function."""
    descriptions = list(spec.description.functions) or [spec.description]
    for description in descriptions:
        kept = [output for output in description.output if output.name in keep]
        del description.output[:]
        description.output.extend(kept)
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            names = [name for name in block.outputs if name in keep]
            del block.outputs[:]
            block.outputs.extend(names)


def write_metadata(spec: Any, properties: Mapping[str, str], description: str) -> None:
    """Store what the package says of itself; the same export gives the same bytes on any day."""
    metadata = spec.description.metadata
    metadata.Clear()
    metadata.shortDescription = description
    metadata.author = "debiexport"
    for key, value in sorted(properties.items()):
        metadata.userDefined[f"debiexport.{key}"] = value


def _write_manifest(package: Path) -> None:
    """`Manifest.json` as coremltools writes it, with identifiers made of the files' hashes."""
    model, weights = package / MODEL_FILE, package / WEIGHTS_FILE
    root = _identifier(f"model {sha256_of(model)}")
    entries = {
        root: _entry("CoreML Model Specification", "model.mlmodel"),
        _identifier(f"weights {sha256_of(weights)}"): _entry("CoreML Model Weights", "weights"),
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root}
    text = json.dumps(manifest, indent=4, sort_keys=True)
    (package / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def _identifier(content: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, content)).upper()


def _entry(description: str, name: str) -> dict[str, str]:
    return {"author": _AUTHOR, "description": description, "name": name, "path": f"{_AUTHOR}/{name}"}
