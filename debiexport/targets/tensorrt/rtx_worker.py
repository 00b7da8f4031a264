"""The process in which TensorRT for RTX parses and builds a graph.

    python -m debiexport.targets.tensorrt.rtx_worker REQUEST REPLY

Both are files of JSON; TensorRT itself prints to standard output and error. A process of its own, since TensorRT finds
its library by the environment that a process starts with, and may end the process that it is in. It ends when its
standard input does, and so with whoever started it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from debiexport.targets.tensorrt.capabilities import member
from debiexport.targets.tensorrt.rtx_errors import Refusal, builder_refusals, explain, parser_refusals
from debiexport.targets.tensorrt.rtx_layers import read_grid_samples, read_layers
from debiexport.targets.tensorrt.rtx_report import RtxBuild

REFUSED, MISSING, MEMORY, OUTPUT, FAILED = "refused", "missing", "memory", "output", "failed"
"""Why there is no plan: TensorRT refuses, a package does not load, no memory, no file to write to, anything else."""

_PATTERN = re.compile(r"Found (?P<name>.+) to be part of self-attention pattern")
_SCRATCH = re.compile(r"Max Scratch Memory: (?P<bytes>\d+) bytes")


class _Refused(Exception):
    """TensorRT gives no network, or no plan."""


class _Unwritable(Exception):
    """The plan cannot be written."""


class LogLines:
    """What the log says that is of use; the rest, some ten lines a layer, is forgotten."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.recognised: list[str] = []
        self.scratch_bytes: int | None = None

    def add(self, text: str, *, is_error: bool) -> None:
        """Take a line of the log."""
        if is_error:
            self.errors.append(text)
        elif match := _PATTERN.search(text):
            self.recognised.append(match["name"])
        elif match := _SCRATCH.search(text):
            self.scratch_bytes = int(match["bytes"])


def build(request: Mapping[str, Any]) -> RtxBuild:
    """Parse and build what the request names, and write the plan if it wants one.

    Args:
        request: `model`, a path; `plan`, a path or None; `capabilities`, names; `profile`, three batches or None;
            `with_plugins`.
    """
    import tensorrt_rtx as trt

    from debiexport.bench.memory import own_peak_bytes

    lines = LogLines()
    logger = _logger(trt, lines)
    reasons: Sequence[str] = ()  # why plugins refuse nodes, of which TensorRT says nothing
    if request["with_plugins"]:
        from debiexport.plugins.twins import register_twins

        reasons = register_twins(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    begun = time.perf_counter()
    parsed = parser.parse_from_file(str(request["model"]))
    parse_s = time.perf_counter() - begun
    if not parsed:
        told = tuple(map(Refusal, reasons)) or parser_refusals(parser)
        raise _Refused(explain(told or builder_refusals(lines.errors)))
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    described, sampled = read_layers(layers), read_grid_samples(trt, layers)
    config = _config(trt, builder, network, request)
    lines.errors.clear()
    begun = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - begun
    if plan is None:
        raise _Refused(explain(tuple(map(Refusal, reasons)) or builder_refusals(lines.errors)))
    content, peak = memoryview(plan), own_peak_bytes()
    products = {layer.name for layer in described if layer.type == "MATRIX_MULTIPLY"}
    if request["plan"] is not None:
        _write(Path(request["plan"]), content)
    return RtxBuild(
        version=str(trt.__version__),
        capabilities=tuple(request["capabilities"]),
        profile=None if request["profile"] is None else (*request["profile"],),
        layers=described,
        grid_samples=sampled,
        attentions=tuple(sorted(products.intersection(lines.recognised))),
        parse_s=parse_s,
        build_s=build_s,
        peak_rss_mb=None if peak is None else peak / 1e6,
        scratch_bytes=lines.scratch_bytes,
        plan_bytes=content.nbytes,
        plan_sha256=hashlib.sha256(content).hexdigest(),
    )


def _write(path: Path, content: memoryview) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise _Unwritable(error.strerror or str(error)) from error


def _logger(trt: Any, lines: LogLines) -> Any:
    """A logger of TensorRT's that hears everything and keeps `lines`."""
    errors = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # required by pybind11, which checks that it was called by this name

        def log(self, severity: Any, text: str) -> None:
            lines.add(text, is_error=severity in errors)

    return Logger()


def _config(trt: Any, builder: Any, network: Any, request: Mapping[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # set by default: float32 products would be rounded to 10 bits
    names = request["capabilities"]
    config.num_compute_capabilities = len(names)
    for i, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, member(name)), i)
    if request["profile"] is not None:
        config.add_optimization_profile(_profile(builder, network, request["profile"]))
    return config


def _profile(builder: Any, network: Any, batches: Sequence[int]) -> Any:
    """The range of batches for every input whose batch is not fixed.

    Raises:
        _Refused: an input has a fixed batch and is to have another, or another size that is not fixed.
    """
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        batch, *sizes = tuple(tensor.shape) or (1,)
        if -1 in sizes:
            raise _Refused(
                f"the input {tensor.name} has sizes besides the batch that are not fixed, {tuple(tensor.shape)}: export"
                " for one size of image"
            )
        if batch == -1:
            profile.set_shape(tensor.name, *((size, *sizes) for size in batches))
        elif set(batches) != {batch}:
            raise _Refused(
                f"the input {tensor.name} has a batch of {batch}, and {':'.join(map(str, batches))} was asked for:"
                " export with any batch"
            )
    return profile


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What `build` found, or why it failed."""
    try:
        return {"build": build(request).to_dict()}
    except _Refused as error:
        return {"kind": REFUSED, "error": str(error)}
    except ImportError as error:
        return {"kind": MISSING, "error": _told(error)}
    except MemoryError as error:
        return {"kind": MEMORY, "error": _told(error)}
    except _Unwritable as error:
        return {"kind": OUTPUT, "error": _told(error)}
    except Exception as error:  # TensorRT's bindings raise whatever they like
        return {"kind": FAILED, "error": f"{type(error).__name__}: {_told(error)}"}


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _end_with_input() -> None:
    while os.read(0, 1):  # not sys.stdin, which Python cannot close at its end while a thread waits for it
        pass
    os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Serve whoever started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it, and then the input ends
    threading.Thread(target=_end_with_input, daemon=True).start()
    request, reply = map(Path, arguments)
    reply.write_text(json.dumps(answer(json.loads(request.read_text(encoding="utf-8")))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
