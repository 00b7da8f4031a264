"""A server of the Open Inference Protocol (KServe v2) on ONNX Runtime, for one machine with nothing else installed.

It speaks what NVIDIA Triton speaks, over HTTP (JSON and the binary extension) and gRPC, so a client moves from one to
the other unchanged. A request goes one way through the modules:

    http_protocol, http_reader,
    http_head, http_limits         connections, heads and bodies, bounded before memory is taken
    http_json, http_binary,
    grpc_messages                  a body or message becomes named tensors, and answers become bodies
    requests                       named tensors become an InferRequest, or are refused with a reason
    service, admission, batcher    admitted, queued, put into a batch with others, run, answered
    statistics, metrics            counted

Nothing in a request names a file, a module or a size of memory that has not been checked.
"""

from __future__ import annotations
