"""The command line: exit codes, one line for every refusal, nothing left behind, and what stdout and stderr hold."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_seg_toml
from PIL import Image
from test_checking import corrupt

from debiexport import __version__
from debiexport.cards import Card, card_names
from debiexport.checkpoint import random_checkpoint
from debiexport.cli.main import run

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, such as the default output, lie in a folder of the test's own."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def micro_card_file(tiny_bi_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cheapest network that routes: a BiFormer with one block a stage."""
    data = tiny_bi_card.to_dict()
    lines = ['name = "micro"', *(f"{key} = {json.dumps(data[key])}" for key in ("family", "S", "num_classes"))]
    for stage in data["stages"]:
        lines += ["[[stages]]", *(f"{k} = {json.dumps(v)}" for k, v in (stage | {"blocks": 1}).items())]
    for table in ("preprocessing", "provenance"):
        lines += [f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in data[table].items())]
    path = tmp_path_factory.mktemp("cards") / "micro.toml"
    path.write_text("\n".join(lines))
    return path


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error:")]


def refused(arguments: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run twice, for people and for programs; both say no in one line and leave nothing."""
    before = snapshot(tmp_path)
    assert run(arguments) == code
    plain = capsys.readouterr()
    assert plain.out == ""
    (line,) = errors(plain.err)
    assert words in line
    assert "Traceback" not in plain.err
    assert plain.err.splitlines()[-1] == line

    assert run([*arguments, "--json"]) == code
    machine = capsys.readouterr()
    (text,) = machine.out.splitlines()
    data = json.loads(text)
    assert data["exit_code"] == code
    assert f"error: {data['error']}" == line
    assert errors(machine.err) == [line]
    assert snapshot(tmp_path) == before


# ------------------------------------------------------------------------------- bad input: export


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--model nothing", 2, "'nothing'"),
        ("--output=", 2, "--output is empty: give a path, or leave --output out"),
        ("--checkpoint nowhere.pth", 2, "nowhere.pth"),
        ("--checkpoint .", 2, "folder"),
        ("--image-size 16", 2, "--image-size"),
        ("--image-size abc", 2, "'abc'"),
        ("--image-size 0x0", 2, "0x0"),
        ("--image-size 64x64x64", 2, "--image-size"),
        ("--image-size -64", 2, "--image-size"),
        ("--image-size 5000", 2, "--image-size"),
        ("--batch 0", 2, "--batch"),
        ("--batch -1", 2, "--batch"),
        ("--batch x", 2, "--batch"),
        ("--batch 100000", 2, "--batch"),
        ("--opset 17", 2, "--opset"),
        ("--opset 21", 2, "--opset"),
        ("--opset x", 2, "--opset"),
        ("--top-k 5,1,1,1", 2, "--top-k"),
        ("--top-k 1,1", 2, "--top-k"),
        ("--top-k a", 2, "--top-k"),
        ("--top-k 0,1,1,1", 2, "--top-k"),
        ("--bra-top-k 1,1,5", 2, "--bra-top-k"),
        ("--bra-top-k ,", 2, "--bra-top-k"),
        ("--regions 1", 2, "--regions"),
        ("--regions 65", 2, "--regions"),
        ("--num-classes 0", 2, "--num-classes"),
        ("--lowering magic", 2, "--lowering is 'magic': give one of cpu, gather, dense, grid_sample"),
        ("--lowering magic=masked", 2, "'magic=masked': give slot=NAME once for slots of routing, sampling"),
        ("--lowering routing=", 2, "'routing='"),
        ("--lowering bias=hat,bias=hat", 2, "'bias=hat'"),
        ("--input float16", 2, "'float16'"),
        ("--labels nowhere.txt", 2, "nowhere.txt"),
        ("--output /proc/debiexport", 2, "cannot be written"),
        ("--unknown", 2, "--unknown; see debiexport onnx --help"),
        ("surplus", 2, "surplus"),
    ],
)
def test_bad_options(
    options: str, code: int, words: str, tiny_card_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["onnx", "--model", str(tiny_card_file), *options.split()], code, words, tmp_path, capsys)


@pytest.mark.parametrize(
    ("lowering", "words"),
    [
        ("routing=magic", "no implementation 'magic' of the slot routing: there are "),
        ("dense", "routing=dense does not serve stage1.block1.attn1: it has too many regions; choose "),
        ("routing=dense", "routing=dense does not serve stage1.block1.attn1: it has too many regions; choose "),
    ],
)
def test_lowerings_that_are_refused_where_they_are_built(
    lowering: str,
    words: str,
    tiny_card_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from debiexport.static.ops.routing.dense import DenseRouting

    monkeypatch.setattr(DenseRouting, "supports", staticmethod(lambda geometry: "it has too many regions"))
    assert run(["onnx", "--model", str(tiny_card_file), "--image-size", "64", "--lowering", lowering]) == 2
    said = capsys.readouterr()
    (line,) = errors(said.err)
    assert words in line
    assert said.out == ""
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--num-classes 150", 2, "tiny_seg gives features and no classes"),
        ("--labels labels.txt", 2, "tiny_seg gives features and no classes"),
        ("--image-size 31", 2, "--image-size"),
        ("--top-k 5,1,1,1", 2, "--top-k"),
    ],
)
def test_bad_options_of_a_backbone(
    options: str, code: int, words: str, tiny_seg_card: Card, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "tiny_seg.toml"
    card.write_text(tiny_seg_toml())
    refused(["onnx", "--model", str(card), *options.split()], code, words, tmp_path, capsys)


def test_bad_backbones(tiny_card: Card, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card, weights = tmp_path / "tiny_seg.toml", tmp_path / "weights.pth"
    card.write_text(tiny_seg_toml())
    torch.save(random_checkpoint(tiny_card).state, weights)
    refused(
        ["onnx", "--model", str(card), "--checkpoint", str(weights)], 4, "extra_norms.0.ln.weight", tmp_path, capsys
    )
    card.write_text(tiny_seg_toml().replace("outputs =", "num_classes = 6\noutputs ="))
    refused(["onnx", "--model", str(card)], 4, "unknown key 'num_classes'", tmp_path, capsys)
    card.write_text(tiny_seg_toml().replace("[64, 96]", "[64, 8]"))
    refused(["onnx", "--model", str(card)], 4, "image_size is [64, 8]", tmp_path, capsys)


def test_features_are_not_classified(
    seg_bundle: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["predict", str(seg_bundle), str(image)], 2, "predict needs classes", tmp_path, capsys)
    refused(["check", str(seg_bundle), "--eval", str(tmp_path), "-q"], 2, "--eval needs classes", tmp_path, capsys)


def test_model_is_required(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["onnx"], 2, "--model", tmp_path, capsys)


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def _checkpoints(kind: str, folder: Path, card: Card) -> Path:
    path = folder / "weights.pth"
    state = dict(random_checkpoint(card).state)
    if kind == "text":
        path.write_text("these are no weights\n")
    elif kind == "image":
        Image.new("RGB", (8, 8)).save(path, "PNG")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "malicious":
        torch.save(state | {"x": _Malicious(folder / "MARKER")}, path)
    elif kind == "malicious pickle":
        path.write_bytes(pickle.dumps(_Malicious(folder / "MARKER")))
    else:
        if kind == "missing key":
            del state["head.bias"]
        elif kind == "unexpected key":
            state["surplus.weight"] = torch.zeros(3)
        elif kind == "misshapen":
            state["head.bias"] = torch.zeros(7)
        elif kind == "NaN":
            state["head.bias"][2] = float("nan")
        torch.save({"model": state}, path)
        if kind == "truncated zip":
            path.write_bytes(path.read_bytes()[:-2000])
        elif kind == "not a checkpoint":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a", "b")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "text"),
        ("image", "PNG"),
        ("empty", "empty"),
        ("truncated zip", "weights.pth"),
        ("not a checkpoint", "weights.pth"),
        ("malicious", "weights.pth"),
        ("malicious pickle", "weights.pth"),
        ("missing key", "head.bias"),
        ("unexpected key", "surplus.weight"),
        ("misshapen", "head.bias"),
        ("NaN", "head.bias"),
    ],
)
def test_bad_checkpoints(
    kind: str, words: str, tiny_card: Card, tiny_card_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _checkpoints(kind, tmp_path, tiny_card)
    refused(["onnx", "--model", str(tiny_card_file), "--checkpoint", str(path)], 4, words, tmp_path, capsys)
    assert not (tmp_path / "MARKER").exists()


def test_checkpoint_of_another_variant(
    tiny_card_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from debiexport.cards import shipped_checkpoint

    arguments = ["onnx", "--model", str(tiny_card_file), "--checkpoint", str(shipped_checkpoint("debi_nano"))]
    refused(arguments, 4, "use --model debi_nano", tmp_path, capsys)


def test_classes_that_contradict_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from debiexport.cards import shipped_checkpoint

    checkpoint = str(shipped_checkpoint("debi_nano"))
    arguments = ["onnx", "--model", "debi_nano", "--checkpoint", checkpoint, "--num-classes", "7"]
    refused(arguments, 2, "--num-classes is 7", tmp_path, capsys)


@pytest.mark.parametrize("text", ["nonsense", 'name = "x"', ""])
def test_broken_card(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "card.toml").write_text(text)
    refused(["onnx", "--model", str(tmp_path / "card.toml")], 4, "card.toml", tmp_path, capsys)


def test_labels_of_wrong_length(tiny_card_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    arguments = ["onnx", "--model", str(tiny_card_file), "--labels", str(tmp_path / "labels.txt")]
    refused(arguments, 4, "2 lines", tmp_path, capsys)


@pytest.mark.parametrize("force", [False, True])
def test_output_exists(force: bool, tiny_card_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    arguments = ["onnx", "--model", str(tiny_card_file), "--output", str(tmp_path / "out"), *(["--force"] * force)]
    refused(arguments, 2, "--output", tmp_path, capsys)


def test_output_below_a_file(tiny_card_file: Path, image: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["onnx", "--model", str(tiny_card_file), "--output", str(image / "out")]
    refused(arguments, 2, "cannot be written", tmp_path, capsys)


@pytest.mark.parametrize("option", ["--output", "--checkpoint", "--labels", "--model"])
def test_names_longer_than_any_file(
    option: str, tiny_card_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["onnx", "--model", str(tiny_card_file), option, "x" * 300]
    code = 4 if option == "--checkpoint" else 2
    refused(arguments, code, "File name too long", tmp_path, capsys)


# --------------------------------------------------------------------- bad input: check and predict


@pytest.mark.parametrize("command", ["check", "predict"])
@pytest.mark.parametrize("kind", ["no folder", "no bundle", "missing", "truncated", "altered", "too long a name"])
def test_bad_bundles(
    command: str, kind: str, dynamic_bundle: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = dynamic_bundle / "model.onnx"
    bundle, code, words = dynamic_bundle, 4, "model.onnx"
    if kind == "no folder":
        bundle, code, words = tmp_path / "nowhere", 2, "nowhere"
    elif kind == "too long a name":
        bundle, code, words = Path("x" * 300), 2, "File name too long"
    elif kind == "no bundle":
        (tmp_path / "empty").mkdir()
        bundle, words = tmp_path / "empty", "manifest.json"
    elif kind == "missing":
        model.unlink()
    elif kind == "truncated":
        model.write_bytes(model.read_bytes()[:-1])
    else:
        model.write_bytes(model.read_bytes()[:-1] + b"\0")
    refused([command, str(bundle), *([str(image)] * (command == "predict"))], code, words, tmp_path, capsys)


@pytest.mark.parametrize("command", ["check", "predict", "bench"])
def test_session_options_that_are_not_allowed(
    command: str, dynamic_bundle: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dynamic_bundle / "manifest.json"
    data = json.loads(path.read_text())
    data["session_options"]["profile_file_prefix"] = str(tmp_path / "written")
    path.write_text(json.dumps(data))
    arguments = [command, str(dynamic_bundle), *([str(image)] * (command == "predict"))]
    refused(arguments, 4, "session_options has 'profile_file_prefix'", tmp_path, capsys)


def _bomb(path: Path) -> None:
    """A PNG of a few bytes that says that it is 60000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (60000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)))


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [("text", 4, "not an image"), ("bomb", 4, "pixels"), ("nowhere", 2, "no file"), ("folder", 2, "folder")],
)
def test_bad_images(
    kind: str, code: int, words: str, dynamic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.png"
    if kind == "text":
        path.write_text("no image")
    elif kind == "bomb":
        _bomb(path)
    elif kind == "folder":
        path.mkdir()
    refused(["predict", str(dynamic_bundle), str(path)], code, words, tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["predict", "BUNDLE"], "IMAGE"),
        (["predict", "BUNDLE", "IMAGE", "--top", "0"], "--top"),
        (["predict", "BUNDLE", "IMAGE", "--top", "x"], "--top is 'x': give a whole number"),
        (["predict", "BUNDLE", "IMAGE", "--threads", "0"], "--threads"),
        (["predict", "BUNDLE", "IMAGE", "--threads", "99999"], "--threads is 99999: give at least 1, and at most"),
        (["predict", "BUNDLE", "IMAGE", "--batch", "2"], "No such option: --batch"),
        (["check", "BUNDLE", "--threads", "-1"], "--threads"),
        (["check", "BUNDLE", "--eval", "nowhere"], "--eval"),
        (["check", "BUNDLE", "--eval", "nowhere", "--bisect"], "give one of them"),
        (["check", "BUNDLE", "--bisect", "--threads", "0"], "--threads"),
        (["check", "BUNDLE", "--checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["check"], "BUNDLE'; see debiexport check --help"),
        (["frobnicate"], "'frobnicate'; see debiexport --help"),
        (["models", "--unknown"], "--unknown; see debiexport models --help"),
    ],
)
def test_bad_options_of_the_others(
    options: list[str],
    words: str,
    dynamic_bundle: Path,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"BUNDLE": str(dynamic_bundle), "IMAGE": str(image)}
    refused([places.get(option, option) for option in options], 2, words, tmp_path, capsys)


# ------------------------------------------------------------------------------------ what is said


def test_onnx(micro_card_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One export in full: progress, warning and figures where they belong, then a refusal and a bundle that checks."""
    out = tmp_path / "out"
    assert run(["onnx", "--model", str(micro_card_file), "--image-size", "64", "--output", str(out), "--json"]) == 0
    said = capsys.readouterr()
    (text,) = said.out.splitlines()
    data = json.loads(text)
    assert data["bundle"] == str(out)
    assert data["manifest"] == json.loads((out / "manifest.json").read_text())
    assert "WARNING" in said.err
    assert "proving parity" in said.err
    assert sorted(path.name for path in out.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    assert list(Path.cwd().iterdir()) == []
    assert run(["check", str(out), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("parity holds")
    assert said.err == f"note: the weights of {out} are random, seed 0: its outputs mean nothing\n"


def test_check(dynamic_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(dynamic_bundle)]) == 0
    said = capsys.readouterr()
    for words in ("batch 1:", "batch 5:", "routes:", "noise floor", "parity holds"):
        assert words in said.out
    assert "checking the files" in said.err
    assert run(["check", str(dynamic_bundle), "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    (text,) = said.out.splitlines()
    assert json.loads(text)["parity"]["ok"] is True
    assert said.err == f"note: the weights of {dynamic_bundle} are random, seed 0: its outputs mean nothing\n"


def test_bisect(micro_card_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is off, then one bias is: told for people and for programs."""
    bundle = tmp_path / "bundle"
    assert run(["onnx", "--model", str(micro_card_file), "--image-size", "64", "--output", str(bundle), "-q"]) == 0
    capsys.readouterr()
    assert run(["check", str(bundle), "--bisect", "--json", "--quiet", "--threads", "1"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parity"]["ok"] is True
    assert data["first"] is data["operation"] is None
    assert run(["check", str(bundle), "--bisect", "--quiet"]) == 0
    said = capsys.readouterr()
    assert "leaves its tolerance; the worst: " in said.out
    assert said.out.splitlines()[-1].startswith("parity holds")

    corrupt(bundle, tensor="stage2.block1.mlp.linear1.bias", factor=1.5)
    assert run(["check", str(bundle), "--bisect"]) == 3
    said = capsys.readouterr()
    assert "  stage2.block1.mlp (N, 16, 8, 8): error" in said.out
    assert "  stage2.block1.mlp.linear1.bias differs in " in said.out
    assert said.out.splitlines()[-1].startswith("parity is lost")
    (line,) = errors(said.err)
    assert "first off at stage2.block1.mlp, operation stage2.block1.mlp.linear1/" in line
    assert "comparing operation by operation" in said.err

    assert run(["check", str(bundle), "--bisect", "--json"]) == 3
    said = capsys.readouterr()
    (text,) = said.out.splitlines()
    data = json.loads(text)
    assert data["exit_code"] == 3
    assert errors(said.err) == [f"error: {data['error']}"] == [line]
    assert data["first"]["name"] == "stage2.block1.mlp"
    assert data["operation"]["differences"][0].startswith("stage2.block1.mlp.linear1.bias differs in ")


def test_lost_parity_is_told_in_full(
    dynamic_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("debiexport.parity_report.ParityReport.failures", ["the numbers are off"])
    assert run(["check", str(dynamic_bundle), "--json"]) == 3
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert data["exit_code"] == 3
    assert data["parity"]["failures"] == ["the numbers are off"]
    assert "holds" not in said.out + said.err
    assert errors(said.err) == [f"error: {data['error']}"]

    monkeypatch.setattr("debiexport.parity_report.ParityReport.failures", ["the numbers are off", "so are the routes"])
    assert run(["check", str(dynamic_bundle)]) == 3
    said = capsys.readouterr()
    for words in (
        "batch 5: relative error",
        "  routes: ",
        "tolerance ",
        "  the numbers are off\n  so are the routes\n",
    ):
        assert words in said.out
    assert said.out.splitlines()[-1] == "parity is lost: the numbers are off"
    (line,) = errors(said.err)
    assert line.endswith(f"with torch and the weights: debiexport check {dynamic_bundle} --bisect")


def test_predict(dynamic_bundle: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", str(dynamic_bundle), str(image), str(image), "--top", "2"]) == 0
    said = capsys.readouterr()
    assert [line.startswith(f"{image}: class ") for line in said.out.splitlines()] == [True, True]
    assert run(["predict", str(dynamic_bundle), str(image), "--json", "--threads", "1"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert len(prediction["classes"]) == 5


def test_predict_with_bad_images_among_good_ones(
    dynamic_bundle: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The good ones are on stdout as without the bad ones; the bad ones are errors, and decide the exit code."""
    text, nowhere = tmp_path / "text.png", tmp_path / "nowhere.png"
    text.write_text("no image")
    assert run(["predict", str(dynamic_bundle), str(image), str(image)]) == 0
    good = capsys.readouterr().out
    assert run(["predict", str(dynamic_bundle), str(text), str(image), str(nowhere), str(image)]) == 4
    said = capsys.readouterr()
    assert said.out == good
    first, second = errors(said.err)
    assert f"'{text}' is not an image" in first and f"no file '{nowhere}'" in second
    assert run(["predict", str(dynamic_bundle), str(nowhere), str(image)]) == 2
    capsys.readouterr()

    assert run(["predict", str(dynamic_bundle), str(text), str(image), str(nowhere), "--json"]) == 4
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    data = json.loads(line)
    assert [entry["image"] for entry in data["predictions"]] == [str(image)]
    assert [entry["image"] for entry in data["failures"]] == [str(text), str(nowhere)]
    assert [f"error: {entry['reason']}" for entry in data["failures"]] == errors(said.err)
    assert data["exit_code"] == 4
    assert data["error"] == f"2 images could not be used; the first: {data['failures'][0]['reason']}"


def test_predict_with_nothing_but_bad_images(
    dynamic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(dynamic_bundle), "a.png", "b.png"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(errors(said.err)) == 2


def test_accuracy_over_a_folder_with_a_bad_image(
    dynamic_bundle: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured on the others, and nobody takes it for the accuracy on all."""
    folder = tmp_path / "eval" / "0"
    folder.mkdir(parents=True)
    shutil.copy(image, folder / "a.png")
    (folder / "b.png").write_text("no image")
    arguments = ["check", str(dynamic_bundle), "--eval", str(folder.parent), "-q"]
    assert run(arguments) == 4
    said = capsys.readouterr()
    assert "parity holds" in said.out
    assert said.out.splitlines()[-1].endswith("of 1 images, skipped 1")
    (line,) = errors(said.err)
    assert f"'{folder / 'b.png'}' is not an image" in line
    assert run([*arguments, "--json"]) == 4
    data = json.loads(capsys.readouterr().out)
    assert (data["parity"]["ok"], data["exit_code"], f"error: {data['error']}") == (True, 4, line)
    assert [entry["image"] for entry in data["accuracy"]["skipped"]] == [str(folder / "b.png")]


def test_predict_warns_of_unverified_bundles(
    dynamic_bundle: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = dynamic_bundle.rename(dynamic_bundle.with_name("x.unverified"))
    assert run(["predict", str(left), str(image), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("note: ")
    assert "do not rely" in said.err
    assert said.err.splitlines() == [f"note: {note}" for note in json.loads(said.out)["notes"]]


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    plain = capsys.readouterr().out
    assert all(name in plain for name in card_names())
    assert run(["models", "--json", "-q"]) == 0
    (text,) = capsys.readouterr().out.splitlines()
    assert [row["name"] for row in json.loads(text)["models"]] == list(card_names())


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    assert "onnxruntime" in capsys.readouterr().out
    assert run(["doctor", "--json", "--quiet"]) == 0
    (text,) = capsys.readouterr().out.splitlines()
    assert isinstance(json.loads(text), dict)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"debiexport {__version__}\n"


@pytest.mark.parametrize("command", [[], ["onnx"], ["check"], ["predict"], ["bench"], ["models"], ["doctor"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    said = capsys.readouterr()
    assert "Usage" in said.out
    assert said.err == ""


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    said = capsys.readouterr()
    assert errors(said.err) == ["error: no command was given; see debiexport --help"]
    assert "onnx" in said.out


@pytest.mark.parametrize("arguments", [["onnx", "--model", "nothing"], ["onnx", "--opset", "x", "--model", "x"]])
def test_debug_shows_the_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "--debug"]) == 2
    said = capsys.readouterr()
    assert "Traceback" in said.err
    assert len(errors(said.err)) == 1
    assert said.out == ""


# ---------------------------------------------------------------------------- bugs and interruptions


def _break(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("debiexport.static.network.StaticNetwork.of", fail)


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_called_a_bug(
    debug: bool, tiny_card_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, ZeroDivisionError("two\nlines"))
    assert run(["onnx", "--model", str(tiny_card_file), *(["--debug"] * debug)]) == 1
    said = capsys.readouterr()
    (line,) = errors(said.err)
    assert "a bug of debiexport (ZeroDivisionError: two lines)" in line
    assert ("Traceback" in said.err) is debug
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "failure", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] you tried to allocate 183 GB")]
)
def test_not_enough_memory(
    failure: Exception, tiny_card_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, failure)
    assert run(["onnx", "--model", str(tiny_card_file)]) == 2
    assert "not enough memory: choose a smaller image size or batch" in errors(capsys.readouterr().err)[0]


@pytest.mark.parametrize("json_wanted", [False, True])
def test_interruption(
    json_wanted: bool, tiny_card_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, KeyboardInterrupt())
    assert run(["onnx", "--model", str(tiny_card_file), *(["--json"] * json_wanted)]) == 130
    said = capsys.readouterr()
    assert errors(said.err) == ["error: interrupted: nothing half-written was left behind"]
    assert "Traceback" not in said.err
    assert bool(said.out) is json_wanted
    assert list(Path.cwd().iterdir()) == []


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run(["--version"])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# --------------------------------------------------------------------------------- real processes


def start(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "debiexport", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", ["converting", "proving"])
def test_real_signals(number: signal.Signals, step: str, micro_card_file: Path, tmp_path: Path) -> None:
    """In the midst of the tracing, which catches exceptions of its own, and of the runs of the network."""
    out = tmp_path / "a" / "out"
    process = start(["onnx", "--model", str(micro_card_file), "--image-size", "64", "--output", str(out)])
    assert process.stderr is not None
    said = ""
    while step not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(0.3 if step == "converting" else 0)
    process.send_signal(number)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, said + rest
    assert len(errors(rest)) == 1
    assert "Traceback" not in rest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd"]
    assert list(Path.cwd().iterdir()) == []


_FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
from debiexport.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def test_a_disk_that_fills_up(micro_card_file: Path, tmp_path: Path) -> None:
    arguments = ["onnx", "--model", str(micro_card_file), "--image-size", "64", "--output", str(tmp_path / "a" / "out")]
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | ONE_THREAD,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = errors(done.stderr)
    assert "cannot be written (File too large" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd"]


_IMPORTS = """
import sys
from debiexport.cli.main import run
code = run(sys.argv[1:])
heavy = [name for name in ("torch", "onnx", "onnxruntime", "numpy", "PIL", "safetensors") if name in sys.modules]
print(code, heavy)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["onnx", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTS, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_names_that_are_no_text(dynamic_bundle: Path, image: Path) -> None:
    """A file's name may be bytes that no encoding explains, and the terminal may know ASCII only."""
    strange = os.fsdecode(os.fsencode(image.parent) + b"/\xff\xe9.png")
    shutil.copy(image, strange)
    for options in ([], ["--json"]):
        for encoding in ("utf-8", "ascii"):
            done = subprocess.run(
                [sys.executable, "-m", "debiexport", "predict", str(dynamic_bundle), strange, *options],
                capture_output=True,
                env=os.environ | {"PYTHONIOENCODING": encoding},
                check=False,
            )
            assert done.returncode == 0, done.stderr
            if options:
                assert json.loads(done.stdout)["predictions"][0]["image"] == strange


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "debiexport", "models"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert len(errors(done.stderr)) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["models"], ["--version"], ["onnx", "--help"], ["models", "--json"]])
def test_a_reader_that_goes_away(arguments: list[str]) -> None:
    """People have seen enough; a program learns what it missed."""
    process = start(arguments)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    told = "error: standard output cannot be written (Broken pipe): free some space or send it elsewhere\n"
    assert said == (told if "--json" in arguments else "")


_NO_ROOM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
from debiexport.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models"], "standard output cannot be written (File too large)"),
        (["models", "--json"], "standard output cannot be written (File too large)"),
        (["--version"], "File too large"),
        (["onnx", "--model", "nothing", "--json"], "'nothing'"),
    ],
)
def test_standard_output_without_room(arguments: list[str], words: str, tmp_path: Path) -> None:
    """Also where it is the error that cannot be written."""
    with (tmp_path / "stdout").open("w") as file:
        done = subprocess.run(
            [sys.executable, "-B", "-c", _NO_ROOM, *arguments],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and words in line


_SIGNALLED = """
import os, runpy, sys
number, module = int(sys.argv.pop(1)), sys.argv.pop(1)

class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == module:  # it is being imported
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Sender())
runpy.run_module("debiexport", run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ["models", "--json"]),
        ("numpy", ["check", "BUNDLE"]),
        ("onnxruntime", ["check", "BUNDLE", "--json"]),
        ("torch", ["onnx", "--model", "debi_nano", "--image-size", "32", "--output", "out"]),
    ],
)
def test_signals_during_imports(
    number: signal.Signals, module: str, arguments: list[str], dynamic_bundle: Path
) -> None:
    arguments = [str(dynamic_bundle) if word == "BUNDLE" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED, str(int(number)), module, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | ONE_THREAD,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "error: interrupted: nothing half-written was left behind"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert bool(done.stdout) is ("--json" in arguments)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_python_ends(number: signal.Signals) -> None:
    """The work is done, and its exit code stands."""
    program = (
        "import atexit, os\n"
        "from debiexport.__main__ import main\n"
        f"atexit.register(os.kill, os.getpid(), {int(number)})\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"debiexport {__version__}\n", "")
