"""The `@job` decorator, and the exceptions with which a handler fails or retries its job."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, get_type_hints, overload

from headway.contracts import DEFAULT_ATTEMPTS, MAX_ATTEMPTS, MAX_NAME_LENGTH

P = ParamSpec("P")
R = TypeVar("R")

BACKOFF_S, BACKOFF_CAP_S = 2.0, 300.0


class Fail(Exception):
    """Raised by a handler to fail the job without another attempt. Users see the message."""


class Retry(Exception):
    """Raised by a handler to end this attempt and request another one. Users see the message.

    The next attempt starts after `after_s` seconds, by default after the kind's backoff. If this was the last attempt,
    the job fails.
    """

    def __init__(self, message: str = "", *, after_s: float | None = None) -> None:
        super().__init__(message or "The job asks for another attempt.")
        if after_s is not None and not 0 <= after_s < float("inf"):
            raise ValueError(f"after_s must be finite and not negative: {after_s!r}")
        self.after_s = after_s


class Job(Generic[P, R]):
    """A kind of job and its handler. It can be called like the handler."""

    def __init__(
        self,
        kind: str,
        handler: Callable[P, Any],
        *,
        max_attempts: int,
        timeout_s: float | None,
        backoff_s: float,
        backoff_cap_s: float,
        process: bool,
    ) -> None:
        parameters = list(inspect.signature(handler).parameters.values())
        if len(parameters) != 2:
            raise TypeError(f"job {kind!r}: the handler must take two arguments, the context and the payload")
        if not 1 <= len(kind) <= MAX_NAME_LENGTH or not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise ValueError(
                f"job {kind!r}: a kind has 1 to {MAX_NAME_LENGTH} characters, max_attempts is 1 to {MAX_ATTEMPTS}"
            )
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"job {kind!r}: timeout_s must be positive")
        if not 0 < backoff_s <= backoff_cap_s:
            raise ValueError(f"job {kind!r}: backoff_s must be positive and at most backoff_cap_s")
        if process and inspect.iscoroutinefunction(handler):
            raise TypeError(f"job {kind!r}: with process=True the handler must be a plain function, not async")
        self.kind = kind
        self.handler = handler
        self.max_attempts = max_attempts
        self.timeout_s = timeout_s
        self.backoff_s = backoff_s
        self.backoff_cap_s = backoff_cap_s
        self.process = process
        self._payload_parameter = parameters[1].name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the handler, for example in a test."""
        return self.handler(*args, **kwargs)

    def payload_type(self) -> Any:
        """Return the annotation of the handler's second parameter, or `Any` if it has none."""
        return self._payload_type

    @cached_property
    def _payload_type(self) -> Any:
        return get_type_hints(self.handler).get(self._payload_parameter, Any)


class JobDecorator(Protocol):
    """The type of `@job(...)`, which turns a handler, async or plain, into a `Job`."""

    @overload
    def __call__(self, handler: Callable[P, Awaitable[R]], /) -> Job[P, R]: ...
    @overload
    def __call__(self, handler: Callable[P, R], /) -> Job[P, R]: ...


def job(
    kind: str,
    *,
    max_attempts: int = DEFAULT_ATTEMPTS,
    timeout_s: float | None = None,
    backoff_s: float = BACKOFF_S,
    backoff_cap_s: float = BACKOFF_CAP_S,
    process: bool = False,
) -> JobDecorator:
    """Register `handler(ctx, payload)` as the handler of a kind of job.

    An `async def` runs in the worker's event loop and a plain `def` in a thread. With `process=True` a plain `def` runs
    in a process of a pool: use it for code that is CPU-bound or may crash.

    The payload is decoded to the type of the second parameter (any type that msgspec decodes). The result is encoded by
    msgspec, to at most 32 KiB of JSON.

    Args:
        kind: the name of the kind, 1 to 128 characters.
        max_attempts: the maximum number of attempts.
        timeout_s: the time limit of an attempt; None for no limit.
        backoff_s: the upper bound of the random delay before the second attempt. It doubles with each attempt.
        backoff_cap_s: the upper bound of all delays.
        process: whether to run a plain function in a separate process.

    Raises:
        TypeError: the handler does not take two arguments, or is async although `process` is set.
        ValueError: an option is out of range.
    """
    return partial(
        Job,
        kind,
        max_attempts=max_attempts,
        timeout_s=timeout_s,
        backoff_s=backoff_s,
        backoff_cap_s=backoff_cap_s,
        process=process,
    )
