"""The least that a server in Python costs, for `serving.py`: one connection at a time, nothing checked, nothing shared.

    python benchmarks/serving_floor.py BUNDLE THREADS

It prints its port, and takes every body for the float32 images of the bundle's model, at the body's end. What is left
of the time beyond ONNX Runtime's own is the way of an image and its answer between two processes, and what it costs
ONNX Runtime that it was not called at once.
"""

from __future__ import annotations

import socket
import sys
from typing import BinaryIO

import numpy as np

from debiexport.bundle import open_bundle

HEAD, DONE = b"HTTP/1.1 200 OK\r\ncontent-length: ", b"\r\n\r\n"


def main(path: str, threads: str) -> None:
    """Serve until the process is ended."""
    bundle = open_bundle(path)
    (spec,) = bundle.models[0].inputs
    shape = [1, *(side or 1 for side in spec.shape[1:])]
    size = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
    run = bundle.ort(int(threads)).run
    run({spec.name: np.zeros(shape, spec.dtype)})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb", buffering=2**20) as reader:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while (length := _content_length(reader)) is not None:
                    body, answer = reader.read(length), b""
                    if length >= size:
                        image = np.frombuffer(body[length - size :], spec.dtype).reshape(shape)
                        answer = next(iter(run({spec.name: image}).values())).tobytes()
                    connection.sendall(b"".join([HEAD, str(len(answer)).encode(), DONE, answer]))


def _content_length(reader: BinaryIO) -> int | None:
    """Of the next request, 0 if it does not say; None at the end of the connection."""
    length, line = 0, reader.readline()
    if not line:
        return None
    while line := reader.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return length


if __name__ == "__main__":
    main(*sys.argv[1:])
