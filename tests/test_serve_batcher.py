from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from serving import Gate, images, toy_model, toy_run

from debiexport.runtimes.base import Arrays
from debiexport.serve.batcher import Batcher, Ticket
from debiexport.serve.models import LoadedModel
from debiexport.serve.refusals import Fault, Late, Unavailable
from debiexport.serve.requests import InferRequest


@contextmanager
def model_of(run: Any, **options: Any) -> Iterator[LoadedModel]:
    model = toy_model(run, **options)
    try:
        yield model
    finally:
        if isinstance(run, Gate):
            run.open(100)
        model.batcher.close()


def request(count: int = 1, seed: int = 0, **more: Any) -> InferRequest:
    return InferRequest("", {"images": images(count, seed)}, count, ("logits",), **more)


async def answers(tickets: list[Ticket]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*(t.answer for t in tickets), return_exceptions=True), 20)


async def queued_behind(gate: Gate, batcher: Batcher, requests: list[InferRequest]) -> list[Ticket]:
    """Tickets of requests that all wait while another is being run, which comes first."""
    first = batcher.submit(request())
    await asyncio.to_thread(gate.wait)
    return [first, *[batcher.submit(each) for each in requests]]


def test_a_request_alone() -> None:
    async def go(batcher: Batcher) -> None:
        asked = request(2)
        (found,) = await answers([batcher.submit(asked)])
        np.testing.assert_array_equal(found["logits"], toy_run(asked.inputs)["logits"])

    with model_of(toy_run) as model:
        asyncio.run(go(model.batcher))
        counted = model.statistics.to_dict()
    assert (counted["inference_count"], counted["execution_count"]) == (2, 1)
    assert [entry["batch_size"] for entry in counted["batch_stats"]] == [2]


def test_requests_that_wait_share_batches_in_order_and_as_a_whole() -> None:
    gate = Gate()

    async def go(batcher: Batcher) -> None:
        asked = [request(count, seed) for seed, count in enumerate((1, 2, 2, 3, 1, 4, 1))]
        tickets = await queued_behind(gate, batcher, asked)
        assert batcher.waiting == 7
        gate.open(10)
        _, *found = await answers(tickets)
        for each, answer in zip(asked, found, strict=True):
            np.testing.assert_array_equal(answer["logits"], toy_run(each.inputs)["logits"])

    with model_of(gate) as model:
        asyncio.run(go(model.batcher))
        assert gate.batches == [1, 3, 2, 4, 4, 1]
        counted = model.statistics.to_dict()
    assert counted["inference_count"] == 15
    assert counted["inference_stats"]["queue"]["count"] == 8
    assert counted["inference_stats"]["queue"]["ns"] > 0


def test_a_fixed_batch_is_never_joined() -> None:
    gate = Gate()

    async def go(batcher: Batcher) -> None:
        tickets = await queued_behind(gate, batcher, [request(3), request(3)])
        gate.open(10)
        await answers(tickets)

    with model_of(gate, batch=3) as model:
        asyncio.run(go(model.batcher))
    assert gate.batches == [1, 3, 3]


def test_a_delay_lets_requests_meet() -> None:
    sizes: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        sizes.append(len(inputs["images"]))
        return toy_run(inputs)

    async def go(batcher: Batcher) -> float:
        begun = time.perf_counter()
        tickets = [batcher.submit(request())]
        await asyncio.sleep(0.02)
        tickets.append(batcher.submit(request()))
        await answers(tickets)
        return time.perf_counter() - begun

    with model_of(run, queue_delay_us=300_000) as model:
        assert asyncio.run(go(model.batcher)) >= 0.29
    assert sizes == [2]


def test_a_full_batch_waits_for_no_delay() -> None:
    async def go(batcher: Batcher) -> None:
        await answers([batcher.submit(request(4))])

    with model_of(toy_run, queue_delay_us=900_000) as model:
        begun = time.perf_counter()
        asyncio.run(go(model.batcher))
        assert time.perf_counter() - begun < 0.8


def test_a_full_queue_refuses_and_takes_again() -> None:
    gate = Gate()

    async def go(batcher: Batcher) -> None:
        tickets = await queued_behind(gate, batcher, [request(), request()])
        with pytest.raises(Unavailable, match="the queue of model 'toy' is full: 2 requests wait, at most 2 may"):
            batcher.submit(request())
        batcher.withdraw(tickets.pop())
        batcher.withdraw(tickets[0])  # it is being run: nothing happens
        tickets.append(batcher.submit(request()))
        gate.open(10)
        assert all(isinstance(found, dict) for found in await answers(tickets))

    with model_of(gate, max_queue=2) as model:
        asyncio.run(go(model.batcher))


