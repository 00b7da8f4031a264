"""What the server does, whatever protocol asks for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from debiexport.runtimes.base import Arrays
from debiexport.serve.admission import Admission
from debiexport.serve.batcher import Ticket
from debiexport.serve.limits import Limits
from debiexport.serve.models import LoadedModel, Models
from debiexport.serve.options import ServeOptions
from debiexport.serve.refusals import ClientGone, Late, Refusal


class Service:
    """The models, and the requests that are admitted to them.

    Args:
        models: loaded.
        options: that they were loaded with.
        limits: None for those that let the models' largest requests through.
    """

    def __init__(self, models: Models, options: ServeOptions, limits: Limits | None = None) -> None:
        self.models, self.options = models, options
        self.limits = limits or Limits.of([model.signature for model in models])
        self.admission = Admission(self.limits.held_bytes)

    @contextmanager
    def counted(self, model: LoadedModel) -> Iterator[int]:
        """Within it a request to a model is handled; its end is counted. Gives when it began, of `perf_counter_ns`."""
        arrived = time.perf_counter_ns()
        try:
            yield arrived
        except Refusal as refusal:
            model.statistics.failed(time.perf_counter_ns() - arrived, refusal.reason)
            raise
        except asyncio.CancelledError:
            model.statistics.failed(time.perf_counter_ns() - arrived, ClientGone.reason)
            raise
        except Exception:
            model.statistics.failed(time.perf_counter_ns() - arrived, Refusal.reason)
            raise
        model.statistics.succeeded(time.perf_counter_ns() - arrived)

    async def answer(self, model: LoadedModel, ticket: Ticket) -> Arrays:
        """The outputs of a request that was queued, as soon as they are there.

        Raises:
            Late: its deadline passed before.
            Refusal: whatever the batcher gives for it.
        """
        request = ticket.request
        left_s = None if request.deadline_ns is None else (request.deadline_ns - time.perf_counter_ns()) / 1e9
        try:
            async with asyncio.timeout(left_s):
                return await ticket.answer
        except TimeoutError:
            after_ms = (time.perf_counter_ns() - request.arrived_ns) / 1e6
            raise Late(f"the request's deadline passed: no answer after {after_ms:.0f} ms") from None
        finally:
            model.batcher.withdraw(ticket)  # where it still waits
