"""`debiexport serve`"""

from __future__ import annotations

from typing import Annotated

import typer

from debiexport.cli.options import Debug, Json, Quiet, Threads, parse_number, parse_threads
from debiexport.cli.output import OUTPUT

PACKAGES = ("starlette", "uvicorn", "httptools", "grpc", "tritonclient")

_Bundles = Annotated[
    list[str],
    typer.Argument(metavar="BUNDLE...", help="Folders that exports to ONNX wrote, or NAME=BUNDLE; versions in order."),
]
_Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")]
_Port = Annotated[str, typer.Option("--port", metavar="N", help="Of HTTP; 0 for any that is free.")]
_GrpcPort = Annotated[str, typer.Option("--grpc-port", metavar="N", help="Of gRPC; 0 likewise.")]
_MetricsPort = Annotated[str, typer.Option("--metrics-port", metavar="N", help="Of Prometheus' metrics; 0 likewise.")]
_MaxBatch = Annotated[
    str | None,
    typer.Option("--max-batch", metavar="N", help="Images that may share a run (default: 8); for a dynamic batch."),
]
_QueueDelay = Annotated[
    str, typer.Option("--queue-delay-us", metavar="N", help="Microseconds that a request may wait for others.")
]
_MaxQueue = Annotated[
    str, typer.Option("--max-queue", metavar="N", help="Requests that may wait; one more is refused.")
]
_AllowUnverified = Annotated[
    bool, typer.Option("--allow-unverified", help="Serve also what lost parity when it was exported.")
]


def command(
    bundles: _Bundles,
    host: _Host = "127.0.0.1",
    port: _Port = "8000",
    grpc_port: _GrpcPort = "8001",
    metrics_port: _MetricsPort = "8002",
    max_batch: _MaxBatch = None,
    queue_delay_us: _QueueDelay = "0",
    max_queue: _MaxQueue = "64",
    threads: Threads = None,
    allow_unverified: _AllowUnverified = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Serve bundles over HTTP and gRPC, as NVIDIA Triton does, until SIGTERM or Ctrl-C."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.extras import require
    from debiexport.serve.options import ServeOptions

    options = ServeOptions(
        host=host,
        port=parse_number(port, "--port"),
        grpc_port=parse_number(grpc_port, "--grpc-port"),
        metrics_port=parse_number(metrics_port, "--metrics-port"),
        max_batch=None if max_batch is None else parse_number(max_batch, "--max-batch"),
        queue_delay_us=parse_number(queue_delay_us, "--queue-delay-us"),
        max_queue=parse_number(max_queue, "--max-queue"),
        threads=parse_threads(threads),
        allow_unverified=allow_unverified,
    )
    require(PACKAGES, "debiexport serve", "serve")
    from debiexport.serve.server import serve

    serve(
        bundles,
        options,
        ready=lambda listening: OUTPUT.result(str(listening), listening.to_dict()),
        progress=OUTPUT.progress,
    )
