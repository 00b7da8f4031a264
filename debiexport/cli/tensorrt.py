"""`debiexport tensorrt`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from debiexport.targets.tensorrt.profile import Profile

_Precision = Annotated[
    str, typer.Option("--precision", metavar="fp16|fp32", help="Of products and convolutions; routing stays float32.")
]
_Batch = Annotated[
    str,
    typer.Option("--batch", metavar="N|MIN:OPT:MAX,…", help="Images per run, or a range; several are several engines."),
]
_Plugins = Annotated[
    bool, typer.Option("--plugins/--no-plugins", help="Routed attention and agent attention by the project's kernels.")
]
_Engine = Annotated[
    str | None,
    typer.Option("--engine", metavar="tensorrt|rtx|none", help="What is built (default: what this machine can build)."),
]
_Gpu = Annotated[
    str | None,
    typer.Option("--gpu", metavar="sm80,sm89,…", help="GPUs of an engine of TensorRT for RTX (default: sm89)."),
]
_TimingCache = Annotated[
    str | None, typer.Option("--timing-cache", metavar="FILE", help="Read and renewed by --engine tensorrt.")
]
_Destination = Annotated[
    str | None,
    typer.Option("--output", metavar="DIR", help="The bundle (default: artifacts/NAME-tensorrt-HxW-bN-fp16)."),
]


def command(
    model: Model,
    checkpoint: CheckpointOption = None,
    precision: _Precision = "fp16",
    image_size: ImageSize = None,
    batch: _Batch = "1",
    plugins: _Plugins = False,
    engine: _Engine = None,
    gpu: _Gpu = None,
    timing_cache: _TimingCache = None,
    regions: Regions = None,
    top_k: TopK = None,
    bra_top_k: BraTopK = None,
    num_classes: Classes = None,
    labels: Labels = None,
    output: _Destination = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export a checkpoint to typed ONNX for TensorRT, prove it as typed, and build engines."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.cli.exporting import print_export
    from debiexport.export import export_tensorrt
    from debiexport.geometry import parse_image_size
    from debiexport.targets.tensorrt.capabilities import parse_capabilities

    result = export_tensorrt(
        model,
        checkpoint,
        image_size=None if image_size is None else parse_image_size(image_size),
        batches=_profiles(batch),
        precision=precision,
        plugins=plugins,
        engine=engine,
        capabilities=None if gpu is None else parse_capabilities(gpu),
        timing_cache=parse_destination(timing_cache, "--timing-cache"),
        regions=None if regions is None else parse_number(regions, "--regions"),
        top_k=parse_numbers(top_k, "--top-k"),
        bra_top_k=parse_numbers(bra_top_k, "--bra-top-k"),
        num_classes=None if num_classes is None else parse_number(num_classes, "--num-classes"),
        labels=labels,
        output=parse_destination(output, "--output"),
        force=force,
        progress=OUTPUT.progress,
    )
    print_export(result, list(result.engines), quiet=quiet)


def _profiles(text: str) -> list[Profile]:
    """`N` or `MIN:OPT:MAX`, several separated by commas.

    Raises:
        UsageError: anything else.
    """
    from debiexport.targets.tensorrt.profile import Profile

    return [Profile.parse(part) for part in text.split(",")]
