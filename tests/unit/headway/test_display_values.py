"""Display never fails a job: whatever a handler reports becomes text and finite numbers, and is logged once."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import JobContext
from headway.context import Attempt
from headway.contracts import MAX_PROGRESS_MESSAGE_LENGTH, Progress, decode, encode
from headway.testing import Recorder
from headway.type_name import type_name

NAN, INFINITY = float("nan"), float("inf")


class Unit(Enum):
    """A unit that is no text."""

    FILES = 1

    def __str__(self) -> str:
        return "files"


class Unprintable:
    """An object that cannot be converted to a text or a number."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __float__ = __index__ = __str__


class UnreadableType(type):
    """The type of a class whose attributes cannot be read."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Unreadable(Unprintable, metaclass=UnreadableType):
    """An object of which neither the text, the class nor the name of its type can be read."""

    __class__ = property(Unprintable.__str__)


class Returns:
    """An object whose text is given."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


class Mischief(str):
    """A text that cannot be measured."""

    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError("no length")


TEXTS = [
    (2023, "2023"),
    (Unit.FILES, "files"),
    (Path("a.jpg"), "a.jpg"),
    (Decimal("1.50"), "1.50"),
    (b"caf\xe9", r"b'caf\xe9'"),
    (Returns("caf\udce9"), "caf?"),
    (Returns("x" * 10**6), "x" * (MAX_PROGRESS_MESSAGE_LENGTH - 1) + "…"),
    (Returns(""), ""),
    (Unprintable(), "Unprintable"),
    (Mischief("a"), "a"),
]
NUMBERS = [
    True,
    3,
    2**70,
    10**400,
    -1,
    0.5,
    1e300,
    NAN,
    INFINITY,
    -INFINITY,
    Decimal("2.5"),
    Decimal("NaN"),
    Fraction(1, 3),
]
NOT_NUMBERS = ["7", "many", b"7", None, [], 1j, Unit.FILES, Unprintable(), object(), float]


def context(cancelled: str | None = None) -> tuple[JobContext, list[Progress]]:
    """Return a context and the list of the progress that it reports."""
    recorder = Recorder()
    ctx = JobContext(Attempt(job_id=uuid4(), kind="test"), recorder)
    ctx.cancelled = cancelled
    return ctx, recorder.progress


def assert_valid(reported: list[Progress]) -> None:
    """Assert that the notifier accepts each progress, and that no bar exceeds 100 % or goes back."""
    for progress in reported:
        assert decode(encode(progress), Progress) == progress
        assert progress.total is None or progress.current <= progress.total
    percents = [progress.percent for progress in reported if progress.percent is not None]
    assert percents == sorted(percents)


@pytest.mark.parametrize(
    ("current", "total"),
    [
        (2**70 - 1, 2**70),
        (2**63 - 2, 2**63 - 1),
        (Decimal("0.99999999999999999999"), 1),
        (Decimal(99_996), Decimal(100_000)),
        (Fraction(10**30 - 1, 10**30), 1),
        (2**62 - 1, Decimal(2**62)),
    ],
    ids=str,
)
def test_almost_the_total_is_not_the_total(current: Any, total: Any) -> None:
    """A conversion to a plain number does not complete a job."""
    ctx, reported = context()
    ctx.progress(current, total)
    assert reported[-1].total is not None
    assert reported[-1].current < reported[-1].total
    assert reported[-1].percent == 99.99
    ctx.progress(total, total)
    assert reported[-1].percent == 100.0
    assert_valid(reported)


@pytest.mark.parametrize(("value", "text"), TEXTS, ids=lambda value: type(value).__name__)
def test_any_object_is_displayed_as_its_text(value: Any, text: str) -> None:
    """A message, a unit and the name of a step are converted with `str`; a type's name replaces a text that raises."""
    ctx, reported = context()
    ctx.progress(1, 2, value, unit=value)
    assert reported[-1].message == text
    assert (reported[-1].unit or "")[:10] == text[:10]
    with ctx.step(value):
        assert (reported[-1].message or "") == text
    assert_valid(reported)


