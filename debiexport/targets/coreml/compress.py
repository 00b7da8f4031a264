"""Weights of a converted model in fewer bits."""

from __future__ import annotations

from typing import Any

from debiexport.targets.coreml.choices import Precision
from debiexport.targets.coreml.exact import exact_passes
from debiexport.targets.coreml.quiet import quiet_coremltools

PRODUCTS = ("conv", "linear", "matmul")


def compress(model: Any, precision: Precision) -> Any:
    """The model with its weights in the precision's bits; the model itself where there is no compression.

    Compressed is what feeds a product. Constants that are added are not: among them are the positions of pixels, of
    which 1/127 of the range is half a pixel.

    int8 is linear and symmetric, one scale an output channel; palettes are 2^bits values for a whole tensor, found by
    k-means in one dimension, which has one best answer. Palettes per group of channels come out wrong in
    coremltools 9.0 and are not used.

    Args:
        model: coremltools' MLModel, float16.
        precision: see `choices`.
    """
    if precision.compression is None:
        return model
    with quiet_coremltools():
        import coremltools.optimize.coreml as cto

        with exact_passes():
            if precision.compression == "int8":
                chosen: Any = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
                return cto.linear_quantize_weights(model, _of_products(cto, chosen))
            chosen = cto.OpPalettizerConfig(mode="kmeans", nbits=precision.bits)
            return cto.palettize_weights(model, _of_products(cto, chosen))


def _of_products(cto: Any, chosen: Any) -> Any:
    return cto.OptimizationConfig(global_config=None, op_type_configs=dict.fromkeys(PRODUCTS, chosen))
