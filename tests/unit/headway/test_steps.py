"""Weighted steps: the progress of the steps adds up to the progress of the job."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import JobContext
from headway.context import Attempt
from headway.contracts import Progress
from headway.testing import Recorder


def context() -> tuple[JobContext, list[Progress]]:
    """Return a context and the list of the progress that it reports."""
    recorder = Recorder()
    return JobContext(Attempt(job_id=uuid4(), kind="test"), recorder), recorder.progress


async def test_a_step_contributes_its_weight() -> None:
    """Progress within a step moves the percentage in proportion to the step's weight."""
    ctx, reported = context()
    ctx.steps(4)
    async with ctx.step("download"):
        ctx.progress(1, 2, "a.jpg")
    async with ctx.step("resize", weight=3):
        async for _ in ctx.track(range(3), message="photos"):
            pass
    assert [(progress.percent, progress.message) for progress in reported] == [
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
    assert {(progress.total, progress.unit) for progress in reported} == {(100, "%")}


def test_steps_can_be_nested() -> None:
    """Nested steps divide their parent's share, and the message has their path; a thread uses a plain `with`."""
    ctx, reported = context()
    ctx.steps(2)
    with ctx.step("pack"):
        ctx.steps(2)
        with ctx.step("zip"):
            ctx.progress(1, 2, "a.zip")
            assert (reported[-1].percent, reported[-1].message) == (12.5, "pack › zip: a.zip")  # noqa: RUF001
        assert reported[-1].percent == 25.0
    assert reported[-1].percent == 50.0


@pytest.mark.parametrize(
    ("current", "total"),
    [(99_996, 100_000), (0.99999, 1), (2**60 - 1, 2**60), (Decimal("99.99999999999999999999"), 100)],
    ids=str,
)
@pytest.mark.parametrize("weights", [(1, 1), (0.1, 0.1), (1, 2**40), (3, 7)], ids=str)
def test_percentage_is_100_only_when_all_steps_are_complete(
    current: Any, total: Any, weights: tuple[float, float]
) -> None:
    """A step that is almost complete does not complete the job, and a completed one does despite rounding errors."""
    ctx, reported = context()
    ctx.steps(sum(weights))
    with ctx.step("first", weight=weights[1]):
        pass
    with ctx.step("last", weight=weights[0]):
        ctx.progress(current, total)
        assert 0 < (reported[-1].percent or 0) <= 99.99
        with ctx.step("nested"):
            pass
        assert reported[-1].percent != 100.0
    assert (reported[-1].percent, reported[-1].current, reported[-1].total) == (100.0, 100, 100)


@pytest.mark.parametrize("weight", [0.1, 1 / 3, 1e-3, 1, 2**50], ids=str)
def test_sum_of_weights_reaches_its_total(weight: float) -> None:
    """Equal steps complete the job exactly with the last one."""
    ctx, reported = context()
    count = 1000
    ctx.steps(count * weight)
    for _ in range(count):
        assert not reported or reported[-1].percent != 100.0
        with ctx.step("part", weight=weight):
            pass
    assert reported[-1].percent == 100.0


def test_steps_without_a_total_weight_are_counted() -> None:
    """Without a total weight the job reports the completed weight, and no percentage."""
    ctx, reported = context()
    with ctx.step("one"):
        ctx.progress(1, 2)
    with ctx.step("two", weight=2):
        pass
    assert [(progress.current, progress.total, progress.unit) for progress in reported][-1] == (3.0, None, "steps")
    assert [progress.current for progress in reported] == [0.0, 0.5, 1.0, 1.0, 3.0]


async def test_concurrent_steps_add_up() -> None:
    """Each task reports the progress of its own step."""
    ctx, reported = context()
    ctx.steps(2)
    barrier = asyncio.Barrier(2)

    async def part(name: str) -> None:
        async with ctx.step(name):
            await barrier.wait()
            ctx.progress(1, 2, "half")
            await barrier.wait()

    await asyncio.gather(part("a"), part("b"))
    assert {progress.message for progress in reported} == {"a", "b", "a: half", "b: half"}
    assert [progress.percent for progress in reported] == [0.0, 0.0, 25.0, 50.0, 75.0, 100.0]


def test_a_failed_step_counts_only_its_progress() -> None:
    """If the handler continues after a failed step, the job has only the progress that the step reached."""
    ctx, reported = context()
    ctx.steps(2)
    with suppress(KeyError), ctx.step("one"):
        ctx.progress(1, 4)
        raise KeyError
    assert reported[-1].percent == 12.5
    ctx.progress(0, 1, "on")  # outside of a step: only the message is used
    assert (reported[-1].percent, reported[-1].message) == (12.5, "on")


Parts = list[tuple[float, list[tuple[float, float | None]]]]
AMOUNTS = st.floats(0, 10)


@given(st.lists(st.tuples(AMOUNTS, st.lists(st.tuples(AMOUNTS, st.none() | AMOUNTS)))))
def test_the_percentage_never_decreases_and_is_at_most_100(parts: Parts) -> None:
    """The percentage stays in range for all weights and amounts."""
    ctx, reported = context()
    ctx.steps(5)
    for weight, reports in parts:
        with ctx.step("part", weight):
            for current, total in reports:
                ctx.progress(current, total)
    percents = [progress.percent for progress in reported]
    assert all(percent is not None and 0 <= percent <= 100 for percent in percents)
    assert percents == sorted(percents, key=lambda percent: percent or 0.0)
