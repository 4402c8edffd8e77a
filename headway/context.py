"""The context of a running handler: facts about its job, progress, steps and checkpoints."""

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

from headway.contracts import MAX_CHECKPOINT_BYTES, MAX_NESTING_DEPTH, NULL, Json, Progress, encode, nesting_depth
from headway.steps import Step, aggregate

Item = TypeVar("Item")

YIELD_INTERVAL_S = 0.01
MAX_AMOUNT = 2**63 - 1
PLAIN_NUMBERS = frozenset({int, float})
_CURRENT_STEP: ContextVar[Step | None] = ContextVar("step", default=None)  # of the running task or thread


class Attempt(Struct, frozen=True, kw_only=True):
    """The facts about an attempt that its handler gets.

    `checkpoint` is the JSON that an earlier attempt saved. `progress` is what this attempt had reached when its worker
    released it; None if the attempt starts now.
    """

    job_id: UUID
    kind: str
    attempt: int = 1
    max_attempts: int = 1
    checkpoint: Json = NULL
    progress: Progress | None = None


class ProgressSink(Protocol):
    """Receives the progress and the checkpoints of a handler."""

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when progress has changed; not called again until `collect` has been called."""

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Save a checkpoint. In a thread or process the call blocks until it is saved."""


class _Completed:
    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]


def completed_awaitable() -> Awaitable[None]:
    """Return an awaitable that has already completed."""
    return _Completed()


class JobContext:
    """The handler's view of its job.

    Attributes:
        job_id, kind, attempt, max_attempts: which job this is, and which of its attempts (counted from 1).
        checkpoint_value: the value of the last checkpoint of an earlier attempt, None if there is none.
        cancelled: why a handler in a thread must stop, None while it may continue: `cancel` (a watcher cancelled the
            job), `timeout`, `stop` (the worker stops; another one continues the job) or `lease` (another worker may
            have the job). An `async def` handler gets a CancelledError with the same reason as its argument.
        log: a standard logger; the worker adds the job's id and kind to its records.
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
        self._highest = attempt.progress
        self._resumed = attempt.progress is not None

    def progress(
        self, current: float, total: float | None = None, message: str | None = None, *, unit: str | None = None
    ) -> None:
        """Report that `current` of `total` units are done; without a total the bar is indeterminate.

        Inside a step, the progress is that of the step. You can call it as often as you like: only the latest
        progress is sent, and the percentage never goes back.

        Raises:
            ValueError: `current` or `total` is negative or not finite.
            CancelledError: the handler runs in a thread and must stop; the argument is the reason (see `cancelled`).
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
        """Iterate over items and report how many are done, like `tqdm`; `total` defaults to `len(items)`.

        Use `async for` in an `async def` handler, for any iterable, and a plain `for` in a thread or process:

            async for path in ctx.track(paths, message="Resizing"):
                await resize(path)
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        return Track(items, lambda done: self.progress(done, total, message, unit=unit))

    def steps(self, weights: float) -> None:
        """Set the total weight of the steps that follow, so that the progress is a percentage.

        Inside a step, set the total weight of its substeps. Without a total weight, completed steps are counted.

        Raises:
            ValueError: the total is not positive and finite.
        """
        if not 0 < weights < float("inf"):
            raise ValueError(f"the total weight must be positive and finite: {weights!r}")
        (_CURRENT_STEP.get() or self._root).total_weight = weights

    def step(self, name: str, weight: float = 1.0) -> StepScope:
        """Return a context manager (`with` or `async with`) for a part of the job; progress inside it is the step's.

        Steps can be nested, and several can run at the same time, each in its own task.

        Raises:
            ValueError: the weight is negative or not finite.
        """
        if not 0 <= weight < float("inf"):
            raise ValueError(f"a step's weight must be finite and not negative: {weight!r}")
        return StepScope(self, name, weight)

    def checkpoint(self, value: Any) -> Awaitable[None]:
        """Save a value, at most 8 KiB as JSON; later attempts get it as `checkpoint_value`.

        `await` it in an `async def` handler. In a thread or process, the call returns when the value is saved.

        Raises:
            ValueError: the value is too large or nested too deep.
            TypeError: the value cannot be encoded as JSON.
            CancelledError: as for `progress`.
        """
        if self.cancelled is not None:
            raise asyncio.CancelledError(self.cancelled)
        text = encode(value)
        if len(text) > MAX_CHECKPOINT_BYTES or nesting_depth(text) > MAX_NESTING_DEPTH:
            raise ValueError(
                f"a checkpoint may have {MAX_CHECKPOINT_BYTES} bytes in {MAX_NESTING_DEPTH} levels,"
                f" not {len(text)} bytes"
            )
        return self._sink.save_checkpoint(Json(text))

    def collect_progress(self) -> Progress:
        """Return the progress reported so far; called by the worker."""
        self._collection_pending = False  # first: the handler's thread may report progress during this call
        progress = aggregate(self._root, self._last)
        highest = self._highest
        if highest is not None and self._is_behind(progress, highest):
            return Progress(highest.current, highest.total, highest.unit, progress.message)
        if progress.percent is not None or self._resumed:
            self._highest = progress
        return progress

    def _is_behind(self, progress: Progress, highest: Progress) -> bool:
        """Return whether the progress would go back: the percentage or, after a release, any progress."""
        if progress.percent is not None:
            return progress.percent < (highest.percent or 0)
        return self._resumed and (highest.percent is not None or progress.current < highest.current)

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
    """The context manager of a step."""

    def __init__(self, context: JobContext, name: str, weight: float) -> None:
        self._context = context
        self._arguments = (name, weight)

    def __enter__(self) -> None:
        self._outer = _CURRENT_STEP.get()
        self._step = self._context._begin(*self._arguments)  # noqa: SLF001 - one unit with JobContext
        _CURRENT_STEP.set(self._step)

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        _CURRENT_STEP.set(self._outer)
        self._context._end(self._step, completed=error_type is None)  # noqa: SLF001

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(error_type, error, traceback)


class Track(Generic[Item]):
    """An iterable that reports how many of its items are done."""

    def __init__(self, items: Iterable[Item] | AsyncIterable[Item], report: Callable[[int], None]) -> None:
        self._items = items
        self._report = report

    def __iter__(self) -> Iterator[Item]:
        if not isinstance(self._items, Iterable):
            raise TypeError("these items are asynchronous: iterate with `async for`")
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
            if time.monotonic() - yielded_at > YIELD_INTERVAL_S:
                await asyncio.sleep(0)  # lets the event loop send reports although the handler never waits
                yielded_at = time.monotonic()


def _checked_amount(number: float) -> float:
    """Return any kind of number (numpy has its own) as an `int` or a `float`; raise ValueError if it is not valid."""
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
