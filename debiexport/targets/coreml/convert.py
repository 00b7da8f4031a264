"""A traced network becomes an ML Program in memory, its named tensors still outputs."""

from __future__ import annotations

from typing import Any

import torch

from debiexport.errors import DebiexportError
from debiexport.signature import IMAGES
from debiexport.targets.coreml.choices import Precision
from debiexport.targets.coreml.exact import exact_passes
from debiexport.targets.coreml.identifiers import identifier
from debiexport.targets.coreml.quiet import quiet_coremltools
from debiexport.targets.coreml.traced import Traced


def convert(
    network: Traced,
    shape: tuple[int, int, int, int],
    precision: Precision,
    target: str,
    *,
    image: bool = False,
) -> Any:
    """Trace a network and convert it.

    Args:
        network: float32.
        shape: (N, 3, H, W).
        precision: its `compute` decides the type of the activations; weights are compressed elsewhere.
        target: "iOS16" to "iOS18".
        image: the input is an image, RGB in 0..255.

    Returns:
        coremltools' MLModel, not loaded.

    Raises:
        DebiexportError: coremltools refuses the network.
    """
    with quiet_coremltools():
        import coremltools as ct

        example = torch.zeros(shape)
        with torch.no_grad():
            names = list(network.named(example))
            traced = torch.jit.trace(network.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        described = (
            ct.ImageType(name=IMAGES, shape=shape, color_layout=ct.colorlayout.RGB, scale=1.0, bias=[0.0, 0.0, 0.0])
            if image
            else ct.TensorType(name=IMAGES, shape=shape)
        )
        try:
            with exact_passes():
                return ct.convert(
                    traced,
                    source="pytorch",
                    convert_to="mlprogram",
                    inputs=[described],
                    outputs=[ct.TensorType(name=identifier(name)) for name in names],
                    minimum_deployment_target=getattr(ct.target, target),
                    compute_precision=getattr(ct.precision, {"fp16": "FLOAT16", "fp32": "FLOAT32"}[precision.compute]),
                    skip_model_load=True,
                )
        except Exception as error:  # coremltools raises a dozen types without a common root
            reason = " ".join(str(error).split())[:300]
            raise DebiexportError(
                f"coremltools cannot convert the network: {type(error).__name__}: {reason}; try --lowering plain or"
                " gather, and report this with `debiexport doctor`"
            ) from error
