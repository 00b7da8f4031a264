"""A bundle of which a byte has changed is not opened."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, numpy_helper

from debiexport.bundle import GOLDEN, MODEL, Bundle, describe_file, is_unverified, open_bundle, sha256_of
from debiexport.errors import BundleError, UsageError
from debiexport.manifest import MANIFEST
from debiexport.runtimes.typed import EvaluatedModel

OneLine = Callable[[BaseException], str]
FILES = ("model.onnx", "golden.npz")


def refusal(folder: Path, one_line: OneLine) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert caught.value.exit_code == 4
    return one_line(caught.value)


def rehash(folder: Path, change: Callable[[dict[str, Any]], None] = lambda data: None) -> None:
    """Make the manifest say what the files are, as somebody would who altered them on purpose."""
    data = json.loads((folder / MANIFEST).read_text())
    for artifact in data["artifacts"]:
        path = folder / artifact["path"]
        artifact["sha256"], artifact["bytes"] = sha256_of(path), path.stat().st_size
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def test_open(dynamic_bundle: Path) -> None:
    bundle = open_bundle(str(dynamic_bundle))
    assert sorted(path.name for path in dynamic_bundle.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    assert bundle.file(MODEL) == dynamic_bundle / "model.onnx"
    assert bundle.file(GOLDEN) == dynamic_bundle / "golden.npz"
    assert bundle.geometry.image_size == (64, 64)
    assert bundle.runtime(1).batch is None
    assert not is_unverified(bundle)


def test_the_model_is_run_with_the_manifests_session_options(dynamic_bundle: Path) -> None:
    options = {"graph_optimization_level": "extended", "entries": {"session.intra_op.allow_spinning": "0"}}
    rehash(dynamic_bundle, lambda data: data.update(session_options=options))
    found = open_bundle(dynamic_bundle).runtime(1).options
    assert {key: found[key] for key in options} == options
    assert (found["intra_op_num_threads"], found["memory_arena"]) == (1, True)


def test_open_static(static_bundle: Path) -> None:
    assert open_bundle(static_bundle).runtime(1).batch == 3


def test_other_files_do_not_matter(dynamic_bundle: Path) -> None:
    (dynamic_bundle / "notes.txt").write_text("mine")
    open_bundle(dynamic_bundle)


@pytest.mark.parametrize("place", ["nowhere", "file", "file/below"])
def test_no_such_folder(tmp_path: Path, one_line: OneLine, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError) as caught:
        open_bundle(tmp_path / place)
    assert caught.value.exit_code == 2
    assert place in one_line(caught.value)


def test_not_a_bundle(tmp_path: Path, one_line: OneLine) -> None:
    assert "not a bundle" in refusal(tmp_path, one_line)


@pytest.mark.parametrize("name", FILES)
def test_missing_file(dynamic_bundle: Path, one_line: OneLine, name: str) -> None:
    (dynamic_bundle / name).unlink()
    assert f"lacks {name}" in refusal(dynamic_bundle, one_line)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, -1])
def test_truncated_file(dynamic_bundle: Path, one_line: OneLine, name: str, keep: int) -> None:
    path = dynamic_bundle / name
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(dynamic_bundle, one_line)
    assert name in message
    assert "bytes, the manifest says" in message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, 0.5, -1])
def test_altered_byte(dynamic_bundle: Path, one_line: OneLine, name: str, position: float) -> None:
    path = dynamic_bundle / name
    content = bytearray(path.read_bytes())
    content[int(position * len(content)) if position > 0 else int(position)] ^= 1
    path.write_bytes(content)
    message = refusal(dynamic_bundle, one_line)
    assert name in message
    assert "altered" in message


@pytest.mark.parametrize("name", FILES)
def test_symlinked_file(dynamic_bundle: Path, tmp_path: Path, one_line: OneLine, name: str) -> None:
    shutil.move(dynamic_bundle / name, tmp_path / name)
    (dynamic_bundle / name).symlink_to(tmp_path / name)
    assert f"lacks {name}" in refusal(dynamic_bundle, one_line)


def test_folder_in_place_of_a_file(dynamic_bundle: Path, one_line: OneLine) -> None:
    (dynamic_bundle / "golden.npz").unlink()
    (dynamic_bundle / "golden.npz").mkdir()
    assert "lacks golden.npz" in refusal(dynamic_bundle, one_line)


def test_no_model_listed(dynamic_bundle: Path, one_line: OneLine) -> None:
    rehash(dynamic_bundle, lambda data: data["artifacts"].pop(0))
    assert "lists no model" in refusal(dynamic_bundle, one_line)


def test_external_data(dynamic_bundle: Path, one_line: OneLine) -> None:
    model = onnx.load(str(dynamic_bundle / "model.onnx"))
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    external_data_helper.set_external_data(tensor, "weights.bin")
    (dynamic_bundle / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    (dynamic_bundle / "model.onnx").write_bytes(model.SerializeToString())
    rehash(dynamic_bundle)
    message = refusal(dynamic_bundle, one_line)
    assert tensor.name in message
    assert "another file" in message


def test_external_data_outside_the_bundle(dynamic_bundle: Path, one_line: OneLine) -> None:
    model = onnx.load(str(dynamic_bundle / "model.onnx"))
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (dynamic_bundle / "model.onnx").write_bytes(model.SerializeToString())
    rehash(dynamic_bundle)
    assert "another file" in refusal(dynamic_bundle, one_line)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08"])
def test_model_that_is_no_onnx(dynamic_bundle: Path, one_line: OneLine, content: bytes) -> None:
    (dynamic_bundle / "model.onnx").write_bytes(content)
    rehash(dynamic_bundle)
    with pytest.raises(BundleError) as caught:
        open_bundle(dynamic_bundle).runtime()
    assert "model.onnx" in one_line(caught.value)


def test_model_of_another_bundle(dynamic_bundle: Path, static_bundle: Path, one_line: OneLine) -> None:
    shutil.copy(static_bundle / "model.onnx", dynamic_bundle)
    rehash(dynamic_bundle)
    with pytest.raises(BundleError, match="not the network of the manifest") as caught:
        open_bundle(dynamic_bundle).runtime()
    one_line(caught.value)


def test_any_other_onnx_file(dynamic_bundle: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    (dynamic_bundle / "model.onnx").write_bytes(model.SerializeToString())
    rehash(dynamic_bundle)
    with pytest.raises(BundleError, match="not the network of the manifest"):
        open_bundle(dynamic_bundle).runtime()


def test_engines_and_what_is_judged(engine_bundle: Path) -> None:
    """The typed model is what runs on any machine; an engine is listed beside it."""
    bundle = open_bundle(engine_bundle)
    assert [model.path for model in bundle.models] == ["model.onnx"]
    assert [engine.path for engine in bundle.engines] == ["model.plan"]
    (runtime,) = bundle.runtimes(1)
    assert isinstance(runtime, EvaluatedModel) and runtime.batch is None


def test_bundles_without_engines(dynamic_bundle: Path) -> None:
    assert open_bundle(dynamic_bundle).engines == ()


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "model.plan", "model.timing"])
def test_a_tensorrt_bundle_that_is_damaged(engine_bundle: Path, one_line: OneLine, name: str) -> None:
    content = bytearray((engine_bundle / name).read_bytes())
    content[-1] ^= 1
    (engine_bundle / name).write_bytes(content)
    assert f"{name} was altered" in refusal(engine_bundle, one_line)
    (engine_bundle / name).unlink()
    assert f"lacks {name}" in refusal(engine_bundle, one_line)


def test_a_tensorrt_bundle_needs_a_model(engine_bundle: Path, one_line: OneLine) -> None:
    rehash(engine_bundle, lambda data: data["artifacts"].pop(0))
    assert "lists no model" in refusal(engine_bundle, one_line)


def test_every_model_of_a_bundle_is_one_file(engine_bundle: Path, one_line: OneLine) -> None:
    """Also the second one."""
    model = onnx.load(str(engine_bundle / "model.onnx"))
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    (engine_bundle / "more.onnx").write_bytes(model.SerializeToString())
    data = json.loads((engine_bundle / MANIFEST).read_text())
    data["artifacts"].append({**data["artifacts"][0], "path": "more.onnx"})
    (engine_bundle / MANIFEST).write_text(json.dumps(data))
    rehash(engine_bundle)
    message = refusal(engine_bundle, one_line)
    assert "more.onnx" in message and "another file" in message


@pytest.mark.parametrize("value", [False, None, "yes", 1])
def test_unverified_by_its_manifest(dynamic_bundle: Path, value: Any) -> None:
    rehash(dynamic_bundle, lambda data: data["parity"].update(ok=value))
    assert is_unverified(open_bundle(dynamic_bundle))


def test_unverified_by_its_name(dynamic_bundle: Path) -> None:
    assert is_unverified(open_bundle(dynamic_bundle.rename(dynamic_bundle.with_name("x.unverified"))))


def test_describe_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    artifact = describe_file(path, GOLDEN)
    assert (artifact.role, artifact.path, artifact.bytes) == ("golden", "x", 3)
    assert artifact.sha256 == hashlib.sha256(b"abc").hexdigest()


def test_initializers_are_inside(dynamic_bundle: Path) -> None:
    bundle: Bundle = open_bundle(dynamic_bundle)
    model = onnx.load(str(bundle.file(MODEL)), load_external_data=False)
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in model.graph.initializer)
