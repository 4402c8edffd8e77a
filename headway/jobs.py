"""The `@job` decorator, and the exceptions with which a handler fails or retries its job."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property, partial
from types import SimpleNamespace
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    get_args,
    get_type_hints,
    overload,
)

from headway.contracts import DEFAULT_ATTEMPTS, MAX_ATTEMPTS, MAX_NAME_LENGTH, decode, encode_value

if TYPE_CHECKING:  # workers import this module without aiohttp, which the clients need
    from headway.client import Client, SubmitOptions, SyncClient, TypedReceipt
    from headway.context import JobContext

P = TypeVar("P")  # the payload
R = TypeVar("R")  # the result

BACKOFF_S, BACKOFF_CAP_S = 2.0, 300.0
Keep = Literal["failed", "always", "never"]
DEFAULT_KEEP: Keep = "failed"
LogReaders = Literal["details", "watchers"]


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
        self.after_s = None if after_s is None else float(after_s)  # any kind of number


class Job(Generic[P, R]):
    """A kind of job and its handler. It can be called like the handler, and submitted to a worker with `submit`.

    `Job[P, R]` has payloads of type P and results of type R.
    """

    def __init__(
        self,
        kind: str,
        handler: Callable[[JobContext, P], Any],
        *,
        max_attempts: int = DEFAULT_ATTEMPTS,
        timeout_s: float | None = None,
        backoff_s: float = BACKOFF_S,
        backoff_cap_s: float = BACKOFF_CAP_S,
        process: bool = False,
        max_jobs: int | None = None,
        keep: Keep = DEFAULT_KEEP,
        log: LogReaders = "details",
        on_end: str | Job[Any, Any] | None = None,
    ) -> None:
        self._signature = inspect.signature(handler)
        self.is_async = inspect.iscoroutinefunction(called_function(handler))
        self.kind = kind
        self.handler = handler
        self.max_attempts = max_attempts
        self.timeout_s = timeout_s
        self.backoff_s = backoff_s
        self.backoff_cap_s = backoff_cap_s
        self.process = process
        self.max_jobs = max_jobs
        self.keep = keep
        self.log = log
        self.on_end = on_end.kind if isinstance(on_end, Job) else on_end
        self._check()

    def _check(self) -> None:
        """Raise an error if the job cannot work."""
        place = f"job {self.kind!r}"
        if len(self._signature.parameters) != 2:
            raise TypeError(f"{place}: the handler must take two arguments, the context and the payload")
        if not 1 <= len(self.kind) <= MAX_NAME_LENGTH or not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise ValueError(
                f"{place}: a kind has 1 to {MAX_NAME_LENGTH} characters, max_attempts is 1 to {MAX_ATTEMPTS}"
            )
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ValueError(f"{place}: timeout_s must be positive")
        if not 0 < self.backoff_s <= self.backoff_cap_s:
            raise ValueError(f"{place}: backoff_s must be positive and at most backoff_cap_s")
        if self.process and self.is_async:
            raise TypeError(f"{place}: with process=True the handler must be a plain function, not async")
        if self.max_jobs is not None and (self.max_jobs < 1 or not self.process):
            raise ValueError(f"{place}: max_jobs must be positive, and needs process=True")
        for option, value, choices in (("keep", self.keep, get_args(Keep)), ("log", self.log, get_args(LogReaders))):
            if value not in choices:
                raise ValueError(f"{place}: {option} must be one of {', '.join(choices)}, not {value!r}")
        if self.on_end == self.kind:
            raise ValueError(f"{place}: on_end names the job itself, which would run for ever")

    def __call__(self, ctx: JobContext, payload: P, /) -> Any:
        """Call the handler, for example in a test."""
        return self.handler(ctx, payload)

    @overload
    def submit(
        self, client: Client, payload: P, **options: Unpack[SubmitOptions]
    ) -> Coroutine[Any, Any, TypedReceipt[R]]: ...
    @overload
    def submit(self, client: SyncClient, payload: P, **options: Unpack[SubmitOptions]) -> TypedReceipt[R]: ...
    def submit(self, client: Client | SyncClient, payload: P, **options: Unpack[SubmitOptions]) -> Any:
        """Submit a job of this kind and return its receipt; `client.result(receipt)` returns the handler's type.

        Args:
            client: a `Client`, with which you `await` the receipt, or a `SyncClient`.
            payload: the payload, up to 32 KiB of JSON. It must match the type of the handler's second parameter.
            options: `delay_s`, `max_attempts`, `timeout_s`, `name`, `owner`, `tags`, `on_end` and `idempotency_key`, as
                for `Client.submit`.

        Raises:
            msgspec.ValidationError: the payload does not match the handler's type; the message names the field.
                Nothing was sent.
            ValueError: the payload contains NaN or infinity; the message has the path. Nothing was sent.
            TypeError: msgspec cannot encode the payload. Nothing was sent.
            RequestFailed, Unreachable: as for `Client.submit`.
        """
        encoded = encode_value("payload", payload)
        decode(bytes(encoded), self.payload_type())
        return client.submit(self.kind, encoded, result_type=self.result_type(), **options)

    def payload_type(self) -> Any:
        """Return the annotation of the handler's second parameter, or `Any` if it has none.

        Raises:
            NameError: a name in the annotation is not defined when the program runs.
        """
        return self._payload_type

    def result_type(self) -> Any:
        """Return the annotation of the handler's result, or `Any` if it has none, or none that can be resolved."""
        try:
            return self._result_type
        except NameError:
            return Any

    @cached_property
    def _payload_type(self) -> Any:
        return self._resolve(list(self._signature.parameters.values())[1].annotation)

    @cached_property
    def _result_type(self) -> Any:
        return self._resolve(self._signature.return_annotation)

    def _resolve(self, annotation: Any) -> Any:
        """Resolve one annotation. The others may have names that are imported for type checkers only."""
        if annotation is inspect.Signature.empty:
            return Any
        holder = SimpleNamespace(__annotations__={"resolved": annotation})
        namespace = getattr(inspect.unwrap(called_function(self.handler)), "__globals__", {})
        return get_type_hints(holder, namespace, include_extras=True)["resolved"]


