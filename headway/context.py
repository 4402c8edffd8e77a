"""What a running handler is given: what it may know of its job, and by what it shows how far that is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Sized
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.contracts import MAX_CHECKPOINT_BYTES, MAX_DEPTH, NULL, Json, Progress, encode, nesting_depth
from headway.steps import Step, aggregate

Item = TypeVar("Item")

YIELD_INTERVAL_S = 0.01
MAX_AMOUNT = 2**63 - 1
PLAIN_NUMBERS = frozenset({int, float})
_CURRENT_STEP: ContextVar[Step | None] = ContextVar("step", default=None)  # what the running task or thread is at


class Attempt(Struct, frozen=True, kw_only=True):
    """One try of a job, as its handler may know it."""

    job_id: UUID
    kind: str
    attempt: int = 1
    max_attempts: int = 1
    checkpoint: Json = NULL


class ProgressSink(Protocol):
    """What runs a handler."""

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Hear that there is something new to take, once until it is taken."""

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Keep a checkpoint; a thread is held until that is done."""


class _Completed:
    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]


def completed_awaitable() -> Awaitable[None]:
    """Return an awaitable that is done already."""
    return _Completed()


class JobContext:
    """What a running handler knows of its job, and how it shows progress.

    `cancelled` is why a handler in a thread shall stop, `None` while it shall not: `cancel` (somebody asked for it),
    `timeout`, `stop` (the worker stops; the job goes on elsewhere) or `lease` (another worker may have it). An
    `async def` handler gets a CancelledError with the same word as its argument. `checkpoint_value` is what the last
    checkpoint of an earlier attempt has kept, `None` when there was none. `log` is a logger of the standard library;
    the worker adds the job's id and kind to what it is told.
    """

    def __init__(self, attempt: Attempt, sink: ProgressSink) -> None:
        self.job_id = attempt.job_id
        self.kind = attempt.kind
        self.attempt = attempt.attempt
        self.max_attempts = attempt.max_attempts
        self.checkpoint_value: Any = msgspec.json.decode(attempt.checkpoint)
        self.log = logging.getLogger(f"headway.jobs.{attempt.kind}")
        self.cancelled: str | None = None
        self._sink = sink
        self._root = self._last = Step()
        self._collection_pending = False
        self._highest: Progress | None = None

    def progress(
        self, current: float, total: float | None = None, message: str | None = None, *, unit: str | None = None
    ) -> None:
        """Show that `current` of `total` is done; without a total, that nobody knows how much there is.

        Within a step, of that step. It costs next to nothing: what is shown meanwhile is replaced, and the percentage
        never goes back.

        Raises:
            ValueError: `current` or `total` is negative or not a finite number.
            CancelledError: the handler runs in a thread, and shall stop; its argument is the reason.
        """
        if self.cancelled is not None:
            raise asyncio.CancelledError(self.cancelled)
        if current.__class__ not in PLAIN_NUMBERS or not 0 <= current <= MAX_AMOUNT:
            current = _checked_amount(current)
        if total is not None and (total.__class__ not in PLAIN_NUMBERS or not 0 <= total <= MAX_AMOUNT):
            total = _checked_amount(total)
        if message is not None and message.__class__ is not str:
            message = str(message)
        step = _CURRENT_STEP.get() or self._root
        step.reported = (current, total, message, unit)
        self._last = step
        if not self._collection_pending:
            self._notify()

    def track(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        total: float | None = None,
        message: str | None = None,
        *,
        unit: str | None = None,
    ) -> Track[Item]:
        """Go through the items and show how many are done, like `tqdm`; `total` defaults to their length.

        `async for` in an `async def` handler, whatever the items are; a plain `for` in a thread or process.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        return Track(items, lambda done: self.progress(done, total, message, unit=unit))

    def steps(self, weights: float) -> None:
        """Say what the weights of the coming steps add up to: from then on there is a percentage.

        Within a step, of that step's own steps. Without it the steps are counted, of nobody knows how many.
        """
        if not 0 < weights < float("inf"):
            raise ValueError(f"weights must add up to something positive and finite: {weights!r}")
        (_CURRENT_STEP.get() or self._root).total_weight = weights

    def step(self, name: str, weight: float = 1.0) -> StepScope:
        """Do a part of the job within `with` or `async with`: progress in it is that of the step.

        Steps may lie within steps, and several may be at work at once, each in a task of its own.
        """
        if not 0 <= weight < float("inf"):
            raise ValueError(f"a step's weight must be finite and not negative: {weight!r}")
        return StepScope(self, name, weight)

    def checkpoint(self, value: Any) -> Awaitable[None]:
        """Keep a value, at most 8 KiB of JSON, for whoever goes on with the job: `checkpoint_value` of later attempts.

        `await` it in an `async def` handler; in a thread or process the call itself returns when the value is kept.

        Raises:
            ValueError: it is too large, or nested too deep.
            TypeError: it is not JSON.
            CancelledError: as for `progress`.
        """
        if self.cancelled is not None:
            raise asyncio.CancelledError(self.cancelled)
        text = encode(value)
        if len(text) > MAX_CHECKPOINT_BYTES or nesting_depth(text) > MAX_DEPTH:
            raise ValueError(
                f"a checkpoint has at most {MAX_CHECKPOINT_BYTES} bytes in {MAX_DEPTH} levels: {len(text)} bytes"
            )
        return self._sink.save_checkpoint(Json(text))

    def collect_progress(self) -> Progress:
        """Sum up what has been said, for whoever runs the handler."""
        self._collection_pending = False  # first, since a thread may say more meanwhile
        progress = aggregate(self._root, self._last)
        percent, highest = progress.percent, self._highest
        if percent is not None and highest is not None and percent < (highest.percent or 0):
            return Progress(highest.current, highest.total, highest.unit, progress.message)
        if percent is not None:
            self._highest = progress
        return progress

    def _notify(self) -> None:
        self._collection_pending = True
        self._sink.progress_changed(self.collect_progress)

    def _begin(self, name: str, weight: float) -> Step:
        if self.cancelled is not None:
            raise asyncio.CancelledError(self.cancelled)
        self._last = (_CURRENT_STEP.get() or self._root).begin(name, weight)
        if not self._collection_pending:
            self._notify()
        return self._last

    def _end(self, step: Step, *, completed: bool) -> None:
        step.end(completed=completed)
        self._last = step
        if not self._collection_pending:
            self._notify()


