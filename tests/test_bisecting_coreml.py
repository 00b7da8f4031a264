"""The first place at which an evaluated package is off."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from debiexport import bisecting_coreml
from debiexport.bisecting import BisectResult, bisect
from debiexport.bundle import Bundle, open_bundle, sha256_of
from debiexport.cli.main import run
from debiexport.errors import BundleError, UsageError
from debiexport.lowerings import PLAIN
from debiexport.manifest import MANIFEST
from debiexport.runtimes.coreml import read_saved
from debiexport.targets.coreml.package import WEIGHTS_FILE

OneLine = Callable[[BaseException], str]


def corrupt(folder: Path, place: str, *, vouch: bool = True) -> None:
    """Change one constant of the package, and let the manifest vouch for it."""
    bundle = open_bundle(folder)
    package = folder / "model.mlpackage"
    function = read_saved(package, bundle.models[0].sha256).function(None)
    (name,) = [name for name in function.producers if name.startswith(f"network_network_{place}_weight")]
    values = function.constant(name).astype(np.float16)
    path = package / WEIGHTS_FILE
    content = path.read_bytes()
    assert content.count(values.tobytes()) == 1
    path.write_bytes(content.replace(values.tobytes(), (values * np.float16(1.5)).tobytes()))
    if vouch:
        data = json.loads((folder / MANIFEST).read_text())
        (artifact,) = [artifact for artifact in data["artifacts"] if artifact["role"] == "weights"]
        artifact["sha256"] = sha256_of(path)
        (folder / MANIFEST).write_text(json.dumps(data))
    read_saved.cache_clear()


def test_nothing_is_off(coreml_bundle: Path) -> None:
    lines: list[str] = []
    result = bisect(coreml_bundle, threads=1, progress=lines.append)
    assert result.ok and result.first is None and result.places_only
    assert result.worst.ratio < 1
    assert "recomputing" in lines[-2] and f"comparing {len(result.places)} places" in lines[-1]


def test_the_place_is_found(coreml_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt(coreml_bundle, "stage2_block1_pos_embed2")
    assert run(["check", str(coreml_bundle), "--bisect", "--threads", "1", "-q"]) == 3
    said = capsys.readouterr()
    assert "\n  stage2.block1.pos_embed2 (N, 16, 8, 8): error" in said.out
    assert "operations of a Core ML package are not compared" in said.out
    assert "first off at stage2.block1.pos_embed2" in said.err
    data = bisect(coreml_bundle, threads=1).to_dict()
    assert data["operation"] is None and data["first"]["name"] == "stage2.block1.pos_embed2"


def test_an_altered_file_is_refused_with_what_to_do(coreml_bundle: Path, one_line: OneLine) -> None:
    corrupt(coreml_bundle, "stage2_block1_pos_embed2", vouch=False)
    with pytest.raises(BundleError) as caught:
        bisect(coreml_bundle)
    assert "weight.bin was altered" in one_line(caught.value)
    assert "weight.bin in" in str(caught.value) and "set sha256 to" in str(caught.value)


@pytest.mark.parametrize("precision", ["int8", "palette4"])
def test_compressed_weights_are_refused(
    coreml_bundle: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine, precision: str
) -> None:
    changed(monkeypatch, coreml_bundle, precision=precision)
    with pytest.raises(UsageError) as caught:
        bisect(coreml_bundle)
    assert f"has weights of {precision}" in one_line(caught.value)


def test_a_package_without_places_is_refused(
    coreml_bundle: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    monkeypatch.setattr(bisecting_coreml, "identifier", lambda name: "nothing of the package")
    changed(monkeypatch, coreml_bundle)
    with pytest.raises(UsageError) as caught:
        bisect(coreml_bundle)
    assert "of the lowering plain, has none between its parts" in one_line(caught.value)


def test_some_places_may_be_missing(coreml_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = bisecting_coreml.identifier
    monkeypatch.setattr(bisecting_coreml, "identifier", lambda name: "none" if name.endswith("mlp1") else kept(name))
    result: BisectResult = bisect(coreml_bundle, threads=1)
    names = {place.name for place in result.places}
    assert result.ok and "stage1.block1.mlp1" not in names and "stage1.block1.mlp2" in names


def changed(monkeypatch: pytest.MonkeyPatch, path: Path, precision: str = "fp16") -> None:
    """Open the bundle as one of another precision, in the released form."""
    bundle = open_bundle(path)
    artifacts = tuple(replace(a, precision=precision) if a.role == "model" else a for a in bundle.manifest.artifacts)
    manifest = replace(bundle.manifest, artifacts=artifacts, lowering=PLAIN)
    monkeypatch.setattr("debiexport.bisecting.open_bundle", lambda folder: Bundle(path, manifest))