def called_function(handler: Callable[..., Any]) -> Any:
    """Return the function that a call of the handler runs: that of a partial call or of a callable object, too."""
    while isinstance(handler, partial):
        handler = handler.func
    return handler if inspect.isroutine(handler) else type(handler).__call__


class JobDecorator(Protocol):
    """The type of `@job(...)`, which turns a handler, async or plain, into a `Job`."""

    @overload
    def __call__(self, handler: Callable[[JobContext, P], Coroutine[Any, Any, R]], /) -> Job[P, R]: ...
    @overload
    def __call__(self, handler: Callable[[JobContext, P], R], /) -> Job[P, R]: ...


class JobOptions(TypedDict, total=False):
    """The options of `job`, which explains them."""

    max_attempts: int
    timeout_s: float | None
    backoff_s: float
    backoff_cap_s: float
    process: bool
    max_jobs: int | None
    keep: Keep
    log: LogReaders
    on_end: str | Job[Any, Any] | None


def job(kind: str, **options: Unpack[JobOptions]) -> JobDecorator:
    """Register `handler(ctx, payload)` as the handler of a kind of job.

    An `async def` runs in the event loop and a plain `def` in a thread, or with `process` in a process of a pool.

    The payload is decoded to the type of the second parameter: any type that msgspec decodes, or a Pydantic model. The
    result is encoded by msgspec, to at most 32 KiB of JSON.

    Args:
        kind: the name of the kind, 1 to 128 characters.
        max_attempts: the maximum number of attempts, 5 by default.
        timeout_s: the time limit of an attempt; None, the default, for no limit.
        backoff_s: the upper bound of the random delay before the second attempt, 2 s by default. It doubles with each
            attempt.
        backoff_cap_s: the upper bound of all delays, 300 s by default.
        process: whether to run a plain function in a separate process, because it is CPU-bound or may crash.
        max_jobs: with `process`, how many attempts a process runs before it is replaced; None, the default, for no
            limit.
        keep: whether operators can read the payload and run the job again after its end: `failed`, the default, for
            jobs that fail or are cancelled, `always` for all, or `never`.
        log: who may read the log of a job: `details`, the default, for operators, or `watchers` for everyone who may
            watch it.
        on_end: a job, or its kind, to submit whenever a job of this kind has ended.

    Raises:
        TypeError: the handler does not take two arguments, or is async although `process` is set.
        ValueError: an option is out of range, or `on_end` names the job itself.
    """
    return partial(Job, kind, **options)
