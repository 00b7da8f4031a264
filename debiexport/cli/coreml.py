"""`debiexport coreml`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debiexport.cli.exporting import BraTopK, Classes, Force, ImageSize, Labels, Model, Regions, TopK
from debiexport.cli.options import (
    CheckpointOption,
    Debug,
    Json,
    Quiet,
    parse_destination,
    parse_number,
    parse_numbers,
)
from debiexport.cli.output import OUTPUT
from debiexport.errors import UsageError

_Lowering = Annotated[
    str,
    typer.Option("--lowering", metavar="ane|gather|plain", help="For the Neural Engine, with gathers, or as released."),
]
_Precision = Annotated[
    str,
    typer.Option("--precision", metavar="fp16|fp32|int8|palette6|palette4", help="Of activations, or of the weights."),
]
_Batch = Annotated[str, typer.Option("--batch", metavar="N,…", help="Images per run; several become functions.")]
_Target = Annotated[
    str, typer.Option("--target", metavar="iOS16|iOS17|iOS18", help="Oldest system that runs it (macOS 13, 14, 15).")
]
_Input = Annotated[
    str, typer.Option("--input", metavar="image|normalized", help="An image of the system, or normalised floats NCHW.")
]
_Evaluate = Annotated[
    Path | None,
    typer.Option("--eval", metavar="FOLDER", help="Class folders: accuracy may fall by half a point, no more."),
]
_Destination = Annotated[
    str | None, typer.Option("--output", metavar="DIR", help="The bundle (default: artifacts/NAME-coreml-HxW-bN-fp16).")
]


def command(
    model: Model,
    checkpoint: CheckpointOption = None,
    lowering: _Lowering = "ane",
    precision: _Precision = "fp16",
    image_size: ImageSize = None,
    batch: _Batch = "1",
    target: _Target = "iOS17",
    input: _Input = "normalized",
    regions: Regions = None,
    top_k: TopK = None,
    bra_top_k: BraTopK = None,
    num_classes: Classes = None,
    labels: Labels = None,
    evaluate_on: _Evaluate = None,
    output: _Destination = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export a checkpoint to Core ML and prove, without a Mac, that it still is the network."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.cli.exporting import print_export
    from debiexport.export import export_coreml
    from debiexport.geometry import parse_image_size
    from debiexport.placement.report import PlacementReport

    if batch == "dynamic":
        raise UsageError("--batch is dynamic: Core ML packages have fixed batches; give numbers, as 1,4")
    result = export_coreml(
        model,
        checkpoint,
        image_size=None if image_size is None else parse_image_size(image_size),
        batches=parse_numbers(batch, "--batch") or (),
        precision=precision,
        target=target,
        regions=None if regions is None else parse_number(regions, "--regions"),
        top_k=parse_numbers(top_k, "--top-k"),
        bra_top_k=parse_numbers(bra_top_k, "--bra-top-k"),
        num_classes=None if num_classes is None else parse_number(num_classes, "--num-classes"),
        labels=labels,
        input=input,
        lowering=lowering,
        evaluate_on=evaluate_on,
        output=parse_destination(output, "--output"),
        force=force,
        progress=OUTPUT.progress,
    )
    placement = PlacementReport.from_dict(result.manifest.placement or {})
    print_export(result, placement.lines(), quiet=quiet)
