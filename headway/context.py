"""The context of a running handler: facts about its job, progress, steps and checkpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable
from contextvars import ContextVar
from inspect import currentframe
from types import TracebackType
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.contracts import MAX_CHECKPOINT_BYTES, NULL, Json, Progress, StepTimes, encode_value
from headway.display_values import below, is_less, to_amount, to_text
from headway.step_log import StepLog
from headway.steps import Step, aggregate
from headway.track import Track
from headway.type_name import type_name

Item = TypeVar("Item")

MAX_AMOUNT = 2**63 - 1
_CURRENT_STEP: ContextVar[Step | None] = ContextVar("step", default=None)  # of the running task or thread


class Attempt(Struct, frozen=True, kw_only=True):
    """The facts about an attempt that its handler gets.

    `checkpoint` is the JSON that an earlier attempt saved. `progress` is what this attempt had reached when its worker
    released it; None if the attempt starts now. `traceparent` is the attempt's place in its trace, if it has one.
    """

    job_id: UUID
    kind: str
    attempt: int = 1
    max_attempts: int = 1
    checkpoint: Json = NULL
    progress: Progress | None = None
    traceparent: str | None = None


class ProgressSink(Protocol):
    """Receives the progress, the steps and the checkpoints of a handler."""

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when progress has changed; not called again until `collect` has been called."""

    def steps_started(self, collect: Callable[[], tuple[StepTimes, ...]]) -> None:
        """Called when the first step begins; `collect`, which is thread-safe, returns all steps so far."""

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
        traceparent: the trace that the job belongs to (W3C Trace Context), for requests to other services; None if it
            belongs to none.
        checkpoint_value: the value of the last checkpoint of an earlier attempt, None without a checkpoint.
        cancelled: why a handler in a thread must stop, None while it may continue: `cancel` (a watcher cancelled the
            job), `timeout`, `stop` (the worker stops; another one continues the job) or `lease` (another worker may
            have the job). An `async def` handler gets a CancelledError with the same reason as its argument.
        log: a standard logger; the worker adds the job's id and kind to its records. What the handler logs, with any
            logger, and what it prints is also kept as the log of its job, at most 64 KiB.
    """

    def __init__(self, attempt: Attempt, sink: ProgressSink) -> None:
        self.job_id = attempt.job_id
        self.kind = attempt.kind
        self.attempt = attempt.attempt
        self.max_attempts = attempt.max_attempts
        self.traceparent = attempt.traceparent
        self.checkpoint_value: Any = msgspec.json.decode(attempt.checkpoint)
        self.log = logging.getLogger(f"headway.jobs.{attempt.kind}")
        self.cancelled: str | None = None
        self._sink = sink
        self._root = self._last = Step()
        self._step_log: StepLog | None = None
        self._collection_pending = False
        self._highest = attempt.progress
        self._resumed = attempt.progress is not None
        self._adjustment_logged = False

    def progress(
        self, current: float, total: float | None = None, message: str | None = None, *, unit: str | None = None
    ) -> None:
        """Report that `current` of `total` units are done; without a total the bar is indeterminate.

        Inside a step, the progress is that of the step. You can call it as often as you like: only the latest
        progress is sent, and the percentage never goes back.

        No value fails the job. Texts are converted with `str`. Numbers are moved into their range, which is logged
        once: `current` to 0 or to the total; if it is not a finite number, it stays as it was. A total that is not
        a finite number, or negative, counts as unknown.

        Raises:
            CancelledError: the handler must stop; the argument is the reason (see `cancelled`). Outside threads, this
                is only raised when the lease of the job is over.
        """
        if self.cancelled is not None:
            raise asyncio.CancelledError(self.cancelled)
        step = _CURRENT_STEP.get() or self._root
        if (
            (type(current) is not int and type(current) is not float)
            or not 0 <= current <= MAX_AMOUNT
            or not (total is None or ((type(total) is int or type(total) is float) and current <= total <= MAX_AMOUNT))
        ):
            current, total = self._valid_amounts(current, total, step)
        if message is not None and type(message) is not str:
            message = to_text(message)
        if unit is not None and type(unit) is not str:
            unit = to_text(unit)
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

        The length is read when the iteration begins. If that raises, the total is unknown.

        Use `async for` in an `async def` handler, for any iterable, and a plain `for` in a thread or process:

            async for path in ctx.track(paths, message="Resizing"):
                await resize(path)
        """
        return Track(items, total, lambda done, total: self.progress(done, total, message, unit=unit))

    def steps(self, weights: float) -> None:
        """Set the total weight of the steps that follow, so that the progress is a percentage.

        Inside a step, set the total weight of its substeps. Without a total weight, or with one that is not a positive
        number, completed steps are counted.
        """
        total = to_amount(weights)
        if total is None or total <= 0:
            self._log_adjustment("invalid total weight", weights)
            total = None
        (_CURRENT_STEP.get() or self._root).total_weight = total

    def step(self, name: str, weight: float = 1) -> StepScope:
        """Return a context manager (`with` or `async with`) for a part of the job; progress inside it is the step's.

        Steps can be nested, and several can run at the same time, each in its own task. The name is converted with
        `str`. A negative weight counts as 0, and one that is not a finite number as 1.
        """
        valid = to_amount(weight)
        if valid is None or valid < 0:
            self._log_adjustment("invalid weight", weight)
            valid = 1 if valid is None else 0
        return StepScope(self, to_text(name), min(valid, MAX_AMOUNT))

    def checkpoint(self, value: Any) -> Awaitable[None]:
        """Save a value, at most 8 KiB as JSON; later attempts get it as `checkpoint_value`.

        `await` it in an `async def` handler. In a thread or process, the call returns when the value is saved.

        Raises:
            ValueError: the value is too large or nested too deep, or contains NaN or infinity; the message has the
                path, such as `checkpoint.losses[3]`.
            TypeError: the value cannot be encoded as JSON.
            CancelledError: as for `progress`.
        """
        if self.cancelled is not None:
            raise asyncio.CancelledError(self.cancelled)
        return self._sink.save_checkpoint(encode_value("checkpoint", value, MAX_CHECKPOINT_BYTES))

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
        if self._step_log is None:
            self._step_log = StepLog()
            self._sink.steps_started(self._step_log.times)
        self._step_log.begin(self._last)
        if not self._collection_pending:
            self._notify()
        return self._last

    def _end(self, step: Step, *, completed: bool) -> None:
        step.end(completed=completed)
        if self._step_log is not None:
            self._step_log.end(step)
        if step.parent is not None and step.parent.is_overweight:
            self._log_adjustment("more weight than announced", step.parent.finished_weight)
        self._last = step
        if not self._collection_pending:
            self._notify()

    def _valid_amounts(self, current: Any, total: Any, step: Step) -> tuple[float, float | None]:
        amount, limit = to_amount(current), None if total is None else to_amount(total)
        if total is not None and (limit is None or limit < 0):
            self._log_adjustment("invalid total", total)
            limit = None
        if amount is None or amount < 0 or (limit is not None and amount > limit):
            self._log_adjustment("invalid amount", current)
            amount = max(0, amount) if amount is not None else step.reported[0] if step.reported else 0
        if limit is None:
            return amount, limit
        if amount >= limit and is_less(current, total):  # by less than a plain number can represent
            amount = below(limit)
        return min(amount, limit), limit

    def _log_adjustment(self, problem: str, value: object) -> None:
        """Log the first value of this attempt that cannot be displayed as it is, without the value itself."""
        if self._adjustment_logged:
            return
        self._adjustment_logged = True
        frame = currentframe()
        while frame is not None and frame.f_globals.get("__package__") == __package__:
            frame = frame.f_back
        where = None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
        extra = {"problem": problem, "type": type_name(value), "where": where}
        self.log.warning("progress_adjusted", extra=extra)


class StepScope:
    """The context manager of a step."""

    def __init__(self, context: JobContext, name: str, weight: float) -> None:
        self._context = context
        self._arguments = (name, weight)
        self._entered: list[tuple[Step | None, Step]] = []  # the outer step and the new one

    def __enter__(self) -> None:
        step = self._context._begin(*self._arguments)  # noqa: SLF001 - one unit with JobContext
        self._entered.append((_CURRENT_STEP.get(), step))
        _CURRENT_STEP.set(step)

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        outer, step = self._entered.pop()
        _CURRENT_STEP.set(outer)
        self._context._end(step, completed=error_type is None)  # noqa: SLF001

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(error_type, error, traceback)