def test_no_attribute_of_a_value_is_needed(caplog: pytest.LogCaptureFixture) -> None:
    """A metaclass may raise where the name of a type is read, and a class where its own type is."""
    ctx, reported = context()
    value: Any = Unreadable()
    ctx.steps(value)
    with ctx.step(value, weight=value):
        ctx.progress(value, value, value, unit=value)
    assert {progress.message for progress in reported} == {"Unreadable", "Unreadable: Unreadable"}
    assert [vars(record)["type"] for record in caplog.records] == ["Unreadable"]
    assert_valid(reported)


def test_name_of_a_type_is_plain_text() -> None:
    """A type may be named by an instance of a subclass of `str`, whose methods may raise."""

    class EvilName(str):
        __slots__ = ()
        __str__ = __format__ = __len__ = Unprintable.__str__  # type: ignore[assignment]

    name = type_name(type(EvilName("Evil"), (), {})())
    assert (type(name), f"<{name}>") == (str, "<Evil>")


def test_author_values_are_converted_in_the_call() -> None:
    """An object is evaluated in the handler, and not later in a task of the worker."""
    evaluations: list[type] = []

    class Counted:
        def __str__(self) -> str:
            evaluations.append(str)
            return "text"

        def __float__(self) -> float:
            evaluations.append(float)
            return 1.0

    class SilentSink(Recorder):
        def progress_changed(self, collect: Any) -> None:
            """Called when progress has changed: collect nothing."""

    value: Any = Counted()
    ctx = JobContext(Attempt(job_id=uuid4(), kind="test"), SilentSink())
    ctx.steps(value)
    with ctx.step(value, weight=value):
        ctx.progress(value, value, value, unit=value)
    count = len(evaluations)
    assert count >= 7
    assert ctx.collect_progress() == Progress(100.0, 100, "%", "text: text")
    assert len(evaluations) == count


@pytest.mark.parametrize(
    ("current", "total", "expected"),
    [
        (-5, 100, (0, 100)),
        (-0.001, None, (0, None)),
        (120, 100, (100, 100)),
        (5, 0, (0, 0)),
        (1, -100, (1, None)),
        (1, NAN, (1, None)),
        (1, INFINITY, (1, None)),
        (1, "many", (1, None)),
        (NAN, 100, (40, 100)),
        (INFINITY, 100, (40, 100)),
        (None, 100, (40, 100)),
        ("many", 100, (40, 100)),
        (None, None, (40, None)),
        (None, 30, (30, 30)),
        (True, 1, (1, 1)),
        ("50", "100", (50, 100)),
        (Decimal("62.5"), Fraction(100), (62.5, 100)),
        (10**400, 10**401, (40, None)),
    ],
)
def test_amounts_are_moved_into_their_range(current: Any, total: Any, expected: tuple[float, float | None]) -> None:
    """An amount is at least 0 and at most the total. One that is no number keeps the previous one; a total has none."""
    ctx, reported = context()
    ctx.progress(40)
    ctx.progress(current, total)
    assert (reported[-1].current, reported[-1].total) == expected
    assert_valid(reported)


@given(
    st.lists(
        st.tuples(st.sampled_from([*NUMBERS, *NOT_NUMBERS]), st.sampled_from([*NUMBERS, *NOT_NUMBERS]), st.booleans())
    )
)
def test_no_value_fails_the_job(calls: list[tuple[Any, Any, bool]]) -> None:
    """Whatever the handler passes, each call succeeds, and what is reported is valid."""
    ctx, reported = context()
    for first, second, in_step in calls:
        ctx.progress(first, second, first, unit=second)
        ctx.steps(second)
        if in_step:
            with ctx.step(first, weight=second):
                ctx.steps(first)
                ctx.progress(second, first)
    assert_valid(reported)


@pytest.mark.parametrize("weight", [Decimal("0.5"), Fraction(1, 2), "0.5", 0.5])
def test_a_weight_may_be_any_number(weight: Any) -> None:
    """A step's weight, and the total weight, are converted like amounts."""
    ctx, reported = context()
    ctx.steps(weight)
    with ctx.step("half", weight=weight):
        ctx.progress(weight, 1)
        assert reported[-1].percent == 50.0
    assert reported[-1].percent == 100.0


