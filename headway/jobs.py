"""What a job's author writes with: the `@job` decorator and the context that shows progress."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sized
from contextlib import suppress
from functools import partial
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, get_type_hints, overload
from uuid import UUID

from headway.contracts import DEFAULT_ATTEMPTS, MAX_ATTEMPTS, MAX_MESSAGE, MAX_NAME, MAX_UNIT, Progress, shortened

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")

YIELD_S = 0.01
BACKOFF_S, BACKOFF_CAP_S = 2.0, 300.0
MAX_AMOUNT = 2**63 - 1


class Fail(Exception):  # noqa: N818 - what a handler says
    """Raised by a handler: the job has failed, and trying it again would not help; the message is for its user."""


class Retry(Exception):  # noqa: N818
    """Raised by a handler: try the job again, after `after_s` seconds, or by the kind's own backoff.

    That is an attempt; when all are used up, the job has failed. The message is for the job's user.
    """

    def __init__(self, message: str = "", *, after_s: float | None = None) -> None:
        super().__init__(message or "The job asks for another attempt.")
        if after_s is not None and not 0 <= after_s < float("inf"):
            raise ValueError(f"after_s must be finite and not negative: {after_s!r}")
        self.after_s = after_s


class Job(Generic[P, R]):
    """A kind of job and the function that runs it; still callable as that function."""

    def __init__(self, kind: str, handler: Callable[P, Any], *, max_attempts: int,
                 timeout_s: float | None, backoff_s: float, backoff_cap_s: float) -> None:  # fmt: skip
        parameters = list(inspect.signature(handler).parameters.values())
        if len(parameters) != 2:
            raise TypeError(f"the handler of job {kind!r} must take two arguments: the context and the payload")
        if not 1 <= len(kind) <= MAX_NAME or not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise ValueError(f"job {kind!r}: a kind has 1 to {MAX_NAME} characters, and 1 to {MAX_ATTEMPTS} attempts")
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"job {kind!r}: a timeout must be positive")
        if not 0 < backoff_s <= backoff_cap_s:
            raise ValueError(f"job {kind!r}: a backoff must be positive, and no more than its cap")
        self.kind = kind
        self.handler = handler
        self.max_attempts = max_attempts
        self.timeout_s = timeout_s
        self.backoff_s = backoff_s
        self.backoff_cap_s = backoff_cap_s
        self._payload = parameters[1].name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the handler, as a test may want to."""
        return self.handler(*args, **kwargs)

    def payload_type(self) -> Any:
        """Return the annotation of the handler's second parameter, `Any` when it has none."""
        return get_type_hints(self.handler).get(self._payload, Any)


class Decorator(Protocol):
    """Makes a job of a handler, whether that is an `async def` or a plain function."""

    @overload
    def __call__(self, handler: Callable[P, Awaitable[R]], /) -> Job[P, R]: ...
    @overload
    def __call__(self, handler: Callable[P, R], /) -> Job[P, R]: ...


def job(kind: str, *, max_attempts: int = DEFAULT_ATTEMPTS, timeout_s: float | None = None,
        backoff_s: float = BACKOFF_S, backoff_cap_s: float = BACKOFF_CAP_S) -> Decorator:  # fmt: skip
    """Make `handler(ctx, payload)` the handler of a kind of job; one that is no `async def` runs in a thread.

    The payload is decoded to the second parameter's type (anything msgspec decodes); the result is whatever msgspec
    encodes, at most 32 KiB of JSON. An attempt that takes longer than `timeout_s` fails. What is tried again waits
    for a random time, up to `backoff_s`, twice that after the second attempt, and so on up to `backoff_cap_s`.
    """
    return partial(Job, kind, max_attempts=max_attempts, timeout_s=timeout_s, backoff_s=backoff_s,
                   backoff_cap_s=backoff_cap_s)  # fmt: skip


class JobContext:
    """What a running handler knows of its job, and how it shows progress.

    `cancelled` is why a handler in a thread shall stop, `None` while it shall not: `cancel` (somebody asked for it),
    `timeout`, `stop` (the worker stops; the job goes on elsewhere) or `lease` (another worker may have it). An
    `async def` handler gets a CancelledError with the same word as its argument.
    """

    def __init__(self, job_id: UUID, kind: str, attempt: int, max_attempts: int,
                 show: Callable[[Progress], None]) -> None:  # fmt: skip
        self.job_id = job_id
        self.kind = kind
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.cancelled: str | None = None
        self._show = show
        self._percent = 0.0
        self._shown: Progress | None = None

    def show_by(self, way: Callable[[Callable[[Progress], None]], Callable[[Progress], None]]) -> None:
        """Show progress by another way, as the worker does for handlers in a thread."""
        self._show = way(self._show)

    def progress(
        self, current: float, total: float | None = None, message: str | None = None, *, unit: str | None = None
    ) -> None:
        """Show that `current` of `total` is done; without a total, that nobody knows how much there is.

        It costs next to nothing: what is shown meanwhile is replaced, and the percentage never goes back.

        Raises:
            ValueError: `current` or `total` is negative or not a finite number.
            CancelledError: the handler runs in a thread, and shall stop; its argument is the reason.
        """
        if self.cancelled is not None:
            raise asyncio.CancelledError(self.cancelled)
        current, total = _amount(current), None if total is None else _amount(total)
        text = None if message is None else shortened(message, MAX_MESSAGE)
        progress = Progress(current, total, None if unit is None else shortened(unit, MAX_UNIT), text)
        percent = progress.percent
        if percent is not None and self._shown is not None and percent < self._percent:
            progress = Progress(self._shown.current, self._shown.total, self._shown.unit, text)
        elif percent is not None:
            self._percent = percent
            self._shown = progress
        self._show(progress)

    async def track(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        total: float | None = None,
        message: str | None = None,
        *,
        unit: str | None = None,
    ) -> AsyncIterator[Item]:
        """Yield the items one by one and show how many are done, like `tqdm`; `total` defaults to their length."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        done = 0
        self.progress(0, total, message, unit=unit)
        yielded_at = time.monotonic()
        async for item in _each(items):
            yield item
            done += 1
            self.progress(done, total, message, unit=unit)
            if time.monotonic() - yielded_at > YIELD_S:  # a loop that never waits would keep its own reports back
                await asyncio.sleep(0)
                yielded_at = time.monotonic()


def _amount(number: float) -> float:
    """Return it as the wire has it: an `int` or a `float`, whatever number it is (numpy has its own)."""
    with suppress(OverflowError):
        amount = number if type(number) is int and number <= MAX_AMOUNT else float(number)
        if 0 <= amount < float("inf"):
            return amount
    raise ValueError(f"progress must be finite and not negative: {number!r}")


async def _each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
