from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluate_packages import ct, edit, evaluate, mb, operations, quiet, read, save

from debiexport.errors import BundleError, UsageError
from debiexport.evaluate.evaluator import Evaluator
from debiexport.evaluate.steps import prepare

OneLine = Callable[[BaseException], str]
_RNG = np.random.default_rng(3)
WEIGHT = _RNG.standard_normal((4, 3)).astype(np.float32)
X = _RNG.standard_normal((2, 3)).astype(np.float32)


def _half(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16).astype(np.float32)


def _network(x: Any) -> Any:
    hidden = mb.linear(x=x, weight=WEIGHT.astype(np.float16), name="hidden")
    squared = mb.mul(x=hidden, y=hidden, name="squared")
    return mb.softmax(x=squared, axis=-1, name="out")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluate_evaluator") / "narrow.mlpackage"
    return save(path, _network, [(2, 3)], dtype="fp16")


@pytest.fixture
def narrow(pristine: Path, tmp_path: Path) -> Path:
    """A package of fp16 that a test may spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "narrow.mlpackage"))


def _expected(rounded: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    hidden = rounded(rounded(X) @ _half(WEIGHT).T)
    squared = rounded(hidden * hidden)
    return {"hidden": hidden, "squared": squared, "out": rounded(torch.softmax(torch.tensor(squared), -1).numpy())}


def test_every_result_is_rounded(pristine: Path) -> None:
    results = evaluate(pristine, ["hidden", "squared"], x=X)
    expected = _expected(_half)
    assert list(results) == ["out", "hidden", "squared"]
    for name, result in results.items():
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, _half(result))
        np.testing.assert_array_equal(result, expected[name])


def test_keep_float32_rounds_weights_alone(pristine: Path) -> None:
    results = Evaluator(read(pristine), keep_float32=True).run({"x": X}, ["hidden", "squared"])
    for name, expected in _expected(lambda array: array).items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-5)
        assert (results[name] != _half(results[name])).any()


def test_shapes_and_names(pristine: Path) -> None:
    evaluator = Evaluator(read(pristine))
    assert evaluator.inputs == {"x": (2, 3)}
    assert evaluator.outputs == ["out"]
    assert evaluator.batch == 2


def test_runs_are_alike_and_results_the_callers(pristine: Path) -> None:
    evaluator = Evaluator(read(pristine))
    taps = ["hidden_weight_0", "x"]
    first = evaluator.run({"x": X}, taps)
    kept = {name: array.copy() for name, array in first.items()}
    np.testing.assert_array_equal(kept["hidden_weight_0"], _half(WEIGHT))
    for array in first.values():
        array[:] = 7
    for name, array in evaluator.run({"x": X}, taps).items():
        np.testing.assert_array_equal(array, kept[name])


def test_values_go_after_their_last_use(pristine: Path) -> None:
    steps = prepare(read(pristine).function())
    weights = {"hidden_weight_0", "hidden_bias_0", "out_axis_0"}
    assert [sorted(set(step.spent) - weights) for step in steps] == [["x"], ["hidden"], ["squared"]]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "no input 'x': give 'x' [2, 3]"),
        ({"x": X, "y": X}, "has no input 'y': give 'x' [2, 3]"),
        ({"x": X[:1]}, "has shape [1, 3]: give [2, 3]"),
        ({"x": X.astype(np.str_)}, "give fp16[2, 3]"),
    ],
)
def test_inputs_are_checked(pristine: Path, inputs: dict[str, np.ndarray], words: str, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        Evaluator(read(pristine)).run(inputs)
    assert words in one_line(caught.value)


def test_unknown_tap(pristine: Path) -> None:
    with pytest.raises(BundleError, match="no value 'nowhere' to tap"):
        evaluate(pristine, ["nowhere"], x=X)


def test_unknown_function(pristine: Path) -> None:
    with pytest.raises(UsageError, match="no function 'other'"):
        Evaluator(read(pristine), "other")


def _operation(model: Any, kind: str) -> Any:
    return next(operation for operation in operations(model) if operation.type == kind)


def _change(path: Path, kind: str, change: Callable[[Any], object]) -> Path:
    edit(path, lambda model: change(_operation(model, kind)))
    return path


def test_unsupported_operations_are_listed_before_any_run(narrow: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "linear").type = "gru"
        _operation(model, "mul").type = "custom_layer"
        _operation(model, "softmax").type = "gru"

    edit(narrow, change)
    with pytest.raises(BundleError) as caught:
        Evaluator(read(narrow))
    assert "custom_layer (1), gru (2)" in one_line(caught.value)


def test_control_flow_is_unsupported(tmp_path: Path, one_line: OneLine) -> None:
    def build(x: Any) -> Any:
        positive = mb.greater(x=mb.reduce_sum(x=x), y=0.0)
        return mb.cond(pred=positive, _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.square(x=x), name="out")

    path = save(tmp_path / "branch.mlpackage", build, [(3,)])
    assert [operation.blocks for operation in read(path).function().operations if operation.type == "cond"] == [2]
    with pytest.raises(BundleError) as caught:
        Evaluator(read(path))
    assert "cond (1)" in one_line(caught.value)


def test_declared_shape_is_checked(narrow: Path, one_line: OneLine) -> None:
    def change(operation: Any) -> None:
        operation.outputs[0].type.tensorType.dimensions[1].constant.size = 5

    with pytest.raises(BundleError) as caught:
        evaluate(_change(narrow, "mul", change), x=X)
    text = one_line(caught.value)
    assert "'squared' (mul) gives float32[2, 4]" in text and "fp16[2, 5]" in text


@pytest.mark.parametrize(("number", "dtype"), [(23, "int32"), (1, "bool")])
def test_declared_kind_is_checked(narrow: Path, number: int, dtype: str) -> None:
    def change(operation: Any) -> None:
        operation.outputs[0].type.tensorType.dataType = number

    with pytest.raises(BundleError, match=f"'squared' is declared {dtype}"):
        evaluate(_change(narrow, "mul", change), x=X)


def test_types_not_computed_are_refused(narrow: Path) -> None:
    def change(operation: Any) -> None:
        operation.outputs[0].type.tensorType.dataType = 12

    with pytest.raises(BundleError, match="fp64"):
        Evaluator(read(_change(narrow, "mul", change)))


def test_number_of_results_is_checked(narrow: Path) -> None:
    def change(operation: Any) -> None:
        operation.outputs.add(name="more").CopyFrom(operation.outputs[0])
        operation.outputs[1].name = "more"

    with pytest.raises(BundleError, match="gives 1 results, declared are 2"):
        evaluate(_change(narrow, "mul", change), x=X)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda inputs: inputs["z"].CopyFrom(inputs["y"]), "parameters that do not fit"),
        (lambda inputs: inputs["two\nlines"].CopyFrom(inputs["y"]), "unexpected keyword argument 'two\\nlines'"),
        (lambda inputs: inputs.pop("y"), "missing a required argument: 'y'"),
        (lambda inputs: inputs["y"].arguments.add(name="x"), "has 2 values for 'y'"),
        (lambda inputs: inputs["y"].ClearField("arguments"), "has 0 values for 'y'"),
    ],
)
def test_parameters_are_checked_before_any_run(
    narrow: Path, change: Callable[[Any], object], words: str, one_line: OneLine
) -> None:
    path = _change(narrow, "mul", lambda operation: change(operation.inputs))
    with pytest.raises(BundleError) as caught:
        Evaluator(read(path))
    text = one_line(caught.value)
    assert "'squared' (mul) has" in text and words in text


def test_arguments_that_do_not_fit(narrow: Path, one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        evaluate(_change(narrow, "mul", lambda operation: _rename(operation, "y", "x")), x=X)
    assert "'squared' (mul) cannot be computed" in one_line(caught.value)


def _rename(operation: Any, parameter: str, name: str) -> None:
    operation.inputs[parameter].arguments[0].name = name


def test_unknown_opset(narrow: Path) -> None:
    def change(model: Any) -> None:
        function = model.mlProgram.functions["main"]
        function.block_specializations["CoreML4"].CopyFrom(function.block_specializations["CoreML7"])
        function.opset = "CoreML4"

    edit(narrow, change)
    with pytest.raises(BundleError, match="'CoreML4'; known are CoreML5"):
        Evaluator(read(narrow))


def test_damaged_weights(tmp_path: Path) -> None:
    path = save(tmp_path / "damaged.mlpackage", lambda x: mb.linear(x=x, weight=WEIGHT, name="out"), [(2, 3)])
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(BundleError, match="past the end"):
        Evaluator(read(path))


DEFAULTS: list[tuple[str, Callable[[np.ndarray], Any], Callable[[torch.Tensor], torch.Tensor]]] = [
    ("softmax", lambda x: mb.softmax(x=x, axis=0), lambda x: torch.softmax(x, -1)),
    ("gelu", lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"), F.gelu),
    ("layer_norm", lambda x: mb.layer_norm(x=x, axes=[1], epsilon=0.5), lambda x: F.layer_norm(x, x.shape)),
    ("rsqrt", lambda x: mb.rsqrt(x=mb.abs(x=x), epsilon=0.5), lambda x: torch.rsqrt(x.abs() + 1e-12)),
    ("log", lambda x: mb.log(x=mb.abs(x=x), epsilon=0.5), lambda x: x.abs().log()),
    ("inverse", lambda x: mb.inverse(x=x, epsilon=0.5), lambda x: 1 / (x + 1e-4)),
    ("l2_norm", lambda x: mb.l2_norm(x=x, epsilon=0.5), lambda x: x / (x.square().sum((1, 2, 3), True) + 1e-6).sqrt()),
    ("cumsum", lambda x: mb.cumsum(x=x, axis=1, reverse=True), lambda x: x.cumsum(0)),
    ("reverse", lambda x: mb.reverse(x=x, axes=[1]), lambda x: x.flip(0, 1, 2, 3)),
    ("band_part", lambda x: mb.band_part(x=x, lower=0, upper=0), lambda x: x),
    ("pad", lambda x: mb.pad(x=x, pad=[1, 1], mode="replicate"), lambda x: F.pad(x, (1, 1))),
    ("argsort", lambda x: mb.argsort(x=x, axis=1, ascending=True), lambda x: x.argsort(descending=True)),
    ("topk", lambda x: mb.topk(x=x, k=1, axis=3, ascending=True), lambda x: x.topk(1).values),
    ("gather", lambda x: mb.gather(x=x, indices=[1, 0], axis=1), lambda x: x.flip(0)),
    ("upsample_nearest_neighbor", lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=1), lambda x: x),
    ("squeeze", lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0]), axes=[0]), lambda x: x),
    (
        "conv",
        lambda x: mb.conv(x=x, weight=_ONES, pad_type="custom", pad=[0, 0, 0, 0]),
        lambda x: F.conv2d(x, torch.tensor(_ONES)),
    ),
    (
        "batch_norm",
        lambda x: mb.batch_norm(x=x, mean=[0.0, 1.0], variance=[1.0, 1e-5], gamma=[2.0, 2.0], beta=[1.0, 1.0]),
        lambda x: F.batch_norm(x, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1e-5])),
    ),
    (
        "instance_norm",
        lambda x: mb.instance_norm(x=x, gamma=[2.0, 2.0], beta=[1.0, 1.0], epsilon=0.5),
        lambda x: F.instance_norm(x),
    ),
    (
        "avg_pool",
        lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 2], pad_type="valid"),
        lambda x: F.avg_pool2d(x, 2, 1),
    ),
]
_ONES = np.ones((1, 2, 2, 2), np.float32)
_IMAGE = _RNG.standard_normal((2, 2, 3, 4)).astype(np.float32)
_REQUIRED = {"x", "weight", "mean", "variance", "kernel_sizes", "pad_type", "indices"}


def test_parameters_may_be_left_out(tmp_path: Path) -> None:
    """Then they have the format's own defaults, whatever the operation was built with."""
    made = {}

    def build(x: Any) -> Any:
        for name, call, _ in DEFAULTS:
            value = call(x)
            made[name] = value[0] if isinstance(value, list | tuple) else value
        return mb.identity(x=x, name="out")

    path = save(tmp_path / "defaults.mlpackage", build, [_IMAGE.shape])

    def leave_out(model: Any) -> None:
        kept = _REQUIRED | {"pad"}
        for name, _, _ in DEFAULTS:
            operation = _operation(model, name)
            for key in set(operation.inputs) - (kept if name == "pad" else _REQUIRED):
                del operation.inputs[key]
            if name == "conv":
                del operation.inputs["pad_type"]

    edit(path, leave_out)
    results = evaluate(path, [value.name for value in made.values()], x=_IMAGE)
    for name, _, expected in DEFAULTS:
        np.testing.assert_allclose(
            results[made[name].name], expected(torch.tensor(_IMAGE)), rtol=2e-5, atol=1e-6, err_msg=name
        )


