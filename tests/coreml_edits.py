"""Changes to a saved Core ML package: one attribute, constant or weight at a time, the manifest's hashes kept true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from debiexport.bundle import PACKAGE, sha256_of

MODEL = Path(PACKAGE) / "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = Path(PACKAGE) / "Data/com.apple.CoreML/weights/weight.bin"
Edit = Callable[[Any], Any]


def read_spec(bundle: Path) -> Any:
    """The package's specification."""
    from debiexport.targets.coreml.quiet import quiet_coremltools

    with quiet_coremltools():
        from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((bundle / MODEL).read_bytes())
    return spec


def block_of(spec: Any) -> Any:
    """The block of the first function."""
    function = next(iter(spec.mlProgram.functions.values()))
    return next(iter(function.block_specializations.values()))


def write_spec(bundle: Path, spec: Any) -> None:
    """Save a changed specification and say so in the manifest."""
    (bundle / MODEL).write_bytes(spec.SerializeToString(deterministic=True))
    rehash(bundle)


def rehash(bundle: Path) -> None:
    """Write the hashes of the files as they are now into the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for entry in manifest["artifacts"]:
        path = bundle / entry["path"]
        entry["sha256"], entry["bytes"] = sha256_of(path), path.stat().st_size
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def change(bundle: Path, kind: str, parameter: str, edit: Edit, which: int = 0) -> str:
    """Change a constant input of the operation number `which` of a kind, and return the operation's output.

    A constant may stand in the specification or in the weight file; `edit` gets its numbers as an array, a string or a
    truth value as they are.
    """
    spec = read_spec(bundle)
    block = block_of(spec)
    constants = {op.outputs[0].name: op for op in block.operations if op.type == "const"}
    takers = [op for op in block.operations if op.type == kind and parameter in op.inputs]
    given = [(op, op.inputs[parameter].arguments[0].name) for op in takers]
    operation, name = [(op, name) for op, name in given if name in constants][which]
    constant = constants[name]
    value = constant.attributes["val"]
    if value.HasField("blobFileValue"):
        _change_blob(bundle, value, edit)
        rehash(bundle)
    else:
        _change_immediate(value, edit)
        write_spec(bundle, spec)
    return str(operation.outputs[0].name)


def _change_immediate(value: Any, edit: Edit) -> None:
    tensor = value.immediateValue.tensor
    form = tensor.WhichOneof("value")
    if form == "bytes":
        dtype = np.float16 if value.type.tensorType.dataType == 10 else np.int32
        new = np.asarray(edit(np.frombuffer(tensor.bytes.values, dtype).copy()), dtype)
        tensor.bytes.values = new.tobytes()
        return
    held = getattr(tensor, form).values
    new = edit(np.array(held)) if form != "strings" else [edit(held[0])]
    before = list(held)
    del held[:]
    held.extend(np.asarray(new).tolist() if form != "strings" else new)
    assert list(held) != before, "nothing was changed"


def _change_blob(bundle: Path, value: Any, edit: Edit) -> None:
    """Rewrite the numbers of a blob: float16 after its record of 64 bytes."""
    data = bytearray((bundle / WEIGHTS).read_bytes())
    record = value.blobFileValue.offset
    size = int.from_bytes(data[record + 8 : record + 16], "little")
    start = int.from_bytes(data[record + 16 : record + 24], "little")
    numbers = np.frombuffer(bytes(data[start : start + size]), np.float16).copy()
    new = np.asarray(edit(numbers.copy()), np.float16)
    assert new.shape == numbers.shape
    assert (new != numbers).any(), "nothing was changed"
    data[start : start + size] = new.tobytes()
    (bundle / WEIGHTS).write_bytes(data)
