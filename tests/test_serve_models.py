from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import ANY_PORTS, models_of, toy_model

from debiexport.bundle import open_bundle
from debiexport.errors import BundleError, UsageError
from debiexport.serve.models import Models, load_models
from debiexport.serve.options import ServeOptions
from debiexport.serve.refusals import BadRequest, NotFound

OneLine = Callable[[BaseException], str]


@contextmanager
def loaded(*bundles: str | Path, **options: Any) -> Iterator[Models]:
    models = load_models(bundles, ServeOptions(port=0, grpc_port=0, metrics_port=0, threads=1, **options))
    try:
        yield models
    finally:
        models.close()


def unverified(bundle: Path) -> Path:
    return Path(shutil.move(bundle, bundle.with_name(f"{bundle.name}.unverified")))


def test_a_dynamic_batch(dynamic_bundle: Path) -> None:
    with loaded(dynamic_bundle) as models:
        (model,) = models
        assert (model.name, model.version) == ("tiny_debi", 1)
        assert (model.signature.max_images, model.signature.fixed) == (8, False)
        assert model.signature.inputs[0].shape == (None, 3, 64, 64)
    with loaded(dynamic_bundle, max_batch=3) as models:
        assert next(iter(models)).signature.max_images == 3


def test_other_signatures(static_bundle: Path, uint8_bundle: Path, seg_bundle: Path) -> None:
    with loaded(f"fixed={static_bundle}", f"bytes={uint8_bundle}", seg_bundle) as models:
        fixed, of_bytes, features = (models.find(name).signature for name in ("fixed", "bytes", "tiny_seg"))
        assert (fixed.max_images, fixed.fixed, fixed.inputs[0].shape) == (3, True, (3, 3, 64, 64))
        assert of_bytes.inputs[0].dtype == "uint8"
        assert of_bytes.inputs[0].shape == (None, 64, 64, 3)
        assert [output.name for output in features.outputs] == [f"feature{i}" for i in (1, 2, 3, 4)]


def test_bundles_of_a_name_are_its_versions(dynamic_bundle: Path, static_bundle: Path) -> None:
    with loaded(f"net={dynamic_bundle}", f"net={static_bundle}", dynamic_bundle) as models:
        assert [(model.name, model.version) for model in models] == [("net", 1), ("net", 2), ("tiny_debi", 1)]
        assert models.find("net").version == 2
        assert models.find("net", "1").version == 1
        assert models.find("net", "01").version == 1
        assert models.versions("net") == [1, 2]


def test_models_and_versions_that_are_not_there() -> None:
    models = models_of(toy_model(), toy_model(version=3))
    models.close()
    with pytest.raises(NotFound, match="unknown model: 'no' is not found, expected 'toy'"):
        models.find("no")
    with pytest.raises(NotFound, match="'toy' version 2 is not found, expected 1, 3"):
        models.find("toy", "2")
    for version in ("-1", "1.0", "x", "²", " 1", "9" * 30):
        with pytest.raises(BadRequest, match=r"the version of model 'toy' is .*, expected a whole number"):
            models.find("toy", version)


def test_what_lost_parity_is_refused(dynamic_bundle: Path, one_line: OneLine) -> None:
    bundle = unverified(dynamic_bundle)
    with pytest.raises(BundleError, match="lost parity") as refused, loaded(bundle):
        pass
    assert "--allow-unverified" in one_line(refused.value)
    said: list[str] = []
    models = load_models([bundle], ServeOptions(threads=1, allow_unverified=True), said.append)
    models.close()
    assert [line for line in said if line.startswith("WARNING") and "do not rely on its answers" in line]
    assert [line for line in said if line.startswith("note: the weights of") and "its outputs mean nothing" in line]


def test_what_was_altered_is_refused(dynamic_bundle: Path) -> None:
    with (dynamic_bundle / "model.onnx").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="was altered"), loaded(dynamic_bundle):
        pass


@pytest.mark.parametrize(("target", "words"), [("coreml", "no server runs"), ("tensorrt", "float32 whatever its")])
def test_other_targets_are_refused(
    target: str, words: str, dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    def opened(path: Path) -> Any:
        bundle = open_bundle(path)
        object.__setattr__(bundle.manifest, "target", target)
        return bundle

    monkeypatch.setattr("debiexport.serve.models.open_bundle", opened)
    with pytest.raises(BundleError, match=words) as refused, loaded(dynamic_bundle):
        pass
    assert "debiexport onnx" in one_line(refused.value)


def test_usage(dynamic_bundle: Path, static_bundle: Path, tmp_path: Path, one_line: OneLine) -> None:
    for bundles, options, words in (
        ([], {}, "no bundles"),
        ([tmp_path / "nothing"], {}, "no bundle at"),
        ([f"a b={dynamic_bundle}"], {}, "the model's name is 'a b'"),
        ([static_bundle], {"max_batch": 4}, "--max-batch is 4, but every bundle has a fixed batch"),
        ([dynamic_bundle], {"max_batch": 0}, "--max-batch is 0"),
    ):
        with pytest.raises(UsageError, match=words) as refused, loaded(*bundles, **options):  # type: ignore[misc, arg-type]
            pass
        one_line(refused.value)


def test_a_failure_leaves_no_threads(
    dynamic_bundle: Path, static_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    manifest = static_bundle / "manifest.json"
    content = json.loads(manifest.read_text())
    content["artifacts"][0]["batch"] = content["artifacts"][0]["inputs"][0]["shape"][0] = 4
    manifest.write_text(json.dumps(content))
    before = set(threading.enumerate())
    with pytest.raises(BundleError, match="is not the network of the manifest"), loaded(dynamic_bundle, static_bundle):
        pass
    assert set(threading.enumerate()) <= before


def test_threads_of_the_runtime_let_go_of_their_cores(dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    entries: list[tuple[str, str]] = []
    real = ort.SessionOptions

    class Told(real):  # type: ignore[misc, valid-type]
        def add_session_config_entry(self, name: str, value: str) -> None:
            entries.append((name, value))
            super().add_session_config_entry(name, value)

    monkeypatch.setattr(ort, "SessionOptions", Told)
    with loaded(dynamic_bundle):
        assert ("session.force_spinning_stop", "1") in entries


def test_options() -> None:
    assert ANY_PORTS.host == "127.0.0.1"
    for options, words in (
        ({"host": " "}, "--host is empty"),
        ({"port": 65536}, "--port is 65536: give 0 to 65535"),
        ({"grpc_port": -1}, "--grpc-port is -1"),
        ({"metrics_port": 8000}, "are not three"),
        ({"queue_delay_us": 2_000_000}, "--queue-delay-us is 2000000"),
        ({"max_queue": 0}, "--max-queue is 0"),
        ({"threads": 0}, "--threads is 0"),
    ):
        with pytest.raises(UsageError, match=words):
            ServeOptions(**options)  # type: ignore[arg-type]


def test_answers_are_those_of_the_runtime_bit_by_bit(dynamic_bundle: Path) -> None:
    """Of the same batch in the same runtime; the batcher gives whole batches to it."""
    import asyncio

    from debiexport.serve.requests import InferRequest

    given = np.random.default_rng(0).standard_normal((4, 3, 64, 64), dtype=np.float32)

    async def ask(models: Models) -> np.ndarray:
        request = InferRequest("", {"images": given}, 4, ("logits",))
        return (await next(iter(models)).batcher.submit(request).answer)["logits"]

    with loaded(dynamic_bundle) as models:
        found = asyncio.run(ask(models))
    expected = open_bundle(dynamic_bundle).ort(1).run({"images": given})["logits"]
    np.testing.assert_array_equal(found, expected)
