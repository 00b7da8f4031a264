"""Why a request is not answered with a result, and how HTTP and gRPC say so.

    Refusal            HTTP  gRPC
    ├── BadRequest      400  INVALID_ARGUMENT     what was sent is not what the model takes
    ├── NotFound        404  NOT_FOUND            no such model, version or path
    ├── Stalled         408  DEADLINE_EXCEEDED    the request did not arrive in time
    ├── TooLarge        413  RESOURCE_EXHAUSTED   more bytes than any request needs
    ├── Unreadable      415  UNIMPLEMENTED        a coding of the body that is not known
    ├── ClientGone      499  CANCELLED            nobody waits for the answer
    ├── Fault           500  INTERNAL             the server's own
    ├── Unavailable     503  UNAVAILABLE          full or stopping; later, or elsewhere
    └── Late            504  DEADLINE_EXCEEDED    the request's own deadline passed

They are answers of the protocol and no errors of the program, so they are outside the tree of `debiexport.errors`.
"""

from __future__ import annotations

RETRY_AFTER_S = 1
SHOWN = 120


class Refusal(Exception):
    """Root of everything that is answered with an error; its text is one line for whoever sent the request."""

    status = 500
    grpc_status = "INTERNAL"
    reason = "OTHER"  # by which the metrics tell failures apart


class BadRequest(Refusal):
    """What was sent is not what the model takes."""

    status = 400
    grpc_status = "INVALID_ARGUMENT"


class NotFound(Refusal):
    """There is no such model, version or path."""

    status = 404
    grpc_status = "NOT_FOUND"


class Stalled(Refusal):
    """The request did not arrive in time."""

    status = 408
    grpc_status = "DEADLINE_EXCEEDED"


class TooLarge(Refusal):
    """There are more bytes than any request needs."""

    status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class Unreadable(Refusal):
    """The body has a coding that is not known."""

    status = 415
    grpc_status = "UNIMPLEMENTED"


class ClientGone(Refusal):
    """Nobody waits for the answer any more."""

    status = 499
    grpc_status = "CANCELLED"
    reason = "CANCELED"  # as Triton spells it


class Fault(Refusal):
    """The server failed; the request may have been fine."""

    reason = "BACKEND"


class Unavailable(Refusal):
    """The server is full or stopping: the same request may succeed later, or elsewhere."""

    status = 503
    grpc_status = "UNAVAILABLE"
    reason = "REJECTED"


class Late(Refusal):
    """The request's own deadline has passed."""

    status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    reason = "REJECTED"


def shown(value: object) -> str:
    """Something that a client sent, fit for a message of one line."""
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