def test_requests_whose_deadline_passed_are_not_run() -> None:
    gate = Gate()

    async def go(batcher: Batcher) -> None:
        late = request(arrived_ns=time.perf_counter_ns(), deadline_ns=time.perf_counter_ns() + 1000)
        tickets = await queued_behind(gate, batcher, [late, request()])
        gate.open(10)
        _, refused, answered = await answers(tickets)
        assert isinstance(refused, Late)
        assert "deadline passed" in str(refused)
        assert isinstance(answered, dict)

    with model_of(gate) as model:
        asyncio.run(go(model.batcher))
    assert gate.batches == [1, 1]


def test_requests_that_nobody_waits_for_are_not_run() -> None:
    gate = Gate()

    async def go(batcher: Batcher) -> None:
        first, given_up, last = await queued_behind(gate, batcher, [request(), request()])
        given_up.answer.cancel()
        gate.open(10)
        await answers([first, last])

    with model_of(gate) as model:
        asyncio.run(go(model.batcher))
    assert gate.batches == [1, 1]


def test_a_request_that_waited_too_long() -> None:
    gate = Gate()

    async def go(batcher: Batcher) -> None:
        tickets = await queued_behind(gate, batcher, [request()])
        await asyncio.sleep(0.05)
        gate.open(10)
        _, refused = await answers(tickets)
        assert isinstance(refused, Unavailable)
        assert "the server is overloaded" in str(refused)

    with model_of(gate, max_wait_us=10_000) as model:
        asyncio.run(go(model.batcher))


def test_only_the_culprit_of_a_failed_batch_fails() -> None:
    gate = Gate()

    def run(inputs: Arrays) -> Arrays:
        found = gate(inputs)
        if (inputs["images"] == 7).any():
            raise RuntimeError("seven\nis too many")
        return found

    async def go(batcher: Batcher) -> None:
        bad = InferRequest("", {"images": np.full((1, 3, 4, 5), 7, np.float32)}, 1, ("logits",))
        good = [request(1, 1), request(1, 2)]
        tickets = await queued_behind(gate, batcher, [good[0], bad, good[1]])
        gate.open(10)
        _, first, failed, last = await answers(tickets)
        assert isinstance(failed, Fault)
        assert str(failed) == "model 'toy' failed: seven is too many"
        for asked, found in zip(good, (first, last), strict=True):
            np.testing.assert_array_equal(found["logits"], toy_run(asked.inputs)["logits"])

    with model_of(run) as model:
        asyncio.run(go(model.batcher))
    assert gate.batches == [1, 3, 1, 1, 1]


def test_closing_runs_what_waits_and_ends_the_thread() -> None:
    gate = Gate()

    async def go(batcher: Batcher) -> None:
        tickets = await queued_behind(gate, batcher, [request()])
        gate.open(10)
        await asyncio.to_thread(batcher.close)
        assert all(isinstance(found, dict) for found in await answers(tickets))
        with pytest.raises(Unavailable, match="is being unloaded"):
            batcher.submit(request())

    with model_of(gate) as model:
        asyncio.run(go(model.batcher))
    assert not [thread for thread in threading.enumerate() if thread.name == "batches of toy"]


def test_what_was_answered_is_not_held() -> None:
    async def go(batcher: Batcher) -> None:
        asked = request(2)
        held = weakref.ref(asked)
        await answers([batcher.submit(asked)])
        del asked
        deadline = time.monotonic() + 10
        while held() is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)

    with model_of(toy_run) as model:
        asyncio.run(go(model.batcher))


def test_an_event_loop_that_is_gone_does_not_stop_the_thread() -> None:
    gate = Gate()

    async def leave(batcher: Batcher) -> None:
        await queued_behind(gate, batcher, [])

    async def go(batcher: Batcher) -> None:
        assert isinstance((await answers([batcher.submit(request())]))[0], dict)

    with model_of(gate) as model:
        asyncio.run(leave(model.batcher))
        gate.open(10)
        asyncio.run(go(model.batcher))