@pytest.mark.parametrize(
    ("weight", "percent"), [(-1, 0.0), (NAN, 50.0), (None, 50.0), ("x", 50.0), (2.5, 100.0), (1e308, 100.0)]
)
def test_an_invalid_weight_is_replaced(weight: Any, percent: float) -> None:
    """A negative weight counts as 0, one that is no number as 1, and the steps together at most as their total."""
    ctx, reported = context()
    ctx.steps(2)
    with ctx.step("one", weight=weight):
        pass
    assert reported[-1].percent == percent


@pytest.mark.parametrize("weights", [0, -1, NAN, INFINITY, None, "x"])
def test_an_invalid_total_weight_is_unknown(weights: Any) -> None:
    """The steps are then counted."""
    ctx, reported = context()
    ctx.steps(weights)
    with ctx.step("one"):
        pass
    assert reported[-1] == Progress(1.0, None, "steps", "one")


def test_an_adjustment_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The line names the problem, the type and the place in the handler, and not the value."""
    ctx, _reported = context()
    with caplog.at_level(logging.WARNING):
        ctx.progress(Fraction(1, 2), Decimal(1), Path("a"))  # type: ignore[arg-type]
        assert caplog.records == []
        for secret in (-5.5, NAN, -7):
            ctx.progress(secret, 100)
            ctx.steps(secret)
    [record] = caplog.records
    assert (record.name, record.getMessage()) == ("headway.jobs.test", "progress_adjusted")
    assert (record.__dict__["problem"], record.__dict__["type"]) == ("invalid amount", "float")
    assert record.__dict__["where"].startswith(f"{__file__}:")
    assert record.__dict__["where"].endswith(" test_an_adjustment_is_logged_once")
    assert "5.5" not in str(record.__dict__["where"])


@pytest.mark.parametrize("method", ["track", "steps", "async step", "overweight"])
async def test_the_logged_place_is_in_the_handler(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """The place is where the handler uses the context, not inside the library."""
    ctx, _reported = context()
    if method == "track":
        async for _ in ctx.track([1, 2], total=1):
            pass
    elif method == "steps":
        ctx.steps(0)
    elif method == "async step":
        async with ctx.step("a", weight=-1):
            pass
    else:
        ctx.steps(0.3)
        for weight in (0.1, 0.2):
            async with ctx.step("a", weight=weight):
                pass
        assert caplog.records == []
        async with ctx.step("b", weight=0.1):
            pass
    [record] = caplog.records
    assert " test_the_logged_place_is_in_the_handler" in record.__dict__["where"]


def test_a_scope_can_be_entered_twice() -> None:
    """Each time it is a new step, also inside itself."""
    ctx, reported = context()
    scope = ctx.step("again")
    with scope, scope:
        ctx.progress(1, 2)
        assert reported[-1] == Progress(0.0, None, "steps", "again › again")  # noqa: RUF001
    with scope:
        pass
    assert reported[-1] == Progress(2.0, None, "steps", "again")


@pytest.mark.parametrize("call", [lambda ctx: ctx.progress(-5), lambda ctx: ctx.step(2023).__enter__()])
def test_a_cancelled_thread_stops_whatever_it_reports(call: Any) -> None:
    """The CancelledError comes before any conversion."""
    ctx, reported = context(cancelled="stop")
    with pytest.raises(asyncio.CancelledError, match="stop"):
        call(ctx)
    assert reported == []


@pytest.mark.parametrize("value", [NAN, [1, {"a": INFINITY}], None])
def test_a_checkpoint_is_stored_as_it_is_or_refused(value: Any) -> None:
    """NaN and infinity raise a ValueError in the call, because JSON would turn them into null."""
    recorder = Recorder()
    ctx = JobContext(Attempt(job_id=uuid4(), kind="test"), recorder)
    if value is None:
        ctx.checkpoint(value)
        assert recorder.checkpoints == [None]
    else:
        with pytest.raises(ValueError, match=r"^checkpoint(\[1\]\.a)? is (nan|inf), which JSON cannot represent$"):
            ctx.checkpoint(value)
        assert recorder.checkpoints == []
