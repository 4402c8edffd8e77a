"""Weighted steps: what a handler says of its parts adds up to how far the job is."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import JobContext
from headway.context import Attempt
from headway.contracts import Progress
from headway.testing import Recorder


def context() -> tuple[JobContext, list[Progress]]:
    """Return a context and where what it shows is kept."""
    recorder = Recorder()
    return JobContext(Attempt(job_id=uuid4(), kind="test"), recorder), recorder.progress


async def test_steps_are_so_much_of_the_job_as_they_weigh() -> None:
    """Progress within a step moves the bar through that step's part of it."""
    ctx, shown = context()
    ctx.steps(4)
    async with ctx.step("download"):
        ctx.progress(1, 2, "a.jpg")
    async with ctx.step("resize", weight=3):
        async for _ in ctx.track(range(3), message="photos"):
            pass
    assert [(one.percent, one.message) for one in shown] == [
        (0.0, "download"),
        (12.5, "download: a.jpg"),
        (25.0, "download: a.jpg"),
        (25.0, "resize"),
        (25.0, "resize: photos"),
        (50.0, "resize: photos"),
        (75.0, "resize: photos"),
        (100.0, "resize: photos"),
        (100.0, "resize: photos"),
    ]
    assert {(one.total, one.unit) for one in shown} == {(100, "%")}


def test_steps_lie_within_steps() -> None:
    """A step's own steps fill its part, and its message names the way to it; a plain `with` does it in a thread."""
    ctx, shown = context()
    ctx.steps(2)
    with ctx.step("pack"):
        ctx.steps(2)
        with ctx.step("zip"):
            ctx.progress(1, 2, "a.zip")
            assert (shown[-1].percent, shown[-1].message) == (12.5, "pack › zip: a.zip")  # noqa: RUF001
        assert shown[-1].percent == 25.0
    assert shown[-1].percent == 50.0


def test_without_their_sum_steps_are_counted() -> None:
    """Nobody claims to know how much there is."""
    ctx, shown = context()
    with ctx.step("one"):
        ctx.progress(1, 2)
    with ctx.step("two", weight=2):
        pass
    assert [(one.current, one.total, one.unit) for one in shown][-1] == (3.0, None, "steps")
    assert [one.current for one in shown] == [0.0, 0.5, 1.0, 1.0, 3.0]


async def test_steps_at_once_add_up() -> None:
    """Each task's progress is that of its own step."""
    ctx, shown = context()
    ctx.steps(2)
    both = asyncio.Barrier(2)

    async def part(name: str) -> None:
        async with ctx.step(name):
            await both.wait()
            ctx.progress(1, 2, "half")
            await both.wait()

    await asyncio.gather(part("a"), part("b"))
    assert {one.message for one in shown} == {"a", "b", "a: half", "b: half"}
    assert [one.percent for one in shown] == [0.0, 0.0, 25.0, 50.0, 75.0, 100.0]


def test_a_step_that_fails_counts_for_what_was_done_of_it() -> None:
    """A handler that goes on after it does not claim more."""
    ctx, shown = context()
    ctx.steps(2)
    with suppress(KeyError), ctx.step("one"):
        ctx.progress(1, 4)
        raise KeyError
    assert shown[-1].percent == 12.5
    ctx.progress(0, 1, "on")  # of the job itself, which has steps: its message alone
    assert (shown[-1].percent, shown[-1].message) == (12.5, "on")


Parts = list[tuple[float, list[tuple[float, float | None]]]]
AMOUNTS = st.floats(0, 10)


@given(st.lists(st.tuples(AMOUNTS, st.lists(st.tuples(AMOUNTS, st.none() | AMOUNTS)))))
def test_the_percentage_never_goes_back_nor_beyond_the_end(parts: Parts) -> None:
    """Whatever the steps weigh and say."""
    ctx, shown = context()
    ctx.steps(5)
    for weight, said in parts:
        with ctx.step("part", weight):
            for current, total in said:
                ctx.progress(current, total)
    percents = [one.percent for one in shown]
    assert all(percent is not None and 0 <= percent <= 100 for percent in percents)
    assert percents == sorted(percents, key=lambda percent: percent or 0.0)


@pytest.mark.parametrize("weight", [-1, float("inf"), float("nan")])
def test_a_weight_is_an_amount(weight: float) -> None:
    """What is none is refused where it is said."""
    ctx, _ = context()
    with pytest.raises(ValueError, match="weight"):
        ctx.step("x", weight)
    with pytest.raises(ValueError, match="weight"):
        ctx.steps(weight)
