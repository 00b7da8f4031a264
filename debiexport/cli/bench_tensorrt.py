"""`debiexport bench` of a TensorRT bundle."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

from debiexport.cli.output import OUTPUT


def bench_tensorrt(
    bundle: Path,
    *,
    batch: int | None,
    min_time: float,
    max_time: float | None,
    file: Path | None,
) -> None:
    """Measure, print and write.

    Args:
        bundle: a folder.
        batch, min_time, max_time: see `measure_engines`.
        file: to write the result to.

    Raises:
        DebiexportError: see `measure_engines`.
    """
    from debiexport.atomic import staged_file
    from debiexport.bench.engines import measure_engines

    with nullcontext() if file is None else staged_file(file, "--json-file") as staged:
        result = measure_engines(bundle, batch=batch, min_time=min_time, max_time=max_time, progress=OUTPUT.progress)
        if staged is not None:
            staged.commit(json.dumps(result.to_dict(), allow_nan=False) + "\n")
    for note in result.notes:
        OUTPUT.note(note)
    OUTPUT.result(result.report(), result.to_dict())
