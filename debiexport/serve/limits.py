"""How much and how long the server waits for and holds, from what its models can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from debiexport.serve.requests import Signature

MIB = 2**20
JSON_BYTES_PER_VALUE = 26  # of a float64 with all its digits, a comma and a space
TYPED_BYTES_PER_VALUE = 2  # of a uint8 in a list of gRPC; those of floats are as in binary
LARGEST_JSON = 64 * MIB
BESIDE_DATA = 256 * 1024  # names, shapes, parameters
SPARE_TOKENS = 4096
TOO_MANY = 2  # times the largest batch: so much is read, for the answer to tell of the batch and not of bytes
HEAD_BYTES = 64 * 1024
CONNECTIONS = 512


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        body_bytes: of the body of a request, also once it is decompressed.
        message_bytes: of a message of gRPC, which has no JSON.
        held_bytes: of all bodies that are held at once.
        stall_s: seconds for which a body, a head or a reader may stand still.
        body_s: seconds for which a body may take in all, however steadily it comes.
    """

    body_bytes: int
    message_bytes: int
    held_bytes: int
    stall_s: float = 10.0
    body_s: float = 60.0

    @classmethod
    def of(cls, signatures: Sequence[Signature]) -> Limits:
        """The bounds that let through the largest request of any model, in binary also twice that, in JSON up to 64
        MiB.
        """
        values = max(signature.largest_elements for signature in signatures)
        binary = TOO_MANY * max(signature.largest_bytes for signature in signatures) + BESIDE_DATA
        text = values * JSON_BYTES_PER_VALUE + BESIDE_DATA
        body = max(binary, min(text, LARGEST_JSON))
        typed = TOO_MANY * values * TYPED_BYTES_PER_VALUE + BESIDE_DATA
        return cls(body, max(binary, typed), max(128 * MIB, 2 * body))
