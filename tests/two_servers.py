"""What the tests of both servers share: the embedded one in a process of its own, bundles to serve, and comparing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from protocol_clients import Array
from real_triton import Ports, free_ports, stop, wait_until_ready

from debiexport.bundle import MODEL, Bundle, sha256_of
from debiexport.manifest import MANIFEST
from debiexport.triton.presets import ServingOptions

PATIENT = ServingOptions(threads=1, timeout_us=60_000_000)  # on a busy machine, too


@contextmanager
def embedded_server(bundles: Sequence[str], log: Path, options: Sequence[str] = ()) -> Iterator[Ports]:
    """`debiexport serve`, ready.

    Args:
        bundles, options: of its command line.
        log: a file for what the server says.
    """
    http, grpc, metrics = free_ports(3)
    command = [sys.executable, "-m", "debiexport", "serve", *bundles, "--threads", "1"]
    command += ["--port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics), *options]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "NO_COLOR": "1"}
        )
    try:
        ports = Ports(*(f"127.0.0.1:{port}" for port in (http, grpc, metrics)))
        wait_until_ready(process, ports.http, log)
        yield ports
    finally:
        stop(process)
    assert process.returncode == 0


def other_weights(bundle: Path, copy: Path) -> Path:
    """A copy of a classifier's bundle whose model adds 1 to the first logit: what a version 2 is to a version 1."""
    shutil.copytree(bundle, copy)
    path = copy / "model.onnx"
    model = onnx.load(str(path))
    (head,) = [node for node in model.graph.node if node.name == "head/Gemm"]
    (bias,) = [each for each in model.graph.initializer if each.name == head.input[2]]
    values = np.array(onnx.numpy_helper.to_array(bias))
    values[0] += 1
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, str(path))
    manifest = json.loads((copy / MANIFEST).read_text())
    (entry,) = [artifact for artifact in manifest["artifacts"] if artifact["role"] == MODEL]
    entry |= {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy


def images(bundle: Bundle, count: int, seed: int = 0) -> Array:
    """Images of the form that a bundle takes, with a batch of `count`."""
    (spec,) = bundle.models[0].inputs
    shape = (count, *(side or 1 for side in spec.shape[1:]))
    random = np.random.default_rng(seed)
    if spec.dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.standard_normal(shape).astype(spec.dtype)


def same_bits(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert found.keys() == wanted.keys()  # Triton has an order of its own
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def eventually(read: Callable[[], object], wanted: object) -> None:
    """Triton counts a request a moment after it has answered."""
    end = time.monotonic() + 10
    while read() != wanted and time.monotonic() < end:
        time.sleep(0.02)
    assert read() == wanted
