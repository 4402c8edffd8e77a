"""What a job's author writes with: the `@job` decorator and the context that shows progress."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sized
from contextlib import suppress
from typing import Any, Generic, ParamSpec, TypeVar, get_type_hints
from uuid import UUID

from headway.contracts import DEFAULT_ATTEMPTS, MAX_ATTEMPTS, MAX_MESSAGE, MAX_NAME, MAX_UNIT, Progress, shortened

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")

YIELD_S = 0.01
MAX_AMOUNT = 2**63 - 1


class Job(Generic[P, R]):
    """A kind of job and the function that runs it; still callable as that function."""

    def __init__(
        self, kind: str, handler: Callable[P, Awaitable[R]], max_attempts: int, timeout_s: float | None
    ) -> None:
        if not inspect.iscoroutinefunction(handler):
            raise TypeError(f"the handler of job {kind!r} must be an `async def` function")
        parameters = list(inspect.signature(handler).parameters.values())
        if len(parameters) != 2:
            raise TypeError(f"the handler of job {kind!r} must take two arguments: the context and the payload")
        if not 1 <= len(kind) <= MAX_NAME or not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise ValueError(f"job {kind!r}: a kind has 1 to {MAX_NAME} characters, and 1 to {MAX_ATTEMPTS} attempts")
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"job {kind!r}: a timeout must be positive")
        self.kind = kind
        self.handler = handler
        self.max_attempts = max_attempts
        self.timeout_s = timeout_s
        self._payload = parameters[1].name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Call the handler, as a test may want to."""
        return self.handler(*args, **kwargs)

    def payload_type(self) -> Any:
        """Return the annotation of the handler's second parameter, `Any` when it has none."""
        return get_type_hints(self.handler).get(self._payload, Any)


def job(
    kind: str, *, max_attempts: int = DEFAULT_ATTEMPTS, timeout_s: float | None = None
) -> Callable[[Callable[P, Awaitable[R]]], Job[P, R]]:
    """Make an `async def handler(ctx, payload)` the handler of a kind of job.

    The payload is decoded to the second parameter's type (anything msgspec decodes); the result is whatever msgspec
    encodes, at most 32 KiB of JSON. An attempt that takes longer than `timeout_s` fails.
    """
    return lambda handler: Job(kind, handler, max_attempts, timeout_s)


class JobContext:
    """What a running handler knows of its job, and how it shows progress."""

    def __init__(self, job_id: UUID, kind: str, attempt: int, max_attempts: int,
                 show: Callable[[Progress], None]) -> None:  # fmt: skip
        self.job_id = job_id
        self.kind = kind
        self.attempt = attempt
        self.max_attempts = max_attempts
        self._show = show
        self._percent = 0.0
        self._shown: Progress | None = None

    def progress(
        self, current: float, total: float | None = None, message: str | None = None, *, unit: str | None = None
    ) -> None:
        """Show that `current` of `total` is done; without a total, that nobody knows how much there is.

        It costs next to nothing: what is shown meanwhile is replaced, and the percentage never goes back.

        Raises:
            ValueError: `current` or `total` is negative or not a finite number.
        """
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
