"""One handler's run: whatever it does, the job has an ending."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from msgspec import Meta, Struct

from headway import Job, JobContext, job
from headway.contracts import MAX_ERROR, RESULT_BYTES, Json, Timestamp, encode
from services.worker.runner import Ending, run


class Size(Struct):
    """A part of a payload."""

    width: Annotated[int, Meta(ge=1)]


class Picture(Struct):
    """A payload."""

    name: str
    sizes: list[Size] = []


async def ending_of(handler: Any, payload: str = "{}", timeout_s: float | None = None) -> Ending:
    """Run a handler once."""
    made: Job[..., Any] = handler if isinstance(handler, Job) else job("test")(handler)
    context = JobContext(uuid4(), "test", 1, 5, lambda _progress: None)
    return await run(made, context, Json(payload.encode()), timeout_s)


async def raising(error: BaseException) -> Ending:
    """Run a handler that raises."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        raise error

    return await ending_of(handler)


async def returning(result: Any) -> Ending:
    """Run a handler that returns."""

    async def handler(_ctx: JobContext, _payload: Any) -> Any:
        return result

    return await ending_of(handler)


def failure(ending: Ending) -> tuple[str, str]:
    """Return the type and the message of a failure."""
    assert (ending.status, bytes(ending.result)) == ("failed", b"null")
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
    assert (await returning("x" * (RESULT_BYTES - 2))).status == "succeeded"
    assert failure(await returning("é" * (RESULT_BYTES // 2)))[0] == "ResultTooLarge"


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
        (ValueError("x" * (MAX_ERROR + 1)), ("ValueError", "x" * (MAX_ERROR - 1) + "…")),
        (type("E" * 200, (Exception,), {})("a"), ("E" * 128, "a")),
    ],
    ids=lambda value: type(value).__name__[:20],
)
async def test_an_exception_is_told_by_type_and_message(error: Exception, told: tuple[str, str]) -> None:
    """What a handler raises is the job's error, within the limits of the wire."""
    assert failure(await raising(error)) == told


async def test_a_handler_that_takes_too_long_is_stopped() -> None:
    """The time-out cancels the handler, and is no error of the handler's own."""
    ended = []

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    assert failure(await ending_of(handler, timeout_s=0.01)) == ("Timeout", "The job took longer than 0.01 s.")
    assert ended == [True]


async def test_an_error_while_it_is_stopped_is_a_timeout_still() -> None:
    """A handler that raises when it is cancelled has taken too long all the same."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("the file is half written") from None

    kind, _ = failure(await ending_of(handler, timeout_s=0.01))
    assert kind == "Timeout"


async def test_a_handler_that_cancels_itself_fails() -> None:
    """A stray cancellation, such as of a task that the handler awaits, is not the worker's end."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    assert failure(await ending_of(handler))[0] == "CancelledError"


async def test_a_run_that_is_cancelled_ends_there() -> None:
    """When the worker stops a handler, no ending is made up for it."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(ending_of(handler, timeout_s=60))
    await asyncio.sleep(0)
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

    assert failure(await raising(MuteError())) == ("MuteError", "MuteError")


async def test_leaving_the_process_is_a_failure() -> None:
    """`sys.exit()` in a handler fails its job, not its worker."""
    assert failure(await raising(SystemExit(3))) == ("SystemExit", "3")