def test_default_epsilon_is_of_the_declared_type(tmp_path: Path) -> None:
    """1e-12 is 0 in fp16: nothing keeps the root of 0 from being inverted."""
    path = save(tmp_path / "zero.mlpackage", lambda x: mb.rsqrt(x=x, name="out"), [(1,)], dtype="fp16")
    _change(path, "rsqrt", lambda operation: operation.inputs.pop("epsilon"))
    assert evaluate(path, x=np.zeros(1))["out"] == np.inf


@pytest.mark.parametrize(("target", "works"), [("iOS16", True), ("iOS17", False)])
def test_negative_indices(tmp_path: Path, target: str, works: bool, one_line: OneLine) -> None:
    """Until iOS 16 they count from the end; then they are outside, where nothing is defined."""

    def build(x: Any) -> Any:
        return mb.gather(x=x, indices=np.array([-1, 0], np.int32), axis=1, name="out")

    path = save(tmp_path / "gather.mlpackage", build, [(2, 3)], target=getattr(ct.target, target))
    if works:
        np.testing.assert_array_equal(evaluate(path, x=X)["out"], X[:, [-1, 0]])
        return
    with pytest.raises(BundleError) as caught:
        evaluate(path, x=X)
    assert "indices from -1 to 0 of 3 elements" in one_line(caught.value)


