"""`debiexport models`"""

from __future__ import annotations

from debiexport.cli.options import Debug, Json, Quiet
from debiexport.cli.output import OUTPUT


def command(as_json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """The models: parameters and multiply-adds counted, the papers' figures beside."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.models_table import list_models

    rows = list_models()
    header = ("model", "params M", "paper", "mult-adds G", "paper", "top-1 %", "pixels", "S", "top-k", "weights")
    cells = [
        (
            row.name,
            f"{row.parameters / 1e6:.2f}",
            _figure(row.paper_parameters_m),
            f"{row.multiply_adds / 1e9:.2f}",
            _figure(row.paper_flops_g),
            _figure(row.paper_top1),
            "x".join(map(str, row.image_size)),
            str(row.regions),
            " ".join("/".join("all" if k is None else str(k) for k in stage) for stage in row.top_k),
            "shipped" if row.shipped else row.checkpoint,
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (header, *cells)
    ]
    OUTPUT.result("\n".join(lines), {"models": [row.to_dict() for row in rows]})


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
