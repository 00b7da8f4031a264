from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_packages import ct, edit, mb, operations, quiet, read, save

import debiexport.evaluate
from debiexport.errors import BundleError, UsageError
from debiexport.evaluate.dtypes import DTYPES, FORMAT_NAMES
from debiexport.evaluate.program import Argument, Program, TensorType, Value

OneLine = Callable[[BaseException], str]
SOURCES = sorted(Path(debiexport.evaluate.__file__).parent.rglob("*.py"))
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
SCALARS: dict[str, Any] = {
    "fp16": np.float16(0.1),
    "fp32": np.float32(0.1),
    "bool": np.bool_(True),
    "int8": np.int8(-5),
    "uint8": np.uint8(250),
    "int16": np.int16(-500),
    "uint16": np.uint16(65000),
    "int32": np.int32(-(2**31)),
    "string": "text",
}
VECTORS = {
    "fp16": np.array([0.1, -6e-8, np.inf], np.float16),
    "int8": np.array([[-128, 127]], np.int8),
    "bool": np.array([True, False]),
    "uint16": np.array([0, 65535], np.uint16),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(x: Any) -> Any:
        for dtype, value in SCALARS.items():
            mb.const(val=value, name=f"scalar_{dtype}")
        for dtype, value in VECTORS.items():
            mb.const(val=value, name=f"vector_{dtype}")
        low, high = mb.split(x=mb.linear(x=x, weight=WEIGHT, name="product"), num_splits=2, axis=1, name="parts")
        return mb.concat(values=(high, low, x), axis=1, name="out")

    return save(tmp_path_factory.mktemp("evaluate_program") / "small.mlpackage", build, [(2, 3)])


@pytest.fixture
def saved(pristine: Path, tmp_path: Path) -> Path:
    """A package that a test may spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "small.mlpackage"))


@pytest.fixture(scope="module")
def program(pristine: Path) -> Program:
    return read(pristine)


def test_functions_and_versions(program: Program) -> None:
    assert list(program.functions) == [program.default_function] == ["main"]
    assert program.spec_version == 8
    function = program.function()
    assert function is program.function("main")
    assert function.opset == "CoreML7"
    assert function.inputs == (Value("x", TensorType("fp32", (2, 3))),)
    assert function.outputs == ("out",)
    with pytest.raises(UsageError, match="no function 'other': give one of 'main'"):
        program.function("other")


def test_operations(program: Program) -> None:
    function = program.function()
    kinds = [operation.type for operation in function.operations if not operation.is_constant]
    assert kinds == ["linear", "split", "concat"]
    linear, split, concat = (function.producers[name] for name in ("product", "parts_0", "out"))
    assert linear.name == "product"
    assert list(linear.inputs) == sorted(linear.inputs)
    (x,), (weight,) = linear.inputs["x"], linear.inputs["weight"]
    assert (function.type_of(x), function.is_constant(x)) == (TensorType("fp32", (2, 3)), False)
    assert (function.type_of(weight), function.is_constant(weight)) == (TensorType("fp32", (4, 3)), True)
    np.testing.assert_array_equal(function.value_of(weight), WEIGHT)
    assert [str(value.type) for value in split.outputs] == ["fp32[2, 2]", "fp32[2, 2]"]
    assert [argument.name for argument in concat.inputs["values"]] == ["parts_1", "parts_0", "x"]
    assert concat.outputs == (Value("out", TensorType("fp32", (2, 7))),)
    assert function.types["out"] == TensorType("fp32", (2, 7))


def test_tensor_types() -> None:
    assert (TensorType("fp16", (2, 3)).size, TensorType("fp16", (2, 3)).bytes) == (6, 12)
    assert (TensorType("int4", (3,)).bytes, TensorType("fp32", ()).size) == (2, 1)


@pytest.mark.parametrize("dtype", SCALARS)
def test_scalar_constants(program: Program, dtype: str) -> None:
    value = program.function().constant(f"scalar_{dtype}")
    assert value.shape == ()
    assert value == SCALARS[dtype]
    assert program.function().types[f"scalar_{dtype}"] == TensorType(dtype, ())


@pytest.mark.parametrize("name", VECTORS)
def test_tensor_constants(program: Program, name: str) -> None:
    value = program.function().constant(f"vector_{name}")
    assert value.dtype == VECTORS[name].dtype
    np.testing.assert_array_equal(value, VECTORS[name])


@pytest.mark.parametrize("name", ["x", "out", "absent"])
def test_not_a_constant(program: Program, name: str) -> None:
    with pytest.raises(UsageError, match="not a constant"):
        program.function().constant(name)
    if name != "absent":
        assert not program.function().is_constant(Argument(name))


def test_every_type_of_the_format_has_a_name() -> None:
    with quiet():
        from coremltools.proto import MIL_pb2
    unread = {"UNUSED_TYPE", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2"}
    assert set(MIL_pb2.DataType.keys()) == set(FORMAT_NAMES) | unread
    assert set(FORMAT_NAMES.values()) == set(DTYPES)


def test_several_functions(tmp_path: Path) -> None:
    """Two batches of one network share their weights."""
    parts = [
        save(tmp_path / f"batch{n}.mlpackage", _network, [(n, 3)], target=ct.target.iOS18, as_written=False)
        for n in (1, 2)
    ]
    with quiet():
        description = ct.utils.MultiFunctionDescriptor()
        for n, part in enumerate(parts, 1):
            description.add_function(str(part), src_function_name="main", target_function_name=f"batch{n}")
        description.default_function_name = "batch2"
        ct.utils.save_multifunction(description, str(tmp_path / "both.mlpackage"))
    program = read(tmp_path / "both.mlpackage")
    assert program.default_function == "batch2"
    assert {name: function.inputs[0].type for name, function in program.functions.items()} == {
        "batch1": TensorType("fp32", (1, 3)),
        "batch2": TensorType("fp32", (2, 3)),
    }
    assert program.function().description.inputs[0].name == "x"
    sizes = {path.name: (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size for path in (*parts,)}
    assert (tmp_path / "both.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size in sizes.values()


def _network(x: Any) -> Any:
    return mb.linear(x=x, weight=WEIGHT, name="out")


def _refused(path: Path, change: Callable[[Any], None], words: str, one_line: OneLine) -> None:
    edit(path, change)
    with pytest.raises(BundleError) as caught:
        read(path)
    assert words in one_line(caught.value)


def _operation(model: Any, kind: str) -> Any:
    return next(operation for operation in operations(model) if operation.type == kind)


def test_dynamic_shape(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "linear").outputs[0].type.tensorType.dimensions[0].unknown.variadic = False

    _refused(saved, change, "not fixed: export the model with fixed shapes", one_line)


def test_unknown_rank(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "linear").outputs[0].type.tensorType.rank = -1

    _refused(saved, change, "fixed shapes", one_line)


def test_flexible_input(tmp_path: Path, one_line: OneLine) -> None:
    shapes = ct.EnumeratedShapes(shapes=[(1, 3), (2, 3)], default=(1, 3))
    path = tmp_path / "flexible.mlpackage"
    inputs = [ct.TensorType("x", shape=shapes)]
    with quiet():
        dynamic = mb.TensorSpec((ct.converters.mil.mil.get_new_symbol(), 3))
        built = mb.program(input_specs=[dynamic], opset_version=ct.target.iOS17)(_network)
        ct.convert(built, inputs=inputs, minimum_deployment_target=ct.target.iOS17, skip_model_load=True).save(path)
    with pytest.raises(BundleError) as caught:
        read(path)
    assert "export the model with fixed shapes" in one_line(caught.value)


def test_absurd_shape(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        for dimension in _operation(model, "linear").outputs[0].type.tensorType.dimensions:
            dimension.constant.size = 2**40

    _refused(saved, change, "elements", one_line)


def test_constant_of_another_size(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "const").attributes["val"].type.tensorType.dimensions.add().constant.size = 2
        _operation(model, "const").attributes["val"].type.tensorType.rank = 1

    _refused(saved, change, "the model is damaged", one_line)


def test_constant_that_is_no_number(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        value = next(each for each in operations(model) if each.outputs[0].name == "scalar_int32").attributes["val"]
        value.immediateValue.tensor.floats.values.append(float("nan"))

    _refused(saved, change, "numbers that int32 cannot hold", one_line)


def test_operation_of_no_sensible_type(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "linear").type = "two\nlines"

    _refused(saved, change, "the type 'two\\nlines'", one_line)


def test_unknown_element_type(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "linear").outputs[0].type.tensorType.dataType = 13

    _refused(saved, change, "elements BFLOAT16", one_line)


def test_value_before_it_is_made(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "linear").inputs["x"].arguments[0].name = "out"

    _refused(saved, change, "takes 'out' before it is made", one_line)


def test_value_made_twice(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "split").outputs[0].name = "product"

    _refused(saved, change, "'product' is made twice", one_line)


def test_output_never_made(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "concat").outputs[0].name = "elsewhere"

    _refused(saved, change, "makes no 'out'", one_line)


def test_constant_without_value(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        _operation(model, "const").attributes.pop("val")

    _refused(saved, change, "has no value of its type", one_line)


def test_no_code_for_the_opset(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        model.mlProgram.functions["main"].opset = "CoreML6"

    _refused(saved, change, "no code for its 'CoreML6'", one_line)


def test_other_specialisations_are_not_read(saved: Path) -> None:
    def change(model: Any) -> None:
        block = model.mlProgram.functions["main"].block_specializations["CoreML4"]
        block.operations.add(type="nonsense").outputs.add(name="y").type.tensorType.rank = -1

    edit(saved, change)
    assert "y" not in read(saved).function().types


def test_undescribed_and_missing_function(saved: Path, one_line: OneLine) -> None:
    def change(model: Any) -> None:
        model.description.functions.add(name="other")

    _refused(saved, change, "does not describe its function 'main'", one_line)

    def rename(model: Any) -> None:
        model.description.functions[0].name = "main"
        model.description.defaultFunctionName = "other"

    _refused(saved, rename, "no function 'other'", one_line)


def test_states_are_refused(saved: Path, one_line: OneLine) -> None:
    def declare(model: Any) -> None:
        _operation(model, "linear").outputs[0].type.stateType.SetInParent()

    _refused(saved, declare, "'product' is a state", one_line)
    _refused(saved, lambda model: model.description.state.add(name="counter"), "'counter' is a state", one_line)


def _imports(source: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_converter_is_imported() -> None:
    """What judges the converter's work shares none of its code."""
    allowed = {f"coremltools.proto.{name}" for name in ("Model_pb2", "MIL_pb2", "FeatureTypes_pb2")}
    found = {name for source in SOURCES for name in _imports(source) if name.startswith("coremltools")}
    assert found == allowed
    ours = {name for source in SOURCES for name in _imports(source) if name.startswith("debiexport")}
    others = {name for name in ours if not name.startswith("debiexport.evaluate")}
    assert {name.rpartition(".")[0] for name in others} == {
        "debiexport.errors",
        "debiexport.extras",
        "debiexport.runtimes.base",
    }


def test_programs_are_read_without_torch() -> None:
    """Placement reports need the program alone."""
    code = "import sys, debiexport.evaluate.program; sys.exit('torch' in sys.modules or 'coremltools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
