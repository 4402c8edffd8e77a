"""One handler's run: whatever it does, the job has an ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from msgspec import Meta, Struct

from headway import Fail, Job, JobContext, Retry, job
from headway.context import Attempt
from headway.contracts import MAX_ERROR_LENGTH, MAX_RESULT_BYTES, Json, Timestamp, encode
from headway.testing import Recorder
from services.worker.execution.process_pool import LeasedHost, ProcessPool
from services.worker.execution.runner import Runner
from services.worker.outcomes import Finished, RetryLater
from tests.waiting import wait_until


class Size(Struct):
    """A part of a payload."""

    width: Annotated[int, Meta(ge=1)]


class Picture(Struct):
    """A payload."""

    name: str
    sizes: list[Size] = []


class Recorded(Recorder):
    """Keeps a job, for ever."""

    lease_deadline = 1e12


async def ending_of(handler: Any, payload: str = "{}", timeout_s: float | None = None) -> Finished | RetryLater:
    """Run a handler once."""
    made: Job[..., Any] = handler if isinstance(handler, Job) else job("test")(handler)
    return await running(made, Recorded(), payload, timeout_s)


async def running(
    made: Job[..., Any], host: LeasedHost, payload: str, timeout_s: float | None = None
) -> Finished | RetryLater:
    """Run a job once for a host."""
    attempt = Attempt(job_id=uuid4(), kind=made.kind, max_attempts=5)
    async with ProcessPool.open() as processes:
        return await Runner(processes).run(made, attempt, Json(payload.encode()), host, timeout_s)


async def raising(error: BaseException) -> Finished | RetryLater:
    """Run a handler that raises."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        raise error

    return await ending_of(handler)


async def returning(result: Any) -> Finished | RetryLater:
    """Run a handler that returns."""

    async def handler(_ctx: JobContext, _payload: Any) -> Any:
        return result

    return await ending_of(handler)


def failure(ending: Finished | RetryLater, status: str = "failed") -> tuple[str, str]:
    """Return the type and the message of a failure."""
    assert (ending.status, bytes(ending.result)) == (status, b"null")
    assert ending.error is not None
    return ending.error.type, ending.error.message


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "null"),
        ([], "[]"),
        ({}, "{}"),
        (40.0, "40.0"),
        (12345678901234567, "12345678901234567"),
        ("🎉\n", '"🎉\\n"'),
        (Picture("a", [Size(1)]), '{"name":"a","sizes":[{"width":1}]}'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (datetime(2026, 1, 1, tzinfo=UTC), '"2026-01-01T00:00:00Z"'),
        (Timestamp.parse("2026-01-01T00:00:00Z"), '"2026-01-01T00:00:00.000Z"'),
        (Decimal("1.10"), '"1.10"'),
        (Json(b'{"as": "it is"}'), '{"as": "it is"}'),
    ],
)
async def test_a_result_is_what_msgspec_writes(result: Any, text: str) -> None:
    """Anything that msgspec encodes can be a result."""
    ending = await returning(result)
    assert (ending.status, bytes(ending.result).decode(), ending.error) == ("succeeded", text, None)


@pytest.mark.parametrize("result", [object(), {1, object()}, {("a", "b"): 1}, "\ud800"])
async def test_a_result_that_is_no_json_fails_the_job(result: Any) -> None:
    """What cannot be written is said, instead of taking the worker down."""
    assert failure(await returning(result))[0] == "InvalidResult"


