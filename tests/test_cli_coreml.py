"""`debiexport coreml` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import tiny_bi_toml

from debiexport.cli.main import run

pytest.importorskip("coremltools")


def test_what_it_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, card = tmp_path / "out", tmp_path / "card.toml"
    card.write_text(tiny_bi_toml())
    arguments = ["coreml", "--model", str(card), "--image-size", "64", "--output", str(out)]
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert "parity holds: PSNR" in said.out
    assert "0 of them known never to run on an M1's Neural Engine" in said.out
    assert said.out.splitlines()[-1] == f"{out}: model.mlpackage, golden.npz, manifest.json"
    assert "converting to Core ML, iOS17, fp16, batch 1" in said.err
    assert "scikit" not in said.err and "passes" not in said.err, "the converter keeps quiet"

    assert run(["check", str(out), "--json", "--quiet"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parity"]["precision"] == "fp16"
    assert data["placement"]["never_on_ane_count"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "dynamic"], "--batch is dynamic: Core ML packages have fixed batches"),
        (["--batch", "1,2"], "several batches in one package need iOS18"),
        (["--batch", "1,x"], "--batch is 'x'"),
        (["--batch", "65"], "--batch is 65: allowed are 1 to 64"),
        (["--precision", "fp8"], "--precision is 'fp8'"),
        (["--target", "macOS"], "--target is 'macOS'"),
        (["--lowering", "routing=ranked"], "--lowering is 'routing=ranked'"),
        (["--top-k", "5,1,1,1"], "--top-k"),
        (["--input", "bytes"], "--input is 'bytes'"),
        (["--input", "image", "--batch", "4"], "--input image takes one image a run"),
        (["--image-size", "8"], "--image-size"),
        (["--checkpoint", "none.pth"], "none.pth"),
        (["--eval", "nowhere"], "--eval nowhere"),
        (["--opset", "20"], "No such option"),
    ],
)
def test_bad_options(
    tiny_card_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["coreml", "--model", str(tiny_card_file), *options]) == 2
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert words in line
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.matrix
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_digit_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str) -> None:
    """The trained sample network on its 360 held-out scans, before and after."""
    out = tmp_path / "out"
    scans = Path(__file__).parent.parent / "models" / "debi_nano"
    arguments = ["coreml", "--model", "debi_nano", "--precision", precision, "--eval", str(scans), "--output", str(out)]
    assert run([*arguments, "--json", "--quiet"]) == 0
    (note,) = [n for n in json.loads(capsys.readouterr().out)["notes"] if n.startswith("accuracy")]
    if precision == "fp16":
        assert note.endswith("top-1 100.00% of 360 images, 100.00% before the export")
