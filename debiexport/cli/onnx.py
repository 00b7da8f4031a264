"""`debiexport onnx`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debiexport.cli.options import CheckpointOption, Debug, Json, Quiet, parse_batch, parse_number, parse_numbers
from debiexport.cli.output import OUTPUT

_Model = Annotated[str, typer.Option("--model", metavar="NAME|CARD", help="A model's name, or the path of a card.")]
_ImageSize = Annotated[str | None, typer.Option("--image-size", metavar="N|HxW", help="Pixels (default: the card's).")]
_Batch = Annotated[str, typer.Option("--batch", metavar="N|dynamic", help="Images per run.")]
_Opset = Annotated[str, typer.Option("--opset", metavar="18..20", help="ONNX operator set.")]
_Regions = Annotated[str | None, typer.Option("--regions", metavar="S", help="Regions per side (default: the card's).")]
_TopK = Annotated[
    str | None, typer.Option("--top-k", metavar="a,b,c,d", help="Top-k of DBRA, a value per stage that has it.")
]
_BraTopK = Annotated[
    str | None, typer.Option("--bra-top-k", metavar="a,b,c", help="Top-k of BRA, a value per stage that has it.")
]
_Classes = Annotated[
    str | None, typer.Option("--num-classes", metavar="N", help="Classes (default: the checkpoint's).")
]
_Labels = Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="Class labels, one a line.")]
_Input = Annotated[
    str, typer.Option("--input", metavar="normalized|uint8", help="Normalised floats NCHW, or RGB bytes NHWC.")
]
_Lowering = Annotated[str, typer.Option("--lowering", metavar="NAME|SLOT=NAME", help="How the network is rewritten.")]
_Destination = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="The bundle (default: artifacts/NAME-onnx-HxW-bN).")
]
_Force = Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")]


def command(
    model: _Model,
    checkpoint: CheckpointOption = None,
    image_size: _ImageSize = None,
    batch: _Batch = "1",
    opset: _Opset = "20",
    regions: _Regions = None,
    top_k: _TopK = None,
    bra_top_k: _BraTopK = None,
    num_classes: _Classes = None,
    labels: _Labels = None,
    input: _Input = "normalized",
    lowering: _Lowering = "cpu",
    output: _Destination = None,
    force: _Force = False,
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
        output=output,
        force=force,
        progress=OUTPUT.progress,
    )
    from debiexport.cli.report import parity_lines

    if quiet:  # otherwise they have been said when they mattered
        for note in result.notes:
            OUTPUT.note(note)
    names = ", ".join([a.path for a in result.manifest.artifacts] + ["manifest.json"])
    OUTPUT.result("\n".join([*parity_lines(result.parity), f"{result.path}: {names}"]), result.to_dict())
