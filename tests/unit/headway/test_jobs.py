"""What a job's author writes with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from headway import JobContext, job
from headway.context import Attempt
from headway.contracts import MAX_PROGRESS_MESSAGE_LENGTH, Progress, encode
from headway.testing import Recorder


class Order(Struct):
    """A payload."""

    count: int


def context() -> tuple[JobContext, list[Progress]]:
    """Return a context and where what it shows is kept."""
    recorder = Recorder()
    return JobContext(Attempt(job_id=uuid4(), kind="test"), recorder), recorder.progress


@given(st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 1e6))))
def test_the_percentage_never_goes_back(steps: list[tuple[float, float | None]]) -> None:
    """Whatever a handler shows, the bars that a watcher sees only grow."""
    ctx, shown = context()
    for current, total in steps:
        ctx.progress(current, total)
    percents = [one.percent for one in shown if one.percent is not None]
    assert percents == sorted(percents)
    assert len(shown) == len(steps)


def test_a_step_back_still_shows_its_message() -> None:
    """When the bar stays where it is, the text below it goes on."""
    ctx, shown = context()
    ctx.progress(50, 100, "Half", unit="%")
    ctx.progress(1, 10, "Again", unit="files")
    ctx.progress(60, 100, "On", unit="%")
    assert shown == [Progress(50, 100, "%", "Half"), Progress(50, 100, "%", "Again"), Progress(60, 100, "%", "On")]


def test_without_a_total_nobody_knows_the_percentage() -> None:
    """Indeterminate progress is shown as it is, and does not reset the bar."""
    ctx, shown = context()
    ctx.progress(50, 100)
    ctx.progress(3, message="Looking")
    ctx.progress(40, 100)
    assert shown == [Progress(50, 100), Progress(3, None, None, "Looking"), Progress(50, 100)]


def test_a_long_message_is_cut() -> None:
    """What is too long for the wire ends with an ellipsis instead of failing the job."""
    ctx, shown = context()
    ctx.progress(1, 2, "x" * MAX_PROGRESS_MESSAGE_LENGTH)
    ctx.progress(1, 2, "x" * (MAX_PROGRESS_MESSAGE_LENGTH + 1))
    assert [one.message for one in shown] == [
        "x" * MAX_PROGRESS_MESSAGE_LENGTH,
        "x" * (MAX_PROGRESS_MESSAGE_LENGTH - 1) + "…",
    ]


@pytest.mark.parametrize("bad", [-1, -0.001, float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_no_amount_are_refused(bad: float) -> None:
    """Negative and endless amounts raise where they are said, and nothing is shown."""
    ctx, shown = context()
    with pytest.raises(ValueError, match="finite and not negative"):
        ctx.progress(bad, 100)
    with pytest.raises(ValueError, match="finite and not negative"):
        ctx.progress(1, bad)
    assert shown == []


async def tracked(ctx: JobContext, items: Any, total: float | None = None) -> list[Any]:
    """Go through the items with `track`."""
    return [item async for item in ctx.track(items, total, "Going", unit="items")]


async def test_a_list_is_tracked_by_its_length() -> None:
    """Every item is yielded once, the bar begins at nothing and ends full."""
    ctx, shown = context()
    assert await tracked(ctx, ["a", "b", "c", "d"]) == ["a", "b", "c", "d"]
    assert shown == [Progress(done, 4, "items", "Going") for done in range(5)]


async def test_a_generator_is_tracked_without_a_total() -> None:
    """What has no length is counted, with no percentage."""
    ctx, shown = context()

    def numbers() -> Iterator[int]:
        yield from range(3)

    assert await tracked(ctx, numbers()) == [0, 1, 2]
    assert [(one.current, one.total) for one in shown] == [(0, None), (1, None), (2, None), (3, None)]


async def test_an_async_iterator_is_tracked_with_the_total_it_is_given() -> None:
    """A total that only the author knows makes a bar of it."""
    ctx, shown = context()

    async def numbers() -> AsyncIterator[int]:
        for number in range(2):
            yield number

    assert await tracked(ctx, numbers(), total=2) == [0, 1]
    assert [one.percent for one in shown] == [0.0, 50.0, 100.0]


async def test_an_item_counts_once_it_is_done() -> None:
    """A loop that is left early has not done the item that it was at."""
    ctx, shown = context()
    async for item in ctx.track(range(10)):
        if item == 2:
            break
    assert shown[-1] == Progress(2, 10)


async def test_a_job_is_still_its_function() -> None:
    """A test may call a handler as it would any function, and the decorator's settings are kept."""

    @job("order", max_attempts=3, timeout_s=60)
    async def order(_ctx: JobContext, payload: Order) -> int:
        return payload.count

    assert await order(context()[0], Order(7)) == 7
    assert (order.kind, order.max_attempts, order.timeout_s) == ("order", 3, 60)
    assert order.payload_type() is Order


def test_a_payload_without_an_annotation_may_be_anything() -> None:
    """The payload's type is the second parameter's annotation, if there is one."""

    async def plain(ctx, payload):  # type: ignore[no-untyped-def]
        return payload

    assert job("plain")(plain).payload_type() is Any


@pytest.mark.parametrize("parameters", [0, 1, 3])
def test_a_handler_takes_a_context_and_a_payload(parameters: int) -> None:
    """A handler that could never be called is refused when it is declared, by the job's name."""
    names = ", ".join("abc"[:parameters])
    space: dict[str, Any] = {}
    exec(f"async def handler({names}): pass", space)
    with pytest.raises(TypeError, match="'strange': the handler must take two arguments"):
        job("strange")(space["handler"])


def test_a_long_unit_is_cut() -> None:
    """A unit that is too long for the wire does not cost the job its ending."""
    ctx, shown = context()
    ctx.progress(1, 2, unit="u" * 33)
    assert len(shown[-1].unit or "") <= 32


def test_the_name_of_a_strange_file_can_be_shown() -> None:
    """A message with a lone surrogate, as `os.listdir` makes them, can be reported."""
    ctx, shown = context()
    ctx.progress(1, 2, "Resizing caf\udce9.jpg")
    assert encode(shown[-1])


def test_any_kind_of_number_can_be_shown() -> None:
    """A number of another library, such as numpy's, can be reported."""
    ctx, shown = context()
    ctx.progress(Fraction(1, 2), Fraction(1))  # type: ignore[arg-type]
    assert shown[-1].percent == 50.0
    assert encode(shown[-1])


def test_a_number_too_large_for_a_float_is_refused_like_any_other() -> None:
    """The error of `progress` is always a `ValueError`."""
    ctx, _shown = context()
    with pytest.raises(ValueError, match="finite"):
        ctx.progress(10**400, 10**401)


@pytest.mark.parametrize("options", [{"max_attempts": 0}, {"max_attempts": 1001}, {"timeout_s": 0}])
def test_options_that_no_report_could_carry_are_refused(options: dict[str, Any]) -> None:
    """What the notifier would refuse for every run is told to the author at import."""

    async def handler(_ctx: JobContext, _payload: Any) -> None: ...

    with pytest.raises(ValueError, match="letters"):
        job("letters", **options)(handler)


def test_a_kind_has_a_length() -> None:
    """A kind of no or too many characters is refused."""

    async def handler(_ctx: JobContext, _payload: Any) -> None: ...

    for kind in ("", "x" * 129):
        with pytest.raises(ValueError, match="characters"):
            job(kind)(handler)
