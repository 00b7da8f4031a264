"""`debiexport onnx`"""

from __future__ import annotations

from typing import Annotated

import typer

from debiexport.cli.exporting import BraTopK, Classes, Force, ImageSize, Labels, Model, Regions, TopK
from debiexport.cli.options import (
    CheckpointOption,
    Debug,
    Json,
    Quiet,
    parse_batch,
    parse_destination,
    parse_number,
    parse_numbers,
)
from debiexport.cli.output import OUTPUT

_Batch = Annotated[str, typer.Option("--batch", metavar="N|dynamic", help="Images per run.")]
_Opset = Annotated[str, typer.Option("--opset", metavar="18..20", help="ONNX operator set.")]
_Input = Annotated[
    str, typer.Option("--input", metavar="normalized|uint8", help="Normalised floats NCHW, or RGB bytes NHWC.")
]
_Lowering = Annotated[str, typer.Option("--lowering", metavar="NAME|SLOT=NAME", help="How the network is rewritten.")]
_Destination = Annotated[
    str | None, typer.Option("--output", metavar="DIR", help="The bundle (default: artifacts/NAME-onnx-HxW-bN).")
]


def command(
    model: Model,
    checkpoint: CheckpointOption = None,
    image_size: ImageSize = None,
    batch: _Batch = "1",
    opset: _Opset = "20",
    regions: Regions = None,
    top_k: TopK = None,
    bra_top_k: BraTopK = None,
    num_classes: Classes = None,
    labels: Labels = None,
    input: _Input = "normalized",
    lowering: _Lowering = "cpu",
    output: _Destination = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export a checkpoint to ONNX and prove that it still is the network."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.export import export_onnx
    from debiexport.geometry import parse_image_size

    result = export_onnx(
        model,
        checkpoint,
        image_size=None if image_size is None else parse_image_size(image_size),
        batch=parse_batch(batch),
        opset=parse_number(opset, "--opset", "18 to 20"),
        regions=None if regions is None else parse_number(regions, "--regions"),
        top_k=parse_numbers(top_k, "--top-k"),
        bra_top_k=parse_numbers(bra_top_k, "--bra-top-k"),
        num_classes=None if num_classes is None else parse_number(num_classes, "--num-classes"),
        labels=labels,
        input=input,
        lowering=lowering,
        output=parse_destination(output, "--output"),
        force=force,
        progress=OUTPUT.progress,
    )
    from debiexport.cli.exporting import print_export

    print_export(result, [], quiet=quiet)
