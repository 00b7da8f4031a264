"""The linter: every mistake that Triton finds late or never, each made in a repository that is otherwise good."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from served_bundles import make_bundle, make_plan_bundle, small_model

from debiexport.cards import Card
from debiexport.errors import UsageError
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton.lint import LintReport, lint_repository
from debiexport.triton.presets import THROUGHPUT, ServingOptions
from debiexport.triton.repository import write_repository

WARMUP = r"model_warmup \{.*?\n\}\n"
POLICY = r"  default_queue_policy \{.*?\n  \}\n"


@pytest.fixture
def batched(tiny_card: Card, tmp_path: Path) -> Path:
    """The folder of a model that takes any batch."""
    return _written(make_bundle(tmp_path / "bundle", tiny_card), tmp_path / "repository")


@pytest.fixture
def fixed(tiny_card: Card, tmp_path: Path) -> Path:
    return _written(make_bundle(tmp_path / "bundle", tiny_card, 2), tmp_path / "repository")


@pytest.fixture
def plan(tiny_card: Card, tmp_path: Path) -> Path:
    return _written(make_plan_bundle(tmp_path / "bundle", tiny_card, Profile(1, 2, 4)), tmp_path / "repository")


def _written(bundle: Path, repository: Path) -> Path:
    write_repository([bundle], repository, options=ServingOptions(THROUGHPUT))
    assert lint_repository(repository).findings == ()
    return repository / "tiny_debi"


def edit(model: Path, pattern: str, replacement: str, count: int = 1) -> LintReport:
    """Replace in the configuration what a pattern finds, and lint."""
    config = model / "config.pbtxt"
    text, found = re.subn(pattern, replacement, config.read_text(), count=count, flags=re.DOTALL)
    assert found
    config.write_text(text)
    return lint_repository(model.parent)


def add(model: Path, text: str) -> LintReport:
    """Add to the configuration, and lint."""
    config = model / "config.pbtxt"
    config.write_text(f"{config.read_text()}\n{text}\n")
    return lint_repository(model.parent)


def errors(report: LintReport) -> str:
    """Every error in a line of its own; there has to be one."""
    found = [str(finding) for finding in report.findings if finding.is_error]
    assert found
    assert not report.ok
    for line in found:
        assert "\n" not in line
    return "\n".join(found)


def warnings(report: LintReport) -> str:
    """Every warning; there are no errors."""
    assert report.ok
    assert report.findings
    return "\n".join(map(str, report.findings))


# --------------------------------------------------------------------------- errors, by an edit of the configuration


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (r'name: "tiny_debi"', 'name: "nano"', "name is 'nano', the folder's 'tiny_debi'"),
        (r'backend: "onnxruntime"', 'backend: "tensorrt"', "does not belong to backend tensorrt"),
        (r"onnxruntime_onnx", "onnxruntime", "platform is 'onnxruntime'"),
        (r'"model.onnx"', '"model.plan"', "default_model_filename is 'model.plan', which is nothing for onnxruntime"),
        (r"max_batch_size: 8", "max_batches: 8", 'has no field named "max_batches"'),
        (r"TYPE_FP32", "FP32", "FP32"),
        (r"max_batch_size: 8", "max_batch_size: -1", "max_batch_size is -1"),
        (r"max_batch_size: 8", "max_batch_size: 4", "preferred_batch_size has 8, max_batch_size is 4"),
        (r"max_batch_size: 8\n", "", "wants to put batches together, but max_batch_size is 0"),
        (r"max_batch_size: 8", "max_batch_size: 16", "no model_warmup of batch_size 16"),
        (r"preferred_batch_size: 8", "preferred_batch_size: 0", "preferred_batch_size has 0"),
        (r"input \{(.*?)TYPE_FP32", r"input {\1TYPE_UINT8", "'images' is TYPE_UINT8, in 1/model.onnx it is TYPE_FP32"),
        (r"output \{(.*?)TYPE_FP32", r"output {\1TYPE_FP16", "'logits' is TYPE_FP16, in 1/model.onnx it is TYPE_FP32"),
        (
            r"dims: 64",
            "dims: 32",
            r"has the dims \[3, 32, 64\], in 1/model.onnx without the batch they are \[3, 64, 64\]",
        ),
        (r"dims: 3\n", "", r"the input 'images' has the dims \[64, 64\]"),
        (r"dims: 6\n", "dims: 7\n", r"output 'logits' has the dims \[7\]"),
        (r"dims: 6\n", "dims: 7\n", "has 6 labels, 'logits' 7 classes"),
        (r"dims: 64", "dims: -1", "a side of -1 takes any image"),
        (
            r'input \{\n  name: "images"',
            'input {\n  name: "image"',
            "input 'image' is not in 1/model.onnx, which has images",
        ),
        (
            r'input \{\n  name: "images"',
            'input {\n  name: "image"',
            "input 'images' of 1/model.onnx is not in the config",
        ),
        (r'name: "logits"', 'name: "scores"', "output 'scores' is not in 1/model.onnx, which has logits"),
        (POLICY, "", "no default_queue_policy"),
        (r"dynamic_batching \{.*?\n\}\n", "", "no default_queue_policy"),
        (r"max_queue_size: \d+", "", "max_queue_size is 0, no bound"),
        (r"default_timeout_microseconds: \d+", "default_timeout_microseconds: 2000", "requests expire after 2000 us"),
        (rf"({WARMUP})+", "", "no model_warmup: "),
        (WARMUP, "", "no model_warmup of batch_size 1"),
        (r"batch_size: 8\n  inputs", "batch_size: 7\n  inputs", "no model_warmup of batch_size 8"),
        (r"batch_size: 8\n  inputs", "batch_size: 9\n  inputs", "'batch_8' has batch_size 9; give 1 to 8"),
        (r"batch_size: 1\n  inputs", "inputs", "'batch_1' has batch_size 0, so Triton skips it"),
        (
            r"(model_warmup.*?)dims: 64",
            r"\1dims: 32",
            r"gives 'images' the dims \[3, 32, 64\], the input has \[3, 64, 64\]",
        ),
        (r"(model_warmup.*?)TYPE_FP32", r"\1TYPE_FP16", "gives 'images' as TYPE_FP16, the input is TYPE_FP32"),
        (r'key: "images"', 'key: "image"', "has an input that the model lacks, 'image'"),
        (r'key: "images"', 'key: "image"', "lacks the input 'images'"),
        (r"zero_data: true", "", "has no data for 'images'"),
        (r"zero_data: true", 'input_data_file: "cat"', "reads 'cat', which is not in warmup/"),
        (r'"64x64"', '"96x96"', r"dims \[3, 64, 64\], images of 96x96 are \[3, 96, 96\]"),
        (r'"64x64"', '"large"', "parameter image_size is 'large'"),
        (r'"normalized"', '"uint8"', r"images of 64x64 are \[64, 64, 3\]"),
        (r'"normalized"', '"rgb"', "parameter input is 'rgb'"),
        (r'"labels.txt"', '"names.txt"', "names.txt: is missing, which 'logits' names"),
        (
            r"latest \{\n    num_versions: 2\n  \}",
            "specific { versions: [1, 3] }",
            "names version 3, which is not there",
        ),
        (r"optimization \{", "optimization { cuda { graphs: true }", "cuda.graphs is for plans"),
    ],
)
def test_errors_of_a_configuration(batched: Path, pattern: str, replacement: str, words: str) -> None:
    found = errors(edit(batched, pattern, replacement))
    assert re.search(words, found), found
    assert found.startswith("error: tiny_debi/")


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (r"version_policy \{.*?\n\}\n", "", "no version_policy"),
        (r"default_timeout_microseconds: \d+", "", "requests wait however long"),
        (r"max_queue_size", "timeout_action: DELAY max_queue_size", "timeout_action is DELAY"),
        (r"instance_group \{.*?\n\}\n", "", "no instance_group"),
        (r"  count: 1\n", "", "has the count 0"),
        (r"KIND_CPU", "KIND_AUTO", "KIND_AUTO: the same repository runs on CPUs here"),
        (r'"intra_op_thread_count"', '"threads"', "starts a thread for every core"),
        (r'(thread_count".*?string_value: ")4', r"\g<1>0", "starts a thread for every core"),
        (r"optimization \{", "optimization { graph { level: 2 }", "level 2 disables every optimisation"),
        (r"response_cache \{", "response_cache { enable: true", "response_cache is on"),
        (r"zero_data: true", "random_data: true", "floats that are no numbers"),
    ],
)
def test_warnings_of_a_configuration(batched: Path, pattern: str, replacement: str, words: str) -> None:
    assert words in warnings(edit(batched, pattern, replacement))


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (
            r'platform: "onnxruntime_onnx"',
            r'platform: "onnxruntime_onnx"\nmax_batch_size: 2',
            "has the fixed sides [2, 3",
        ),
        (r"dynamic_batching \{", r"dynamic_batching { preferred_batch_size: 2", "max_batch_size is 0"),
        (r"dynamic_batching \{", r"dynamic_batching { max_queue_delay_microseconds: 2", "max_batch_size is 0"),
        (r"dims: 2", "dims: 3", "has the dims [3, 3, 64, 64], in 1/model.onnx they are [2, 3, 64, 64]"),
        (r"dims: 2", "dims: -1", "has the dims [-1, 3, 64, 64], in 1/model.onnx they are [2, 3, 64, 64]"),
        (r"batch_size: 1", "batch_size: 2", "has batch_size 2; give 1 to 1"),
    ],
)
def test_errors_of_a_fixed_batch(fixed: Path, pattern: str, replacement: str, words: str) -> None:
    assert words in errors(edit(fixed, pattern, replacement))


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (r"KIND_GPU", "KIND_CPU", "KIND_CPU for a plan"),
        (r"max_batch_size: 4", "max_batch_size: 8", "max_batch_size is 8, the plan takes 1:2:4"),
        (r'"1:2:4"', '"2:3:4"', "the plan takes 2:3:4, and single requests are fewer"),
        (r'"1:2:4"', '"4"', "max_batch_size is 4, the plan takes 4"),
        (r'"1:2:4"', '"many"', "the parameter 1.batches is 'many'"),
        (r"(graph_spec \{\s*batch_size: )4", r"\g<1>9", "a graph_spec has batch_size 9"),
        (
            r"optimization \{",
            'optimization { execution_accelerators { gpu_execution_accelerator { name: "cuda" } }',
            "execution_accelerators are for ONNX models",
        ),
        (r"dims: 64", "dims: 32", "images of 64x64 are [3, 64, 64]"),
    ],
)
def test_errors_of_a_plan(plan: Path, pattern: str, replacement: str, words: str) -> None:
    assert words in errors(edit(plan, pattern, replacement))


@pytest.mark.parametrize(
    ("name", "words"),
    [("1.tensorrt", "do not say which TensorRT built it"), ("1.batches", "do not say which batches it takes")],
)
def test_a_plan_of_which_nothing_is_known(plan: Path, name: str, words: str) -> None:
    assert words in warnings(edit(plan, f'"{name}"', '"else"'))


def test_a_plan_of_one_batch_has_it_in_its_dims(tiny_card: Card, tmp_path: Path) -> None:
    model = _written(make_plan_bundle(tmp_path / "b", tiny_card, Profile(2, 2, 2)), tmp_path / "r")
    found = errors(edit(model, r"(?<=dims: )2", "3", count=0))
    assert "'images' has a batch of 3, the plan one of 2" in found


# ------------------------------------------------------------------------------------------ errors of the files


def _no_version(model: Path) -> None:
    (model / "1").rename(model / "one")


def _no_file(model: Path) -> None:
    (model / "1/model.onnx").rename(model / "1/net.onnx")


def _empty_version(model: Path) -> None:
    (model / "1/model.onnx").unlink()


def _huge_config(model: Path) -> None:
    (model / "config.pbtxt").write_bytes(b"#" * (2**20 + 1))


def _other_weights(model: Path) -> None:
    onnx.save(small_model(None, seed=5), str(model / "1/model.onnx"))


def _broken(model: Path) -> None:
    (model / "1/model.onnx").write_bytes(b"\xff\xff no model")


def _fewer_labels(model: Path) -> None:
    (model / "labels.txt").write_text("a\nb\n")


def _labels_of_bytes(model: Path) -> None:
    (model / "labels.txt").write_bytes(b"\xff\xfe\n" * 6)


def _no_config(model: Path) -> None:
    (model / "config.pbtxt").unlink()


def _config_of_bytes(model: Path) -> None:
    (model / "config.pbtxt").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_version, "tiny_debi/: no version's folder"),
        (_no_file, "tiny_debi/1/model.onnx: is missing, its folder holds net.onnx"),
        (_other_weights, "tiny_debi/1/model.onnx: was altered"),
        (_empty_version, "tiny_debi/1/model.onnx: is missing, its folder is empty; add it, or remove the folder"),
        (_broken, "tiny_debi/1/model.onnx: is no ONNX model"),
        (_fewer_labels, "tiny_debi/labels.txt: has 2 labels, 'logits' 6 classes"),
        (_labels_of_bytes, "tiny_debi/labels.txt: is no text"),
        (_no_config, "tiny_debi/config.pbtxt: is missing; add it, or move the folder away if it is no model"),
        (_config_of_bytes, "tiny_debi/config.pbtxt: cannot be read ('utf-8' codec can't decode"),
        (_config_of_bytes, "; check its permissions and content"),
        (
            _huge_config,
            "tiny_debi/config.pbtxt: has 1048577 bytes, too many for a model's configuration; put the right",
        ),
    ],
)
def test_errors_of_the_files(batched: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(batched)
    found = errors(lint_repository(batched.parent))
    assert words in found
    assert "--output" not in found


def test_folders_that_are_no_version(batched: Path) -> None:
    for name in ("02", "new", "warmup", "configs"):
        (batched / name).mkdir()
    found = warnings(lint_repository(batched.parent))
    assert "tiny_debi/02/: is no version" in found
    assert "tiny_debi/new/" in found
    assert "warmup/" not in found and "configs/" not in found


def test_weights_in_other_files_have_to_be_there(batched: Path) -> None:
    model, edited = batched / "1/model.onnx", re.sub(r"1\.model_sha256", "none", (batched / "config.pbtxt").read_text())
    (batched / "config.pbtxt").write_text(edited)
    onnx.save(onnx.load(str(model)), str(model), save_as_external_data=True, location="weights", size_threshold=0)
    assert lint_repository(batched.parent).findings == ()
    (batched / "1/weights").unlink()
    assert "keeps weights in 'weights', which is not beside it" in errors(lint_repository(batched.parent))


def test_outputs_that_nobody_gets(batched: Path) -> None:
    model = onnx.load(str(batched / "1/model.onnx"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ["N", 3]))
    onnx.save(model, str(batched / "1/model.onnx"))
    assert "the output 'mean' of 1/model.onnx is not in" in warnings(edit(batched, r"1\.model_sha256", "none"))


def test_a_side_that_the_model_leaves_open_may_be_narrowed(batched: Path) -> None:
    model = onnx.load(str(batched / "1/model.onnx"))
    for side, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "HW", strict=True):
        side.dim_param = name
    onnx.save(model, str(batched / "1/model.onnx"))
    assert edit(batched, r"1\.model_sha256", "none").findings == ()


def test_a_reshape_is_what_the_model_gets(batched: Path) -> None:
    report = edit(batched, r"dims: 6\n", "dims: 2 dims: 3 reshape { shape: 6 }\n")
    assert report.findings == ()


def test_a_new_platform_is_not_passed_over(batched: Path) -> None:
    edit(batched, r'platform: "onnxruntime_onnx"', "")
    found = errors(edit(batched, r'backend: "onnxruntime"', 'backend: "python"'))
    assert "backend is 'python'" in found


def test_every_model_is_looked_at(batched: Path, tiny_card: Card, tmp_path: Path) -> None:
    write_repository([f"zebra={make_bundle(tmp_path / 'z', tiny_card, 1)}"], batched.parent)
    _fewer_labels(batched.parent / "zebra")
    _no_config(batched)
    report = lint_repository(batched.parent)
    assert report.models == ("tiny_debi", "zebra")
    assert {finding.file for finding in report.findings} == {"tiny_debi/config.pbtxt", "zebra/labels.txt"}
    assert str(report) == f"{batched.parent}: 2 models, 2 errors, 0 warnings"
    assert report.to_dict()["ok"] is False
    assert report.to_dict()["findings"][0]["severity"] == "error"


def test_an_empty_repository_is_an_error(tmp_path: Path) -> None:
    report = lint_repository(tmp_path)
    assert errors(report).startswith(f"error: {tmp_path}: holds no model's folder")
    assert str(report) == f"{tmp_path}: 0 models, 1 error, 0 warnings"


def test_what_is_no_repository_is_refused(batched: Path, tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none", "no model repository at"),
        (tmp_path / "bundle", "is a bundle and no model repository"),
        (batched, "is a model and no model repository"),
    ):
        with pytest.raises(UsageError, match=words):
            lint_repository(path)


def test_nothing_is_changed(batched: Path) -> None:
    before = {path: path.read_bytes() for path in batched.rglob("*") if path.is_file()}
    lint_repository(batched.parent)
    assert {path: path.read_bytes() for path in batched.rglob("*") if path.is_file()} == before
