"""Requests that wait share a batch: a bounded queue, and a thread that takes from it and runs the model.

Requests are joined in the order in which they came and only as a whole. Nothing is padded: a batch is as large as its
members, so each gets what the runtime computes for that batch. Only requests that have been checked come here, so
none can spoil a batch; should a batch fail all the same, its members are run one by one, and only the culprit fails.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from debiexport.runtimes.base import Arrays
from debiexport.serve.refusals import Fault, Late, Refusal, Unavailable
from debiexport.serve.requests import InferRequest
from debiexport.serve.statistics import BatchTiming, Statistics


@dataclass(eq=False)
class Ticket:
    """A request's place in the queue, and where its answer will be."""

    request: InferRequest
    answer: asyncio.Future[Arrays] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    queued_ns: int = field(default_factory=time.perf_counter_ns)


class Batcher:
    """A queue of requests of one model, and the thread that runs them.

    Args:
        name: of the model, for messages and the thread.
        run: the model; called in one thread only.
        max_images: of a batch.
        queue_delay_us: for how long the first of a batch waits for others, in microseconds.
        max_queue: requests that may wait.
        max_wait_us: microseconds for which one may wait.
        statistics: told of every batch.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Arrays], Arrays],
        *,
        max_images: int,
        queue_delay_us: int,
        max_queue: int,
        max_wait_us: int,
        statistics: Statistics,
    ) -> None:
        self._name, self._run, self._statistics = name, run, statistics
        self._max_images, self._max_queue, self._delay_ns = max_images, max_queue, queue_delay_us * 1000
        self._max_wait_ns = max_wait_us * 1000
        self._queue: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"batches of {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def submit(self, request: InferRequest) -> Ticket:
        """Queue a request; to be called in an event loop, in which its answer will come.

        Raises:
            Unavailable: too many wait, or the batcher was closed.
        """
        with self._changed:
            if self._closed:
                raise Unavailable(f"model '{self._name}' is being unloaded: send the request to another server")
            if len(self._queue) >= self._max_queue:
                raise Unavailable(
                    f"the queue of model '{self._name}' is full: {len(self._queue)} requests wait, at most"
                    f" {self._max_queue} may; try again later"
                )
            ticket = Ticket(request)
            self._queue.append(ticket)
            self._changed.notify()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Forget a request that nobody waits for any more; if it is being run already, its answer goes nowhere."""
        with self._changed:
            if ticket in self._queue:
                self._queue.remove(ticket)

    def close(self) -> None:
        """Take no more requests, run those that wait, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            self._execute(batch)
            del batch  # or its images would be held until the next one comes

    def _next_batch(self) -> list[Ticket]:
        """The requests to run next, as soon as there are any worth running; none once the batcher is closed."""
        with self._changed:
            while True:
                fitting, full = self._fitting()
                if not fitting:
                    if self._closed and not self._queue:
                        return []
                    self._changed.wait()
                    continue
                left_ns = self._queue[0].queued_ns + self._delay_ns - time.perf_counter_ns()
                if full or self._closed or left_ns <= 0:
                    return [self._queue.popleft() for _ in range(fitting)]
                self._changed.wait(left_ns / 1e9)

    def _fitting(self) -> tuple[int, bool]:
        """How many requests of the queue's head share the next batch, and whether no other could join them."""
        images = 0
        for count, ticket in enumerate(self._queue):
            images += ticket.request.images
            if images > self._max_images:
                return count, True
            if images == self._max_images:
                return count + 1, True
        return len(self._queue), False

    def _execute(self, batch: Sequence[Ticket]) -> None:
        wanted = []
        for ticket in batch:
            if refusal := self._too_late(ticket):
                _answer([ticket], refusal)
            elif not ticket.answer.done():
                wanted.append(ticket)
        if not wanted:
            return
        try:
            results = self._results(wanted)
        except Exception as error:  # whatever the runtime raises, the thread must live
            if len(wanted) == 1:
                _answer(wanted, Fault(f"model '{self._name}' failed: {' '.join(str(error).split())[:300]}"))
                return
            for ticket in wanted:
                self._execute([ticket])
            return
        _deliver(list(zip(wanted, results, strict=True)))

    def _too_late(self, ticket: Ticket) -> Refusal | None:
        """Why a request need not be run any more."""
        waited_ns = time.perf_counter_ns() - ticket.queued_ns
        if ticket.request.expired:
            return Late(f"the request's deadline passed after {waited_ns / 1e6:.0f} ms in the queue")
        if waited_ns > self._max_wait_ns:
            return Unavailable(
                f"the request waited {waited_ns / 1e9:.1f} s in the queue of model '{self._name}', at most"
                f" {self._max_wait_ns / 1e9:g} s are allowed: the server is overloaded; try again later"
            )
        return None

    def _results(self, batch: Sequence[Ticket]) -> list[Arrays]:
        """The outputs of each request of a batch that is run as one."""
        begun = time.perf_counter_ns()
        requests = [ticket.request for ticket in batch]
        if len(requests) == 1:
            inputs = requests[0].inputs
        else:
            inputs = {name: np.concatenate([r.inputs[name] for r in requests]) for name in requests[0].inputs}
        joined = time.perf_counter_ns()
        outputs = self._run(inputs)
        ran = time.perf_counter_ns()
        results, first = [], 0
        for request in requests:
            rows = slice(first, first + request.images)
            results.append({name: outputs[name][rows] for name in request.outputs})
            first = rows.stop
        timing = BatchTiming(joined - begun, ran - joined, time.perf_counter_ns() - ran)
        self._statistics.executed(first, [begun - ticket.queued_ns for ticket in batch], timing)
        return results


def _answer(tickets: Sequence[Ticket], error: Refusal) -> None:
    _deliver([(ticket, error) for ticket in tickets])


def _deliver(answers: Sequence[tuple[Ticket, Arrays | Refusal]]) -> None:
    """Hand over answers in the event loop that waits for them, which is the same for all."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        answers[0][0].answer.get_loop().call_soon_threadsafe(_settle, answers)


def _settle(answers: Sequence[tuple[Ticket, Arrays | Refusal]]) -> None:
    for ticket, answer in answers:
        if ticket.answer.done():  # given up meanwhile
            continue
        if isinstance(answer, Refusal):
            ticket.answer.set_exception(answer)
        else:
            ticket.answer.set_result(answer)