class StepScope:
    """A step of a job, while it is done."""

    def __init__(self, context: JobContext, name: str, weight: float) -> None:
        self._context = context
        self._arguments = (name, weight)

    def __enter__(self) -> None:
        self._outer = _CURRENT_STEP.get()
        self._step = self._context._begin(*self._arguments)  # noqa: SLF001 - its other half
        _CURRENT_STEP.set(self._step)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _CURRENT_STEP.set(self._outer)
        self._context._end(self._step, completed=kind is None)  # noqa: SLF001

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class Track(Generic[Item]):
    """Items, and how many of them are done."""

    def __init__(self, items: Iterable[Item] | AsyncIterable[Item], report: Callable[[int], None]) -> None:
        self._items = items
        self._report = report

    def __iter__(self) -> Iterator[Item]:
        if not isinstance(self._items, Iterable):
            raise TypeError("these items are asynchronous: go through them with `async for`")
        self._report(0)
        for done, item in enumerate(self._items, 1):
            yield item
            self._report(done)

    async def __aiter__(self) -> AsyncIterator[Item]:
        done = 0
        self._report(0)
        yielded_at = time.monotonic()
        async for item in _iterate(self._items):
            yield item
            done += 1
            self._report(done)
            if (
                time.monotonic() - yielded_at > YIELD_INTERVAL_S
            ):  # a loop that never waits would keep its own reports back
                await asyncio.sleep(0)
                yielded_at = time.monotonic()


def _checked_amount(number: float) -> float:
    """Return it as the wire has it: an `int` or a `float`, whatever number it is (numpy has its own)."""
    with suppress(OverflowError):
        amount = number if type(number) is int and number <= MAX_AMOUNT else float(number)
        if 0 <= amount < float("inf"):
            return amount
    raise ValueError(f"progress must be finite and not negative: {number!r}")


async def _iterate(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
