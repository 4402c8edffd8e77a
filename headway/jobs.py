"""What a job's author writes with: the `@job` decorator, and what a handler raises."""

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
    """Raised by a handler: the job has failed, and trying it again would not help; the message is for its user."""


class Retry(Exception):
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
            raise TypeError(f"the handler of job {kind!r} must take two arguments: the context and the payload")
        if not 1 <= len(kind) <= MAX_NAME_LENGTH or not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise ValueError(
                f"job {kind!r}: a kind has 1 to {MAX_NAME_LENGTH} characters, and 1 to {MAX_ATTEMPTS} attempts"
            )
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"job {kind!r}: a timeout must be positive")
        if not 0 < backoff_s <= backoff_cap_s:
            raise ValueError(f"job {kind!r}: a backoff must be positive, and no more than its cap")
        if process and inspect.iscoroutinefunction(handler):
            raise TypeError(f"job {kind!r}: what runs in a process is a plain function, not an async one")
        self.kind = kind
        self.handler = handler
        self.max_attempts = max_attempts
        self.timeout_s = timeout_s
        self.backoff_s = backoff_s
        self.backoff_cap_s = backoff_cap_s
        self.process = process
        self._payload_parameter = parameters[1].name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the handler, as a test may want to."""
        return self.handler(*args, **kwargs)

    def payload_type(self) -> Any:
        """Return the annotation of the handler's second parameter, `Any` when it has none."""
        return self._payload_type

    @cached_property
    def _payload_type(self) -> Any:
        return get_type_hints(self.handler).get(self._payload_parameter, Any)


class JobDecorator(Protocol):
    """Makes a job of a handler, whether that is an `async def` or a plain function."""

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
    """Make `handler(ctx, payload)` the handler of a kind of job.

    One that is no `async def` runs in a thread, or with `process=True` in a process of a pool: for what keeps a
    processor busy, or may crash.

    The payload is decoded to the second parameter's type (anything msgspec decodes); the result is whatever msgspec
    encodes, at most 32 KiB of JSON. An attempt that takes longer than `timeout_s` fails. What is tried again waits
    for a random time, up to `backoff_s`, twice that after the second attempt, and so on up to `backoff_cap_s`.
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