async def test_a_result_that_is_too_large_fails_the_job() -> None:
    """The limit is of the JSON text, in bytes."""
    assert (await returning("x" * (MAX_RESULT_BYTES - 2))).status == "succeeded"
    assert failure(await returning("é" * (MAX_RESULT_BYTES // 2)))[0] == "ResultTooLarge"


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ('{"name":7}', "$.name"),
        ("{}", "`name`"),
        ('{"name":"a","sizes":[{"width":1},{"width":0}]}', "$.sizes[1].width"),
        ("[]", "`object`"),
        ("{", "truncated"),
    ],
)
async def test_a_payload_that_does_not_fit_fails_the_job_and_names_the_field(payload: str, named: str) -> None:
    """The handler is not called with what it does not expect, and its user learns what is wrong."""
    called = []

    async def handler(_ctx: JobContext, payload: Picture) -> None:
        called.append(payload)

    kind, message = failure(await ending_of(handler, payload))
    assert kind == "InvalidPayload"
    assert named in message
    assert called == []


async def test_a_handler_gets_its_context_and_its_payload() -> None:
    """The payload arrives as the handler's own type."""

    async def handler(ctx: JobContext, payload: Picture) -> Any:
        assert isinstance(payload, Picture)
        return [ctx.kind, ctx.attempt, ctx.max_attempts, payload.sizes[0].width]

    ending = await ending_of(handler, '{"name":"a","sizes":[{"width":3}],"unknown":null}')
    assert bytes(ending.result) == b'["test",1,5,3]'


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("the cable is loose"), ("ValueError", "the cable is loose")),
        (KeyError(), ("KeyError", "KeyError")),
        (TimeoutError("the peer was slow"), ("TimeoutError", "the peer was slow")),
        (
            ExceptionGroup("two things", [ValueError("a"), OSError("b")]),
            ("ExceptionGroup", "two things (2 sub-exceptions)"),
        ),
        (ValueError("x" * (MAX_ERROR_LENGTH + 1)), ("ValueError", "x" * (MAX_ERROR_LENGTH - 1) + "…")),
        (type("E" * 200, (Exception,), {})("a"), ("E" * 128, "a")),
    ],
    ids=lambda value: type(value).__name__[:20],
)
async def test_an_exception_is_told_by_type_and_message(error: Exception, told: tuple[str, str]) -> None:
    """What a handler raises is the job's error, within the limits of the wire, and another attempt may do better."""
    assert failure(await raising(error), "retrying") == told


async def test_a_handler_that_takes_too_long_is_stopped() -> None:
    """The time-out cancels the handler, and is no error of the handler's own."""
    ended: list[Any] = []

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ended.extend(error.args)
            raise

    told = failure(await ending_of(handler, timeout_s=0.01), "retrying")
    assert told == ("Timeout", "The attempt took longer than 0.01 s.")
    assert ended == ["timeout"]


async def test_an_error_while_it_is_stopped_is_a_timeout_still() -> None:
    """A handler that raises when it is cancelled has taken too long all the same."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("the file is half written") from None

    kind, _ = failure(await ending_of(handler, timeout_s=0.01), "retrying")
    assert kind == "Timeout"


async def test_a_handler_that_cancels_itself_fails() -> None:
    """A stray cancellation, such as of a task that the handler awaits, is not the worker's end."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    assert failure(await ending_of(handler), "retrying")[0] == "CancelledError"


async def test_a_run_that_is_cancelled_ends_there() -> None:
    """When the worker stops a handler, no ending is made up for it."""
    started = asyncio.Event()

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(ending_of(handler, timeout_s=60))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def endless() -> Any:
    """Return a list that holds itself."""
    one: list[Any] = []
    one.append(one)
    return one


def broken_payload() -> Callable[..., Any]:
    """Return a handler whose payload type raises something unforeseen."""

    class Broken(Struct):
        def __post_init__(self) -> None:
            raise KeyError("a fault in the author's own check")

    async def handler(_ctx: JobContext, payload: Any) -> None: ...

    handler.__annotations__["payload"] = Broken
    return handler


def unresolved_payload() -> Callable[..., Any]:
    """Return a handler whose payload's annotation cannot be resolved."""

    async def handler(_ctx: JobContext, payload: Any) -> None: ...

    handler.__annotations__["payload"] = "OnlyForTypeChecking"
    return handler


@pytest.mark.parametrize("handler", [broken_payload, unresolved_payload])
async def test_a_payload_type_at_fault_is_the_job_s_failure(handler: Callable[[], Any]) -> None:
    """One author's mistake costs that job, not the worker and all others that it runs."""
    assert (await ending_of(handler())).status == "failed"