def test_results_are_not_larger_than_declared(tmp_path: Path, one_line: OneLine) -> None:
    """Refused before memory is taken: a thousand billion elements would not fit."""
    path = save(tmp_path / "tile.mlpackage", lambda x: mb.tile(x=x, reps=[10], name="out"), [(3,)])

    def change(model: Any) -> None:
        constant = next(each for each in operations(model) if each.outputs[0].name == "out_reps_0")
        constant.attributes["val"].immediateValue.tensor.ints.values[0] = 2**31 - 1

    edit(path, change)
    with pytest.raises(BundleError) as caught:
        evaluate(path, x=np.ones(3))
    assert "declared is fp32[30]" in one_line(caught.value)


PIXELS = _RNG.integers(0, 256, (1, 4, 5, 3)).astype(np.uint8)


def _image_package(path: Path, layout: str, **options: Any) -> Path:
    with quiet():
        image = ct.ImageType("x", shape=(1, 3, 4, 5), color_layout=getattr(ct.colorlayout, layout), **options)
    return save(path, lambda x: mb.relu(x=x, name="out"), [(1, 3, 4, 5)], as_written=False, inputs=[image])


@pytest.mark.parametrize(("layout", "order"), [("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])])
def test_images(tmp_path: Path, layout: str, order: list[int]) -> None:
    """Bytes come as the program's tensor in its order of channels; scale and bias are operations inside."""
    path = _image_package(tmp_path / "image.mlpackage", layout, scale=1 / 127.5, bias=[-1.0, -0.5, 0.5])
    evaluator = Evaluator(read(path))
    assert evaluator.inputs == {"x": (1, 4, 5, 3)}
    results = evaluator.run({"x": PIXELS}, ["x"])
    planes = PIXELS.transpose(0, 3, 1, 2)[:, order].astype(np.float32)
    np.testing.assert_array_equal(results["x"], planes)
    shifted = planes / np.float32(127.5) + np.array([-1, -0.5, 0.5], np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(results["out"], shifted.clip(0), atol=1e-6)


@pytest.mark.parametrize("image", [PIXELS.astype(np.float32), PIXELS.transpose(0, 3, 1, 2), PIXELS[:, :3]])
def test_image_inputs_are_checked(tmp_path: Path, image: np.ndarray, one_line: OneLine) -> None:
    evaluator = Evaluator(read(_image_package(tmp_path / "image.mlpackage", "RGB")))
    with pytest.raises(UsageError) as caught:
        evaluator.run({"x": image})
    assert "give uint8" in one_line(caught.value) or "give [1, 4, 5, 3]" in one_line(caught.value)


def test_images_of_another_kind_are_refused(tmp_path: Path, one_line: OneLine) -> None:
    path = _image_package(tmp_path / "image.mlpackage", "RGB")

    def taller(model: Any) -> None:
        model.description.input[0].type.imageType.height = 6

    def grey(model: Any) -> None:
        model.description.input[0].type.imageType.colorSpace = 10

    for change, words in ((taller, "described as 6 x 5 pixels"), (grey, "GRAYSCALE")):
        edit(path, change)
        with pytest.raises(BundleError) as caught:
            Evaluator(read(path))
        assert words in one_line(caught.value)


@pytest.mark.parametrize("labels", [["cat", "dog", "eel", "fox"], [10, 20, 30, 40]])
def test_classifier(tmp_path: Path, labels: list[Any]) -> None:
    with quiet():
        config = ct.ClassifierConfig(labels, predicted_feature_name="label")

    def build(x: Any) -> Any:
        return mb.softmax(x=mb.linear(x=x, weight=WEIGHT), axis=-1, name="prob")

    path = save(tmp_path / "named.mlpackage", build, [(1, 3)], as_written=False, classifier_config=config)
    program = read(path)
    about = program.function().description
    results = Evaluator(program).run({"x": X[:1]}, ["prob"])
    expected = torch.softmax(torch.tensor(X[:1] @ WEIGHT.T), -1)[0].numpy()
    assert about.label == "label" and about.probabilities is not None
    assert results["label"] == labels[expected.argmax()]
    assert list(results[about.probabilities]) == labels
    np.testing.assert_allclose(list(results[about.probabilities].values()), expected, rtol=1e-5)


def test_functions_run_by_name(tmp_path: Path) -> None:
    """Two functions in one package, with weights in common."""

    def build(x: Any) -> Any:
        return mb.linear(x=x, weight=WEIGHT, name="out")

    with quiet():
        both = ct.utils.MultiFunctionDescriptor()
        for n in (1, 2):
            part = save(tmp_path / f"{n}.mlpackage", build, [(n, 3)], target=ct.target.iOS18, as_written=False)
            both.add_function(str(part), src_function_name="main", target_function_name=f"batch{n}")
        both.default_function_name = "batch1"
        ct.utils.save_multifunction(both, str(tmp_path / "both.mlpackage"))
    program = read(tmp_path / "both.mlpackage")
    assert Evaluator(program).batch == 1
    for n in (1, 2):
        results = Evaluator(program, f"batch{n}").run({"x": X[:n]})
        np.testing.assert_allclose(results["out"], X[:n] @ WEIGHT.T, rtol=1e-5)


def test_integers_and_constants_as_outputs(tmp_path: Path) -> None:
    path = tmp_path / "ints.mlpackage"

    def build(x: Any) -> Any:
        truth = mb.greater(x=x, y=0.0, name="truth")
        mb.cast(x=truth, dtype="fp16", name="narrow")
        return mb.cast(x=truth, dtype="int32", name="out")

    save(path, build, [(2, 3)])
    results = evaluate(path, ["truth", "narrow"], x=X)
    assert {name: array.dtype.name for name, array in results.items()} == {
        "out": "int32",
        "truth": "bool",
        "narrow": "float32",
    }
    np.testing.assert_array_equal(results["out"], X > 0)


def test_traced_network_in_both_precisions(tmp_path: Path) -> None:
    """A torch network through coremltools' own front end and passes, as users convert it."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.BatchNorm2d(8),
        torch.nn.GELU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.LayerNorm(128),
        torch.nn.Linear(128, 10),
    ).eval()
    images = torch.rand(1, 3, 16, 16)
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(network, images)
        for name in ("FLOAT32", "FLOAT16"):
            ct.convert(
                traced,
                inputs=[ct.TensorType("images", shape=images.shape)],
                outputs=[ct.TensorType("logits")],
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=getattr(ct.precision, name),
                skip_model_load=True,
            ).save(str(tmp_path / f"{name}.mlpackage"))
    expected = network(images).detach().numpy()
    wide = evaluate(tmp_path / "FLOAT32.mlpackage", images=images.numpy())["logits"]
    narrow = evaluate(tmp_path / "FLOAT16.mlpackage", images=images.numpy())["logits"]
    np.testing.assert_allclose(wide, expected, atol=2e-6)
    np.testing.assert_allclose(narrow, expected, atol=5e-3)
    assert not np.array_equal(narrow, wide)
