"""The API for job authors: the context, its progress, and the `job` decorator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Annotated, Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from headway import JobContext, Retry, job
from headway.context import Attempt
from headway.contracts import MAX_PROGRESS_MESSAGE_LENGTH, Progress, encode
from headway.testing import Recorder, run


class Order(Struct):
    """A payload."""

    count: int


def context() -> tuple[JobContext, list[Progress]]:
    """Return a context and the list of the progress that it reports."""
    recorder = Recorder()
    return JobContext(Attempt(job_id=uuid4(), kind="test"), recorder), recorder.progress


@given(st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 1e6))))
def test_the_percentage_never_goes_back(steps: list[tuple[float, float | None]]) -> None:
    """Whatever a handler reports, the percentage that watchers see never decreases."""
    ctx, reported = context()
    for current, total in steps:
        ctx.progress(current, total)
    percents = [progress.percent for progress in reported if progress.percent is not None]
    assert percents == sorted(percents)
    assert len(reported) == len(steps)


def test_a_lower_progress_still_updates_the_message() -> None:
    """A lower percentage does not move the bar back, but its message is reported."""
    ctx, reported = context()
    ctx.progress(50, 100, "Half", unit="%")
    ctx.progress(1, 10, "Again", unit="files")
    ctx.progress(60, 100, "On", unit="%")
    assert reported == [Progress(50, 100, "%", "Half"), Progress(50, 100, "%", "Again"), Progress(60, 100, "%", "On")]


def test_progress_without_a_total_has_no_percentage() -> None:
    """Indeterminate progress is reported unchanged and does not reset the percentage."""
    ctx, reported = context()
    ctx.progress(50, 100)
    ctx.progress(3, message="Looking")
    ctx.progress(40, 100)
    assert reported == [Progress(50, 100), Progress(3, None, None, "Looking"), Progress(50, 100)]


def test_a_long_message_is_truncated() -> None:
    """A message over the limit ends with an ellipsis; it does not fail the job."""
    ctx, reported = context()
    ctx.progress(1, 2, "x" * MAX_PROGRESS_MESSAGE_LENGTH)
    ctx.progress(1, 2, "x" * (MAX_PROGRESS_MESSAGE_LENGTH + 1))
    assert [progress.message for progress in reported] == [
        "x" * MAX_PROGRESS_MESSAGE_LENGTH,
        "x" * (MAX_PROGRESS_MESSAGE_LENGTH - 1) + "…",
    ]


async def tracked(ctx: JobContext, items: Any, total: float | None = None) -> list[Any]:
    """Return the items that `track` yields."""
    return [item async for item in ctx.track(items, total, "Counting", unit="items")]


async def test_a_list_is_tracked_by_its_length() -> None:
    """Every item is yielded once; the progress starts at 0 and ends at the length."""
    ctx, reported = context()
    assert await tracked(ctx, ["a", "b", "c", "d"]) == ["a", "b", "c", "d"]
    assert reported == [Progress(done, 4, "items", "Counting") for done in range(5)]


async def test_a_generator_is_tracked_without_a_total() -> None:
    """The items of an iterable without a length are counted, without a percentage."""
    ctx, reported = context()

    def numbers() -> Iterator[int]:
        yield from range(3)

    assert await tracked(ctx, numbers()) == [0, 1, 2]
    assert [(progress.current, progress.total) for progress in reported] == [(0, None), (1, None), (2, None), (3, None)]


async def test_an_async_iterator_is_tracked_with_a_given_total() -> None:
    """With a total from the author, an async iterator has a percentage."""
    ctx, reported = context()

    async def numbers() -> AsyncIterator[int]:
        for number in range(2):
            yield number

    assert await tracked(ctx, numbers(), total=2) == [0, 1]
    assert [progress.percent for progress in reported] == [0.0, 50.0, 100.0]


async def test_an_item_counts_when_its_iteration_ends() -> None:
    """An item does not count if the handler leaves the loop while it processes the item."""
    ctx, reported = context()
    async for item in ctx.track(range(10)):
        if item == 2:
            break
    assert reported[-1] == Progress(2, 10)


async def test_a_job_can_be_called_like_its_function() -> None:
    """Calling a job calls its handler, and the decorator's options are attributes of the job."""

    @job("order", max_attempts=3, timeout_s=60)
    async def order(_ctx: JobContext, payload: Order) -> int:
        return payload.count

    assert await order(context()[0], Order(7)) == 7
    assert (order.kind, order.max_attempts, order.timeout_s) == ("order", 3, 60)
    assert order.payload_type() is Order


def test_the_payload_type_defaults_to_any() -> None:
    """The payload's type is the second parameter's annotation, or Any without one."""

    async def plain(ctx, payload):  # type: ignore[no-untyped-def]
        return payload

    assert job("plain")(plain).payload_type() is Any


@pytest.mark.parametrize("parameters", [0, 1, 3])
def test_a_handler_must_take_two_arguments(parameters: int) -> None:
    """A handler with another signature is rejected when it is declared; the error names the job's kind."""
    names = ", ".join("abc"[:parameters])
    namespace: dict[str, Any] = {}
    exec(f"async def handler({names}): pass", namespace)
    with pytest.raises(TypeError, match="'strange': the handler must take two arguments"):
        job("strange")(namespace["handler"])