async def test_an_endless_result_is_the_job_s_failure() -> None:
    """A result that holds itself cannot be written."""
    assert failure(await returning(endless()))[0] == "InvalidResult"


async def test_an_error_s_message_can_be_written() -> None:
    """The name of a strange file, with its lone surrogate, can be told."""
    assert encode((await raising(FileNotFoundError("caf\udce9.jpg"))).error)


async def test_an_error_that_cannot_tell_itself_is_a_failure_too() -> None:
    """An exception whose `__str__` raises is told by its type."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert failure(await raising(MuteError()), "retrying") == ("MuteError", "MuteError")


async def test_leaving_the_process_is_a_failure() -> None:
    """`sys.exit()` in a handler fails its attempt, not its worker."""
    assert failure(await raising(SystemExit(3)), "retrying") == ("SystemExit", "3")


async def test_a_handler_says_whether_to_try_again() -> None:
    """`Fail` ends the job; `Retry` asks for another attempt, after a time of its own or by the kind's backoff."""
    assert failure(await raising(Fail("No such album."))) == ("Fail", "No such album.")
    for after_s in (None, 0, 2.5):
        again = await raising(Retry("The album is locked.", after_s=after_s))
        assert failure(again, "retrying") == ("Retry", "The album is locked.")
        assert isinstance(again, RetryLater)
        assert again.after_s == after_s
    for nonsense in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="after_s"):
            Retry(after_s=nonsense)


async def test_a_plain_function_runs_in_a_thread() -> None:
    """The loop goes on meanwhile, and the last progress it showed arrives before its result."""
    here, host = threading.get_ident(), Recorded()
    shown = host.progress
    going_on = threading.Event()

    def handler(ctx: JobContext, payload: int) -> bool:
        for number in range(payload):
            ctx.progress(number + 1, payload)
        assert going_on.wait(10)
        return threading.get_ident() != here

    run = asyncio.create_task(running(job("test")(handler), host, "1000"))
    await wait_until(lambda: shown and shown[-1].current == 1000)
    assert len(shown) < 1000
    going_on.set()
    assert bytes((await run).result) == b"true"


@pytest.mark.parametrize("reason", ["cancel", "stop", "lease", "timeout"])
async def test_a_thread_is_asked_to_stop_and_waited_for(reason: str) -> None:
    """Its next progress raises, with the reason; the run ends when the thread has."""
    told: list[Any] = []
    started = threading.Event()

    def handler(ctx: JobContext, _payload: Any) -> None:
        started.set()
        try:
            while True:
                ctx.progress(1, 2)
        except asyncio.CancelledError as error:
            told.extend([error.args, ctx.cancelled])
            raise

    timeout_s = 0.05 if reason == "timeout" else None
    running = asyncio.create_task(ending_of(handler, timeout_s=timeout_s))
    if reason == "timeout":
        assert failure(await running, "retrying")[0] == "Timeout"
    else:
        await wait_until(started.is_set)
        running.cancel(reason)
        with pytest.raises(asyncio.CancelledError):
            await running
    assert told == [(reason,), reason]


@pytest.mark.parametrize("error", [ValueError("a"), StopIteration(1), SystemExit(3)], ids=repr)
async def test_what_a_thread_raises_is_its_attempt_s_error(error: BaseException) -> None:
    """Whatever it is, the worker goes on."""

    def handler(_ctx: JobContext, _payload: Any) -> None:
        raise error

    kind, _ = failure(await ending_of(handler), "retrying")
    assert kind in (type(error).__name__, "RuntimeError")


async def test_a_thread_that_does_not_stop_is_left_behind() -> None:
    """A worker that ends waits for nothing that cannot be stopped."""
    contexts: list[JobContext] = []
    let_go = threading.Event()

    def handler(ctx: JobContext, _payload: Any) -> None:
        contexts.append(ctx)
        let_go.wait(30)

    running = asyncio.create_task(ending_of(handler))
    await wait_until(lambda: contexts)
    running.cancel("stop")
    await wait_until(lambda: contexts[0].cancelled)
    running.cancel("stop")
    with pytest.raises(asyncio.CancelledError):
        await running
    let_go.set()
