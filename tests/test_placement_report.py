"""The figures of small packages, all of them known by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_packages import MODEL, WEIGHTS, ct, edit, mb, operations, read, save

from debiexport.errors import BundleError, UsageError
from debiexport.evaluate.program import Program
from debiexport.placement.report import BASIS, SHOWN, Finding, LargestTensor, PlacementReport, placement_of
from debiexport.placement.rules import BY_TYPE, CAST_FLOAT32, CAST_TO_INTEGER, FLOAT32


def made(path: Path, build: Any, *inputs: tuple[int, ...], dtype: str = "fp16", **options: Any) -> PlacementReport:
    package = save(path / "a.mlpackage", build, inputs, dtype=dtype, **options)
    return placement_of(read(package), package)


def eligible(x: Any) -> Any:
    """All in float16: nothing is known to keep it off the Neural Engine."""
    x = mb.conv(x=x, weight=np.ones((64, 4, 3, 3), np.float16), groups=2)  # (1, 8, 6, 6) -> (1, 64, 4, 4)
    x = mb.reshape(x=x, shape=[4, 16, 4, 4])
    x = mb.expand_dims(x=x, axes=[0])
    x = mb.transpose(x=x, perm=[0, 2, 1, 3, 4])
    x = mb.squeeze(x=x, axes=[0])
    x = mb.select(cond=mb.greater(x=x, y=np.float16(0)), a=x, b=np.float16(1))
    return mb.reduce_sum(x=x, axes=[-1], keep_dims=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("placement") / "a.mlpackage", eligible, [(1, 8, 6, 6)], dtype="fp16")


@pytest.fixture(scope="module")
def report(package: Path) -> PlacementReport:
    return placement_of(read(package), package)


def test_operations_without_constants(report: PlacementReport) -> None:
    assert report.function == "main"
    kinds = ["conv", "expand_dims", "greater", "reduce_sum", "reshape", "select", "squeeze", "transpose"]
    assert list(report.operations.items()) == [(kind, 1) for kind in kinds]


def test_figures(report: PlacementReport) -> None:
    assert report.never_on_ane == ()
    assert report.never_count == 0
    assert (report.integer_tensors, report.bool_tensors, report.float32_tensors) == (0, 1, 0)
    assert (report.over_rank_4, report.over_rank_5) == (2, 0)  # expand_dims and transpose
    assert report.transposes == 1
    # Six results of 1024 numbers of two bytes, as many truth values of one, and 256 sums.
    assert report.written_bytes == 6 * 1024 * 2 + 1024 + 256 * 2
    assert report.largest is not None
    assert (report.largest.elements, report.largest.operation) == (1024, "conv")  # the first of equals
    assert report.multiply_adds == 64 * 4 * 4 * 4 * 9


def test_sizes_of_files(package: Path, report: PlacementReport) -> None:
    assert report.weight_bytes == (package / WEIGHTS).stat().st_size > 64 * 4 * 9 * 2
    sizes = [(package / name).stat().st_size for name in (MODEL, WEIGHTS, "Manifest.json")]
    assert report.package_bytes == sum(sizes)


def test_more_than_five_dimensions(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mlpackage", lambda x: mb.expand_dims(x=x, axes=[0]), [(1, 2, 1, 3)], dtype="fp16")

    def one_more(model: Any) -> None:  # the converter refuses to write such a package
        kind = operations(model)[-1].outputs[0].type.tensorType
        kind.rank += 1
        kind.dimensions.add().constant.size = 1

    edit(path, one_more)
    report = placement_of(read(path), path)
    assert (report.over_rank_4, report.over_rank_5, report.written_bytes) == (1, 1, 12)


def test_a_package_without_large_constants(tmp_path: Path) -> None:
    assert made(tmp_path, lambda x: mb.add(x=x, y=np.float16(1)), (2, 3)).weight_bytes in (0, 64)


def test_compressed_constants_do_not_count(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        weight = mb.constexpr_affine_dequantize(
            quantized_data=np.ones((7, 5), np.int8), zero_point=np.int8(0), scale=np.float16(0.5), axis=0
        )
        return mb.linear(x=x, weight=weight)

    report = made(tmp_path, build, (3, 5))
    assert report.operations == {"linear": 1}
    assert (report.written_bytes, report.multiply_adds, report.integer_tensors) == (3 * 7 * 2, 3 * 5 * 7, 0)


def test_operations_that_never_run_there(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        values, indices = mb.topk(x=x, k=2, axis=-1, name="best")
        picked = mb.gather_along_axis(x=x, indices=indices, axis=-1, name="picked")
        whole = mb.cast(x=picked, dtype="int32", name="whole")
        return mb.add(x=mb.cast(x=whole, dtype="fp16", name="back"), y=values, name="total")

    report = made(tmp_path, build, (3, 5))
    assert report.never_on_ane == (
        Finding("cast to an integer", "cast", 1, CAST_TO_INTEGER.evidence, ("whole",)),
        Finding("indexing", "gather_along_axis", 1, BY_TYPE["gather_along_axis"].evidence, ("picked",)),
        Finding("order", "topk", 1, BY_TYPE["topk"].evidence, ("best",)),
    )
    assert report.never_count == 3
    assert report.operations == {"cast": 2, "add": 1, "gather_along_axis": 1, "topk": 1}
    assert report.integer_tensors == 2  # the indices and what was cast
    assert report.written_bytes == 3 * 2 * (2 + 4 + 2 + 4 + 2 + 2)
    assert report.multiply_adds == 0


def test_float32_at_both_ends(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        inner = mb.relu(x=mb.cast(x=x, dtype="fp16", name="enter"))
        return mb.cast(x=inner, dtype="fp32", name="leave")

    report = made(tmp_path, build, (3, 5), dtype="fp32")
    expected = Finding("cast from or to float32", "cast", 2, CAST_FLOAT32.evidence, ("enter", "leave"))
    assert report.never_on_ane == (expected,)
    assert report.float32_tensors == 2  # the input of the function and what leaves it


def test_only_the_first_names_are_kept(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        for i in range(SHOWN + 2):
            x = mb.relu(x=x, name=f"relu_{i}")
        return mb.abs(x=x, name="last")

    report = made(tmp_path, build, (3, 5), dtype="fp32")
    first, second = report.never_on_ane
    assert (first.type, first.count, first.evidence) == ("relu", SHOWN + 2, FLOAT32.evidence)
    assert first.names == tuple(f"relu_{i}" for i in range(SHOWN))
    assert str(first).startswith("7 relu (float32): relu_0, relu_1, relu_2, relu_3, relu_4, ...; ")
    assert str(second).startswith("1 abs (float32): last; ")
    assert report.float32_tensors == 1 + SHOWN + 3


def test_constant_parameters_in_float32_are_no_float32(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=np.float32(2), scale_factor_width=np.float32(2))

    report = made(tmp_path, build, (1, 2, 3, 3))
    assert report.never_on_ane == ()
    assert report.float32_tensors == 0


def test_labels_of_a_classifier_are_no_tensors(tmp_path: Path) -> None:
    report = made(
        tmp_path,
        lambda x: mb.softmax(x=x, axis=-1, name="probabilities"),
        (1, 3),
        as_written=False,
        classifier_config=ct.ClassifierConfig(["a", "b", "c"], predicted_probabilities_output="probabilities"),
        compute_precision=ct.precision.FLOAT16,
    )
    assert report.operations == {"cast": 1, "classify": 1, "softmax": 1}
    # The converter names the best class of probabilities in float32: one tensor, that of the cast.
    assert [(finding.type, finding.reason) for finding in report.never_on_ane] == [
        ("cast", "cast from or to float32"),
        ("classify", "float32"),
    ]
    assert report.float32_tensors == 1
    assert report.written_bytes == 3 * (2 + 4)


def test_functions_by_name(tmp_path: Path, package: Path, report: PlacementReport) -> None:
    program = read(package)
    other = read(save(tmp_path / "b.mlpackage", lambda x: mb.relu(x=x), [(2, 2)], dtype="fp16")).function()
    both = Program({"main": program.function(), "other": other}, "main", program.spec_version)
    assert placement_of(both, package) == report
    assert placement_of(both, package, "other").operations == {"relu": 1}
    with pytest.raises(UsageError, match="no function 'third': give one of 'main', 'other'"):
        placement_of(both, package, "third")


def test_a_package_that_is_gone(tmp_path: Path, package: Path) -> None:
    program = read(package)
    copy = shutil.copytree(package, tmp_path / "copy.mlpackage")
    (copy / MODEL).unlink()
    with pytest.raises(BundleError, match="lacks"):
        placement_of(program, copy)


def test_branches_are_refused(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        positive = mb.greater(x=mb.reduce_sum(x=x, axes=[0], keep_dims=False), y=np.float16(0))
        return mb.cond(pred=positive, _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.abs(x=x), name="fork")

    with pytest.raises(BundleError, match=r"^'fork' \(cond\) has nested programs, which cannot be counted"):
        made(tmp_path, build, (3,))


def test_an_empty_function(package: Path) -> None:
    function = read(package).function()
    empty = type(function)("main", function.opset, function.inputs, (), (), function.description)
    report = placement_of(Program({"main": empty}, "main", 8), package)
    assert (report.largest, report.written_bytes, report.operations) == (None, 0, {})
    assert PlacementReport.from_dict(report.to_dict()) == report
    assert "0 operations: none" in report.lines()
    assert any(line.endswith("largest tensor: none") for line in report.lines())


def test_for_a_manifest_and_back(tmp_path: Path, report: PlacementReport) -> None:
    other = made(tmp_path, lambda x: mb.topk(x=x, k=2, name="best")[0], (3, 5))
    for one in (report, other):
        data = json.loads(json.dumps(one.to_dict()))
        assert PlacementReport.from_dict(data) == one
        assert data["basis"] == BASIS
        assert data["never_on_ane_count"] == one.never_count
        assert data["transposes"] == one.transposes


@pytest.mark.parametrize(
    "change",
    [
        {"written_bytes": "many"},
        {"written_bytes": -1},
        {"multiply_adds": True},
        {"operations": {"conv": 1.5}},
        {"operations": ["conv"]},
        {"largest": {"elements": 3}},
        {"never_on_ane": [{"reason": "order"}]},
        {"never_on_ane": [None]},
        {"function": None},
    ],
)
def test_a_damaged_report(report: PlacementReport, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"^the placement report is damaged \(.*\): export again$"):
        PlacementReport.from_dict({**report.to_dict(), **change})


def test_a_report_without_a_figure(report: PlacementReport) -> None:
    data = report.to_dict()
    del data["package_bytes"]
    with pytest.raises(BundleError, match="package_bytes"):
        PlacementReport.from_dict(data)


def test_for_people() -> None:
    report = PlacementReport(
        function="main",
        operations={"conv": 3, "topk": 1},
        never_on_ane=(Finding("order", "topk", 1, "somebody saw it", ("best",)),),
        integer_tensors=1,
        bool_tensors=2,
        float32_tensors=3,
        over_rank_4=5,
        over_rank_5=4,
        written_bytes=1_250_000,
        largest=LargestTensor(600, "conv", "wide"),
        multiply_adds=2_500_000_000,
        weight_bytes=8_000_000,
        package_bytes=9_000_000,
    )
    assert report.lines() == [
        f"function 'main': {BASIS}",
        "4 operations: 3 conv, 1 topk",
        "1 of them known never to run on an M1's Neural Engine",
        "  1 topk (order): best; somebody saw it",
        "tensors: 1 of integers, 2 of truth values, 3 in float32, 5 of rank > 4, 4 of rank > 5",
        "0 transposes; 1.2 MB of activations written; largest tensor: 600 elements (wide, by conv)",
        "2.500 G multiply-adds; weights 8.0 MB, package 9.0 MB",
    ]
    assert str(report) == (
        "1 of 4 operations known never to run on an M1's Neural Engine, 1 integer tensors, 0 transposes, 1.2 MB"
        " written, 2.500 G multiply-adds (predicted)"
    )
    for word in ("predicted", "not measured", "third-party", "need not be placed"):
        assert word in BASIS


def test_torch_is_not_needed() -> None:
    code = "import sys, debiexport.placement.report; sys.exit('torch' in sys.modules or 'coremltools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
