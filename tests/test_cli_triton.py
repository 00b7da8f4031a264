"""`debiexport triton`: exit codes, what stdout and stderr hold, and nothing written where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from served_bundles import FOR_RTX, make_bundle, make_plan_bundle

from debiexport.cards import Card
from debiexport.cli.main import run
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton.protos import from_text

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(tiny_card: Card, tmp_path: Path) -> str:
    return str(make_bundle(tmp_path / "bundle", tiny_card))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "model_repository"


def fails(arguments: list[str], code: int, words: str, capsys: Capture) -> None:
    assert run(["triton", *arguments]) == code
    lines = capsys.readouterr().err.splitlines()
    assert words in next(line for line in lines if line.startswith("error: "))


def test_a_repository_is_written(bundle: str, output: Path, capsys: Capture) -> None:
    assert run(["triton", bundle, f"nano={bundle}", "--output", str(output), "--max-batch", "4", "--lint"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"{output}:",
        "  tiny_debi version 1: onnxruntime_onnx, batches of up to 4",
        "  nano version 1: onnxruntime_onnx, batches of up to 4",
        f"{output}: 2 models, 0 errors, 0 warnings",
    ]
    assert "note:" not in printed.err


def test_options_reach_the_configuration(bundle: str, output: Path) -> None:
    options = ["--preset", "throughput", "--max-batch", "16", "--instances", "2", "--threads", "3", "--gpu", "--quiet"]
    assert run(["triton", bundle, "--output", str(output), *options]) == 0
    config = from_text((output / "tiny_debi/config.pbtxt").read_text())
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (2, "KIND_GPU")
    assert config.parameters["intra_op_thread_count"].string_value == "3"


def test_the_result_is_one_object(bundle: str, output: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = [bundle, "--output", str(output), "--kserve", str(tmp_path / "k"), "--lint", "--json"]
    assert run(["triton", *arguments]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["versions"][0]["version"] == 1
    assert data["lint"]["ok"] is True
    assert all(Path(file).is_file() for file in data["manifests"])
    assert run(["triton", *arguments, "--force"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"][0]["version"] == 2


def test_manifests_that_differ_are_refused_before_anything_is_written(
    bundle: str, output: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = [bundle, "--output", str(output), "--kserve", str(tmp_path / "k")]
    mine = tmp_path / "k/kubernetes/service.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    fails(arguments, 2, f"--kserve {mine} exists and differs", capsys)
    assert not output.exists()
    assert mine.read_text() == "mine"
    assert run(["triton", *arguments, "--force"]) == 0
    deployment = tmp_path / "k/kubernetes/deployment.yaml"  # another version needs more memory
    fails(arguments, 2, f"--kserve {deployment} exists and differs", capsys)
    assert not (output / "tiny_debi/2").exists()


def test_options_that_a_model_does_not_have_are_refused(bundle: str, output: Path, capsys: Capture) -> None:
    assert run(["triton", bundle, "--output", str(output), "--quiet"]) == 0
    for options, words in (
        (["--max-batch", "32"], "max_batch_size is 8, not 32 (--max-batch): leave that option out"),
        (["--preset", "throughput"], "max_queue_delay_microseconds is 0, not 2000 (--preset throughput)"),
        (["--instances", "2"], "not 2 (--instances)"),
        (["--threads", "2"], "intra_op_thread_count is 4, not 2 (--threads)"),
        (["--gpu"], "KIND_CPU, not KIND_GPU (--gpu)"),
    ):
        fails([bundle, "--output", str(output), *options], 2, words, capsys)
    assert not (output / "tiny_debi/2").exists()
    same = ["--max-batch", "8", "--preset", "latency", "--instances", "1", "--threads", "4"]
    assert run(["triton", bundle, "--output", str(output), *same]) == 0
    assert "tiny_debi version 2: onnxruntime_onnx, batches of up to 8" in capsys.readouterr().out


def test_manifests_say_what_they_assume(tiny_card: Card, output: Path, tmp_path: Path, capsys: Capture) -> None:
    plan = str(make_plan_bundle(tmp_path / "plan", tiny_card, Profile(1, 2, 4)))
    arguments = [plan, "--output", str(output), "--kserve", str(tmp_path / "k")]
    fails(arguments, 2, "give the container of Triton whose TensorRT is 11.4.0.106", capsys)
    assert not output.exists()
    arguments += ["--image", "triton:9"]
    assert run(["triton", *arguments]) == 0
    printed = capsys.readouterr()
    assert "note: the manifests read pvc://model-repository: say with --storage-uri" in printed.err
    assert "  kserve/inferenceservice.yaml" in printed.out.splitlines()
    assert run(["triton", *arguments, "--storage-uri", "s3://b/f", "--force"]) == 0
    noted = capsys.readouterr().err
    assert "note: the manifests read" not in noted
    assert "note: the manifests hold no credentials" in noted
    text = (tmp_path / "k/kubernetes/deployment.yaml").read_text()
    assert '"triton:9"' in text and "s3://b/f" in text


def test_a_repository_is_linted(bundle: str, output: Path, capsys: Capture) -> None:
    assert run(["triton", bundle, "--output", str(output), "--quiet"]) == 0
    capsys.readouterr()
    assert run(["triton", "--lint", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: 1 model, 0 errors, 0 warnings\n"
    (output / "tiny_debi/labels.txt").unlink()
    assert run(["triton", "--lint", str(output)]) == 4
    printed = capsys.readouterr()
    assert printed.out.startswith("error: tiny_debi/labels.txt: is missing")
    assert printed.err.startswith(f"error: {output}: 1 model, 1 error, 0 warnings; the first: tiny_debi/labels.txt")
    assert run(["triton", "--lint", "--json", str(output), str(output)]) == 4
    data = json.loads(capsys.readouterr().out)
    assert [one["ok"] for one in data["repositories"]] == [False, False]
    assert data["exit_code"] == 4


def test_warnings_alone_are_no_failure(bundle: str, output: Path, capsys: Capture) -> None:
    run(["triton", bundle, "--output", str(output), "--quiet"])
    (output / "tiny_debi/new").mkdir()
    capsys.readouterr()
    assert run(["triton", "--lint", str(output)]) == 0
    assert capsys.readouterr().out.startswith("warning: tiny_debi/new/: is no version")


def test_errors_of_what_was_there_are_found_with_lint(bundle: str, output: Path, capsys: Capture) -> None:
    (output / "old").mkdir(parents=True)
    assert run(["triton", bundle, "--output", str(output), "--lint"]) == 4
    assert "old/config.pbtxt: is missing" in capsys.readouterr().err
    assert (output / "tiny_debi/1/model.onnx").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no --output: give the folder"),
        (["--output", " "], "--output is empty"),
        (["--output", "OUT", "--preset", "fast"], "--preset is 'fast': give latency or throughput"),
        (["--output", "OUT", "--max-batch", "0"], "--max-batch is 0: give 1 to 1024"),
        (["--output", "OUT", "--max-batch", "x"], "--max-batch is 'x'"),
        (["--output", "OUT", "--instances", "0"], "--instances is 0: give 1 to 64"),
        (["--output", "OUT", "--threads", "0"], "--threads is 0: give 1 to 1024"),
        (["--output", "OUT", "--image", "x"], "give --kserve DIR too"),
        (["--output", "OUT", "--force"], "give --kserve DIR too"),
        (["--output", "OUT", "--kserve", "OUT-k", "--storage-uri", "pvc://MY_claim"], "no claim is named 'MY_claim'"),
        (["--output", "OUT", "--kserve", "OUT-k", "--storage-uri", "x"], "--storage-uri is 'x'"),
        (["--kserve", "OUT-k", "--lint"], "--kserve needs --output"),
        (["--lint"], "is a bundle and no model repository: write it as one with --output"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    bundle: str, output: Path, options: list[str], words: str, capsys: Capture
) -> None:
    fails([bundle, *(option.replace("OUT", str(output)) for option in options)], 2, words, capsys)
    assert {path.name for path in output.parent.iterdir()} == {"bundle"}


def test_bundles_that_cannot_be_served_are_refused(
    bundle: str, output: Path, tiny_card: Card, tmp_path: Path, capsys: Capture
) -> None:
    lost = str(make_bundle(tmp_path / "lost", tiny_card, verified=False))
    rtx = str(make_plan_bundle(tmp_path / "rtx", tiny_card, Profile(1, 1, 1), fingerprint=FOR_RTX))
    out = ["--output", str(output)]
    fails([bundle, lost, *out], 4, "lost parity when it was exported, so it is not served", capsys)
    fails([rtx, *out], 4, "export with --engine tensorrt", capsys)
    fails([str(tmp_path / "none"), *out], 2, "no bundle at", capsys)
    fails([f"a/b={bundle}", *out], 2, "the model's name is 'a/b'", capsys)
    fails([f"../x={bundle}", *out], 2, "the model's name is '../x'", capsys)
    fails([f"a b={bundle}", *out], 2, "the model's name is 'a b'", capsys)
    assert not output.exists()
    assert run(["triton", rtx, *out, "--onnx"]) == 0


def test_help_names_the_options(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["triton", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--output", "--preset", "--max-batch", "--instances", "--kserve", "--lint", "--onnx", "--gpu"):
        assert option in text
