from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_packages import ct, edit, mb, operations, quiet, read, save, types

from debiexport.errors import BundleError
from debiexport.evaluate.decompress import DECOMPRESSORS, affine_dequantize, lut_to_dense
from debiexport.evaluate.evaluator import Evaluator

_RNG = np.random.default_rng(2)
WEIGHT = _RNG.standard_normal((64, 32)).astype(np.float32)
FILTERS = _RNG.standard_normal((16, 64, 1, 1)).astype(np.float32)


def _bytes(dtype: type, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return _RNG.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def _small(name: str, *shape: int) -> np.ndarray:
    """Integers of less than a byte, of a type that coremltools calls `name`."""
    low, high = (-8, 8) if name == "int4" else (0, 2 ** int(name.removeprefix("uint")))
    dtype = types.nptype_from_builtin(types.string_to_builtin(name))
    return _RNG.integers(low, high, shape).astype(dtype)


def _floats(dtype: type, *shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(dtype)


def _sparse(mask: np.ndarray, dtype: type = np.float16) -> np.ndarray:
    return _floats(dtype, int(mask.sum()))


_MASK = _small("uint1", 6, 8)
_UNTIL_17: dict[str, Callable[[], Any]] = {
    "affine": lambda: mb.constexpr_affine_dequantize(
        quantized_data=_bytes(np.int8, 4, 3, 5),
        scale=_floats(np.float16, 3),
        zero_point=np.array([-128, 0, 127], np.int8),
        axis=1,
    ),
    "affine_scalar": lambda: mb.constexpr_affine_dequantize(
        quantized_data=_bytes(np.uint8, 4, 3), scale=np.float32(0.3), zero_point=np.uint8(200), axis=0
    ),
    **{
        f"lut_{bits}": lambda bits=bits: mb.constexpr_lut_to_dense(
            indices=_bytes(np.uint8, -(-35 * bits // 8)),
            lut=_floats(np.float16, 2**bits),
            shape=np.array([5, 7], np.uint32),
        )
        for bits in (1, 2, 4, 6, 8)
    },
    "sparse": lambda: mb.constexpr_sparse_to_dense(
        nonzero_data=_floats(np.float16, 5),
        mask=np.array([0b10010110, 0b1], np.uint8),
        shape=np.array([3, 3], np.uint32),
    ),
    "cast": lambda: mb.constexpr_cast(source_val=_floats(np.float16, 4, 3), output_dtype="fp32"),
}
_FROM_18: dict[str, Callable[[], Any]] = {
    "blocks": lambda: mb.constexpr_blockwise_shift_scale(
        data=_small("int4", 4, 6), scale=_floats(np.float16, 2, 3), offset=_small("int4", 2, 3)
    ),
    "blocks_plain": lambda: mb.constexpr_blockwise_shift_scale(
        data=_bytes(np.int8, 4, 6, 1), scale=_floats(np.float32, 4, 1, 1)
    ),
    "blocks_uint4": lambda: mb.constexpr_blockwise_shift_scale(
        data=_small("uint4", 3, 5), scale=_floats(np.float16, 3, 1), offset=_small("uint4", 3, 1)
    ),
    **{
        f"lut_uint{bits}": lambda bits=bits: mb.constexpr_lut_to_dense(
            indices=_small(f"uint{bits}", 6, 5), lut=_floats(np.float16, 1, 1, 2**bits, 1)
        )
        for bits in (1, 2, 3, 4, 6)
    },
    "lut_groups": lambda: mb.constexpr_lut_to_dense(indices=_small("uint2", 6, 4), lut=_floats(np.float16, 3, 2, 4, 1)),
    "lut_vectors": lambda: mb.constexpr_lut_to_dense(
        indices=_small("uint2", 6, 4, 2), lut=_floats(np.float16, 3, 1, 1, 4, 5), vector_axis=1
    ),
    "sparse_uint1": lambda: mb.constexpr_sparse_to_dense(nonzero_data=_sparse(_MASK), mask=_MASK),
    "sparse_lut": lambda: _sparse_chain(
        mb.constexpr_lut_to_sparse(
            indices_mask=_MASK,
            indices_nonzero_data=_small("uint2", int(_MASK.sum())),
            lut=_floats(np.float16, 1, 1, 4, 1),
        )
    ),
    "sparse_vectors": lambda: _sparse_chain(
        mb.constexpr_lut_to_sparse(
            indices_mask=_MASK,
            indices_nonzero_data=_small("uint2", int(_MASK.sum())),
            lut=_floats(np.float16, 1, 1, 4, 3),
            vector_axis=0,
        )
    ),
    "sparse_blocks": lambda: _sparse_chain(
        mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=_MASK,
            nonzero_data=_bytes(np.int8, int(_MASK.sum())),
            scale=_floats(np.float16, 6, 1),
            offset=_bytes(np.int8, 6, 1),
        )
    ),
    "lut_scaled": lambda: mb.constexpr_blockwise_shift_scale(
        data=mb.constexpr_lut_to_dense(indices=_small("uint4", 6, 5), lut=_bytes(np.int8, 1, 1, 16, 1)),
        scale=_floats(np.float16, 6, 1),
    ),
}


def _sparse_chain(parts: Any) -> Any:
    return mb.constexpr_sparse_to_dense(nonzero_data=parts[1], mask=parts[0])


@pytest.fixture(scope="module")
def constants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of every compressed constant, what we read and what coremltools makes of it."""
    folder = tmp_path_factory.mktemp("evaluate_decompress")
    older = _both_ways(_UNTIL_17, folder / "older.mlpackage", ct.target.iOS16)
    return older | _both_ways(_FROM_18, folder / "newer.mlpackage", ct.target.iOS18)


def _both_ways(cases: dict[str, Callable[[], Any]], path: Path, target: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}

    def build(x: Any) -> Any:
        made.update((name, case()) for name, case in cases.items())
        return mb.identity(x=x, name="out")

    function = read(save(path, build, target=target)).function()
    return {
        name: (function.constant(value.name), value.op.materialized_val_inference()) for name, value in made.items()
    }


@pytest.mark.parametrize("name", [*_UNTIL_17, *_FROM_18])
def test_as_coremltools_decompresses(name: str, constants: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    ours, theirs = constants[name]
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def test_products_are_rounded_once() -> None:
    """In float16 the difference of 255 and -0.1 would be rounded too."""
    (values,) = affine_dequantize(
        np.array([255], np.uint8), np.array(-0.1, np.float32), np.array(3.0, np.float16), np.array(0)
    )
    assert values.dtype == np.float16
    assert values[0] == np.float16(3 * 255.1)


def test_table_by_hand() -> None:
    """Two tables of two vectors of three numbers, laid out along the last axis."""
    lut = np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3)
    (dense,) = lut_to_dense(np.array([[0, 1], [1, 1]]), lut, vector_axis=np.array(-1))
    np.testing.assert_array_equal(dense, [[0, 1, 2, 3, 4, 5], [9, 10, 11, 9, 10, 11]])


def _network(x: Any) -> Any:
    hidden = mb.relu(x=mb.linear(x=x, weight=WEIGHT))
    return mb.conv(x=mb.expand_dims(x=hidden, axes=[2, 3]), weight=FILTERS, name="out")


def _compressors() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """How coremltools compresses a network: the system it needs, and the call."""
    cto = ct.optimize.coreml

    def with_config(function: Any, operation: Any, **options: Any) -> Callable[[Any], Any]:
        config = cto.OptimizationConfig(global_config=operation(weight_threshold=0, **options))
        return lambda model: function(model, config)

    palettize, quantize, prune = cto.palettize_weights, cto.linear_quantize_weights, cto.prune_weights
    palettes, linear = cto.OpPalettizerConfig, cto.OpLinearQuantizerConfig
    return {
        "int8": (ct.target.iOS16, with_config(quantize, linear, mode="linear_symmetric")),
        "uint8": (ct.target.iOS17, with_config(quantize, linear, mode="linear", dtype="uint8")),
        "palette6": (ct.target.iOS16, with_config(palettize, palettes, mode="kmeans", nbits=6)),
        "palette4": (ct.target.iOS17, with_config(palettize, palettes, mode="uniform", nbits=4)),
        "palette4_groups": (
            ct.target.iOS18,
            with_config(palettize, palettes, mode="kmeans", nbits=4, granularity="per_grouped_channel", group_size=8),
        ),
        "palette3": (ct.target.iOS18, with_config(palettize, palettes, mode="kmeans", nbits=3)),
        "int4_blocks": (
            ct.target.iOS18,
            with_config(quantize, linear, dtype="int4", granularity="per_block", block_size=16),
        ),
        "sparse": (ct.target.iOS17, with_config(prune, cto.OpMagnitudePrunerConfig, target_sparsity=0.5)),
        "sparse_uint1": (ct.target.iOS18, with_config(prune, cto.OpMagnitudePrunerConfig, target_sparsity=0.5)),
    }


@pytest.mark.parametrize(
    "name",
    ["int8", "uint8", "palette6", "palette4", "palette4_groups", "palette3", "int4_blocks", "sparse", "sparse_uint1"],
)
def test_compressed_network(name: str, tmp_path: Path) -> None:
    """Its weights are those that coremltools decompresses, and it still computes about the same."""
    with quiet():
        target, compress = _compressors()[name]
        path = save(tmp_path / "whole.mlpackage", _network, [(2, 32)], target=target, as_written=False)
        model = compress(ct.models.MLModel(str(path), skip_model_load=True))
        model.save(str(tmp_path / "compressed.mlpackage"))
        ct.optimize.coreml.decompress_weights(model).save(str(tmp_path / "decompressed.mlpackage"))
    whole, small, again = (read(tmp_path / f"{part}.mlpackage") for part in ("whole", "compressed", "decompressed"))
    assert any(operation.type.startswith("constexpr_") for operation in small.function().operations)
    for kind in ("linear", "conv"):
        ours, theirs = (
            next(
                function.value_of(operation.inputs["weight"][0])
                for operation in function.operations
                if operation.type == kind
            )
            for function in (small.function(), again.function())
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    images = {"x": _RNG.standard_normal((2, 32)).astype(np.float32)}
    exact, near = (Evaluator(program).run(images)["out"] for program in (whole, small))
    assert 0 < np.abs(exact - near).max() < np.abs(exact).max()


def _refused(path: Path, one_line: Callable[[BaseException], str], words: str) -> None:
    with pytest.raises(BundleError) as caught:
        read(path).function().constant("weight")
    assert words in one_line(caught.value)


@pytest.fixture
def palette(tmp_path: Path) -> Path:
    """A package with one table of weights."""

    def build(x: Any) -> Any:
        mb.constexpr_lut_to_dense(indices=_small("uint2", 6, 5), lut=_floats(np.float16, 1, 1, 4, 1), name="weight")
        return mb.identity(x=x, name="out")

    return save(tmp_path / "palette.mlpackage", build, target=ct.target.iOS18)


def _table(model: Any) -> Any:
    return next(operation for operation in operations(model) if operation.type == "constexpr_lut_to_dense")


def test_parameter_missing(palette: Path, one_line: Callable[[BaseException], str]) -> None:
    edit(palette, lambda model: _table(model).inputs.pop("lut"))
    _refused(palette, one_line, "does not fit its data")


def test_parameter_unknown(palette: Path, one_line: Callable[[BaseException], str]) -> None:
    edit(palette, lambda model: _table(model).inputs["other"].CopyFrom(_table(model).inputs["lut"]))
    _refused(palette, one_line, "does not fit its data")


def test_declared_shape_differs(palette: Path, one_line: Callable[[BaseException], str]) -> None:
    def change(model: Any) -> None:
        _table(model).outputs[0].type.tensorType.dimensions[0].constant.size = 5

    edit(palette, change)
    _refused(palette, one_line, "gives float16[6, 5], declared is fp16[5, 5]")


def test_made_of_a_variable(palette: Path, one_line: Callable[[BaseException], str]) -> None:
    def change(model: Any) -> None:
        del _table(model).inputs["lut"].arguments[:]
        _table(model).inputs["lut"].arguments.add(name="x")

    edit(palette, change)
    _refused(palette, one_line, "made of a variable")


def test_unknown_compression(palette: Path, one_line: Callable[[BaseException], str]) -> None:
    def change(model: Any) -> None:
        _table(model).type = "constexpr_zip"

    edit(palette, change)
    _refused(palette, one_line, "constexpr_zip")


def test_every_compression_has_a_case() -> None:
    with quiet():
        from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
    known = {name for name in SSAOpRegistry.core_ops if name.startswith("constexpr_")}
    assert known == set(DECOMPRESSORS)
