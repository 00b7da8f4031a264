from __future__ import annotations

import asyncio

import pytest

from debiexport.serve.admission import Admission
from debiexport.serve.refusals import Unavailable


def test_the_budget_is_never_exceeded() -> None:
    admission = Admission(100)
    with admission.enter(60) as first:
        with pytest.raises(Unavailable, match="60 of the 100 bytes that requests may hold at once are held"):
            admission.enter(41)
        with admission.enter() as second:
            second.resize(40)
            with pytest.raises(Unavailable, match="this one needs 41"):
                second.resize(41)
            assert (admission.held, second.size, admission.in_progress) == (100, 40, 2)
            first.resize(10)
            second.resize(90)
        assert admission.held == 10
    assert (admission.held, admission.in_progress) == (0, 0)


def test_what_fails_is_let_go() -> None:
    admission = Admission(100)
    with pytest.raises(KeyError), admission.enter(50):
        raise KeyError
    assert (admission.held, admission.in_progress) == (0, 0)


def test_draining_takes_what_comes_and_closing_does_not() -> None:
    admission = Admission(100)
    assert admission.ready
    admission.drain()
    assert not admission.ready
    with admission.enter(1):
        admission.close()
        with pytest.raises(Unavailable, match="the server is stopping"):
            admission.enter(1)
        assert admission.in_progress == 1


def test_idle() -> None:
    async def go() -> None:
        admission = Admission(100)
        await asyncio.wait_for(admission.idle(), 5)
        with admission.enter(), pytest.raises(TimeoutError):
            await asyncio.wait_for(admission.idle(), 0.01)
        await asyncio.wait_for(admission.idle(), 5)

    asyncio.run(go())