def test_constraints_of_the_parameter_itself_hold() -> None:
    """The payload's type includes the constraints with which the parameter is annotated."""

    @job("bounded")
    async def bounded(_ctx: JobContext, payload: Annotated[int, Meta(ge=1, extra={"unit": "photos"})]) -> int:
        return payload

    assert run(bounded, 1).result == 1
    with pytest.raises(msgspec.ValidationError, match=">= 1"):
        run(bounded, 0)


def test_only_the_annotation_of_the_payload_is_needed() -> None:
    """The types of context and result may be imported for type checkers only."""

    async def handler(ctx: Any, payload: Order) -> Any:
        return [ctx.kind, payload.count]

    handler.__annotations__ |= {"ctx": "OnlyForTypeCheckers", "return": "Missing"}
    tested = job("sketchy")(handler)
    assert (tested.payload_type(), tested.result_type()) == (Order, Any)
    assert run(tested, Order(2)).result == ["sketchy", 2]
    handler.__annotations__["payload"] = "OnlyForTypeCheckers"
    with pytest.raises(NameError, match="OnlyForTypeCheckers"):
        job("sketchy")(handler).payload_type()


class Callable:
    """A handler that is an object."""

    async def __call__(self, ctx: JobContext, payload: Order) -> int:
        """Return the count, with the attempt."""
        return payload.count * ctx.attempt

    async def method(self, _ctx: JobContext, payload: Order) -> int:
        """Return the count."""
        return payload.count


async def with_factor(factor: int, _ctx: JobContext, payload: Order) -> int:
    """Multiply the count."""
    return factor * payload.count


@pytest.mark.parametrize(
    "handler",
    [Callable(), Callable().method, partial(with_factor, 1), partial(Callable()), partial(partial(with_factor), 1)],
)
def test_an_async_handler_need_not_be_a_function(handler: Any) -> None:
    """A callable object, a method and a partial call are awaited, and have the payload's type."""
    tested = job("object")(handler)
    assert tested.is_async
    assert tested.payload_type() is Order
    assert run(tested, {"count": 3}).result == 3
    with pytest.raises(TypeError, match="must be a plain function"):
        job("object", process=True)(handler)


@pytest.mark.parametrize("after_s", [Decimal("1.5"), Fraction(3, 2)])
def test_the_delay_of_a_retry_may_be_any_number(after_s: Any) -> None:
    """It is converted when the exception is created."""
    assert type(Retry(after_s=after_s).after_s) is float


def test_a_long_unit_is_truncated() -> None:
    """A unit over the limit is shortened; it does not fail the job."""
    ctx, reported = context()
    ctx.progress(1, 2, unit="u" * 33)
    assert len(reported[-1].unit or "") <= 32


def test_a_message_with_a_lone_surrogate_can_be_encoded() -> None:
    """`os.listdir` may return names with lone surrogates, and a message may contain such a name."""
    ctx, reported = context()
    ctx.progress(1, 2, "Resizing caf\udce9.jpg")
    assert encode(reported[-1])


def test_any_type_of_number_can_be_reported() -> None:
    """A handler may report the numbers of another library, such as numpy's."""
    ctx, reported = context()
    ctx.progress(Fraction(1, 2), Fraction(1))  # type: ignore[arg-type]
    assert reported[-1].percent == 50.0
    assert encode(reported[-1])


@pytest.mark.parametrize("options", [{"max_attempts": 0}, {"max_attempts": 1001}, {"timeout_s": 0}, {"max_jobs": 2}])
def test_invalid_options_are_rejected(options: dict[str, Any]) -> None:
    """Options that the notifier would reject in every report raise an error at import."""

    async def handler(_ctx: JobContext, _payload: Any) -> None: ...

    with pytest.raises(ValueError, match="letters"):
        job("letters", **options)(handler)


def test_the_length_of_a_kind_is_limited() -> None:
    """An empty kind and a kind of more than 128 characters are rejected."""

    async def handler(_ctx: JobContext, _payload: Any) -> None: ...

    for kind in ("", "x" * 129):
        with pytest.raises(ValueError, match="characters"):
            job(kind)(handler)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"keep": "sometimes"}, "keep must be one of failed, always, never, not 'sometimes'"),
        ({"log": "everyone"}, "log must be one of details, watchers, not 'everyone'"),
        ({"on_end": "letters"}, "on_end names the job itself"),
    ],
)
def test_unknown_choices_and_a_job_that_follows_itself_are_rejected(options: dict[str, Any], problem: str) -> None:
    """The error names the kind and the option when the job is declared."""

    async def handler(_ctx: JobContext, _payload: Any) -> None: ...

    with pytest.raises(ValueError, match=f"job 'letters': {problem}"):
        job("letters", **options)(handler)


def test_the_follow_up_is_a_job_or_its_kind() -> None:
    """`on_end` is the kind of the follow-up; the defaults keep failed jobs and show logs to operators only."""

    async def handler(_ctx: JobContext, _payload: Any) -> None: ...

    mail = job("mail", keep="always", log="watchers")(handler)
    assert (mail.keep, mail.log, mail.on_end) == ("always", "watchers", None)
    pack = job("pack", on_end=mail)(handler)
    assert (pack.keep, pack.log, pack.on_end) == ("failed", "details", "mail")
    assert job("ship", on_end="mail")(handler).on_end == "mail"
