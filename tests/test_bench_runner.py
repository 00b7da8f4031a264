"""Warm-up, blocks by turns, dropped runs and when to stop, with a clock that only the subjects move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, groupby
from typing import Any

import numpy as np
import pytest

from debiexport.bench.runner import Plan, measure

QUICK = Plan(min_time_s=0.05, min_count=400, max_time_s=5.0, block_s=0.02)


class World:
    """A clock in nanoseconds, and everything that ran, in order."""

    def __init__(self) -> None:
        self.now, self.log = 0, []  # type: int, list[tuple[str, Any]]

    def clock(self) -> int:
        return self.now

    def subject(self, name: str, durations_us: Iterator[float], pool: tuple[Any, ...] = ("a", "b", "c")) -> Fake:
        def run(value: Any) -> None:
            self.log.append((name, value))
            self.now += int(next(durations_us) * 1e3)

        return Fake(name, pool, run)


class Fake:
    def __init__(self, name: str, pool: tuple[Any, ...], run: Callable[[Any], object]) -> None:
        self.name, self.pool, self.run = name, pool, run


@pytest.fixture
def world() -> World:
    return World()


def test_a_steady_subject_converges(world: World) -> None:
    (result,) = measure([world.subject("s", cycle([1000, 1010]))], QUICK, world.clock)
    assert result.converged
    assert result.warmup.steady
    assert result.warmup.runs == 3 * 100  # windows of 0.1 s
    assert sum(map(len, result.blocks)) == 400
    assert {len(block) for block in result.blocks} == {20}
    assert {int(ns) for block in result.blocks for ns in block} == {1_000_000, 1_010_000}


def test_inputs_rotate(world: World) -> None:
    measure([world.subject("s", cycle([1000]))], QUICK, world.clock)
    assert [value for _, value in world.log[:7]] == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_falling_latency_is_waited_for(world: World) -> None:
    falling = (max(1000.0, 20_000 * 0.9**i) for i in range(10**6))
    (result,) = measure([world.subject("s", falling)], QUICK, world.clock)
    assert result.warmup.steady
    assert max(block.max() for block in result.blocks) == 1_000_000


def test_a_warm_up_ends_even_if_never_steady(world: World) -> None:
    growing = (1000.0 * 1.05**i for i in range(10**6))
    plan = replace(QUICK, warmup_max_s=1.0, max_time_s=0.1)
    (result,) = measure([world.subject("s", growing)], plan, world.clock)
    assert not result.warmup.steady
    assert 1.0 <= result.warmup.seconds < 1.2


def test_a_subject_slower_than_the_whole_warm_up(world: World) -> None:
    plan = replace(QUICK, warmup_max_s=1.0, max_time_s=5.0)
    (result,) = measure([world.subject("s", cycle([3_000_000]))], plan, world.clock)
    assert result.warmup.runs == 1
    assert not result.warmup.steady
    assert [len(block) for block in result.blocks] == [10]
    assert result.missing == ("10 of 400 runs",)


def test_blocks_take_turns_and_drop_their_first_runs(world: World) -> None:
    """The first three runs of a block cost ten times as much: none of them is in the result."""

    def cold(name: str, cost: float) -> Fake:
        fake = world.subject(name, iter(()))
        fast = cycle([cost])

        def run(value: Any) -> None:
            recent = [entry[0] for entry in world.log[-3:]]
            world.log.append((name, value))
            world.now += int(next(fast) * 1e3 * (1 if recent == [name] * 3 else 10))

        fake.run = run
        return fake

    first, second = measure([cold("x", 1000), cold("y", 2000)], QUICK, world.clock)
    assert first.converged and second.converged
    assert {int(ns) for block in first.blocks for ns in block} == {1_000_000}
    assert {int(ns) for block in second.blocks for ns in block} == {2_000_000}
    assert len(first.blocks) == len(second.blocks)
    turns = [(name, len(list(group))) for name, group in groupby(name for name, _ in world.log)]
    (_, warm_x), (_, warm_y), *_ = turns
    assert (warm_x, warm_y) == (first.warmup.runs, second.warmup.runs)
    assert turns[2:] == [("x", 23), ("y", 13)] * len(first.blocks)


def test_wide_intervals_are_named(world: World) -> None:
    wild = iter(np.random.default_rng(1).lognormal(8, 2, 10**5))
    plan = replace(QUICK, max_time_s=30.0, warmup_max_s=0.5)
    (result,) = measure([world.subject("s", wild)], plan, world.clock)
    assert not result.converged
    assert any(reason.startswith("the interval of p50 is ") for reason in result.missing)


def test_too_little_time_is_named(world: World) -> None:
    plan = replace(QUICK, min_time_s=10.0, max_time_s=1.0)
    (result,) = measure([world.subject("s", cycle([1000]))], plan, world.clock)
    assert any(reason.endswith(" of 10 s") for reason in result.missing)


def test_it_goes_on_for_the_slowest(world: World) -> None:
    """The fast one has enough long before; both get the same number of blocks, as a ratio needs."""
    plan = replace(QUICK, min_time_s=1.0, max_time_s=60.0)
    fast, slow = measure([world.subject("f", cycle([10])), world.subject("s", cycle([5000]))], plan, world.clock)
    assert fast.converged and slow.converged
    assert len(fast.blocks) == len(slow.blocks) == 50
    assert {len(block) for block in fast.blocks} == {2000}
    assert {len(block) for block in slow.blocks} == {10}


def test_no_time_at_all_does_not_divide_by_it(world: World) -> None:
    plan = replace(QUICK, warmup_max_s=0.0, max_time_s=0.0)
    world_runs = world.subject("s", cycle([0]))
    (result,) = measure([world_runs], plan, world.clock)
    assert len(result.blocks) == 1
