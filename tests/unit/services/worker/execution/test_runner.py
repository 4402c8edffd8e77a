"""The runner: every handler's attempt has an outcome, whatever the handler raises or returns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from msgspec import Meta, Struct
from structlog.testing import capture_logs

from headway import Fail, Job, JobContext, Retry, job
from headway.context import Attempt
from headway.contracts import MAX_DELAY_S, MAX_ERROR_LENGTH, MAX_RESULT_BYTES, Json, Progress, Timestamp, decode, encode
from headway.testing import Recorder
from services.runtime.tracebacks import TRACEBACK_TEXT
from services.worker import metrics
from services.worker.execution import runner as runner_module
from services.worker.execution.leased_host import LeasedHost
from services.worker.execution.process_pool import ProcessPool
from services.worker.execution.runner import Runner
from services.worker.outcomes import Finished, LeaseLost, RetryLater
from services.worker.registry import load_jobs
from tests.unit.services.runtime.unreadable_errors import UNREADABLE, unreadable
from tests.unit.services.worker.execution import process_jobs
from tests.unit.services.worker.fake_worker import PROCESS_MEMORY_BYTES
from tests.waiting import PATIENCE_S, wait_until


class Size(Struct):
    """An element of a list in a payload."""

    width: Annotated[int, Meta(ge=1)]


class Picture(Struct):
    """A payload."""

    name: str
    sizes: list[Size] = []


class FakeHost(Recorder):
    """A recorder with a lease that does not end."""

    lease_deadline = 1e12


async def run_handler(handler: Any, payload: str = "{}", timeout_s: float | None = None) -> Finished | RetryLater:
    """Run one attempt with a handler or a job."""
    tested: Job[Any, Any] = handler if isinstance(handler, Job) else job("test")(handler)
    return await run_job(tested, FakeHost(), payload, timeout_s)


async def run_job(
    tested: Job[Any, Any], host: LeasedHost, payload: str, timeout_s: float | None = None
) -> Finished | RetryLater:
    """Run one attempt of a job for a host."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as processes:
        return await Runner(processes).run(tested, attempt_of(tested), Json(payload.encode()), host, timeout_s)


def attempt_of(tested: Job[Any, Any]) -> Attempt:
    """Return an attempt of a job."""
    return Attempt(job_id=uuid4(), kind=tested.kind, max_attempts=5)


async def run_raising(error: BaseException) -> Finished | RetryLater:
    """Run a handler that raises an exception."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        raise error

    return await run_handler(handler)


async def run_returning(result: Any) -> Finished | RetryLater:
    """Run a handler that returns a value."""

    async def handler(_ctx: JobContext, _payload: Any) -> Any:
        return result

    return await run_handler(handler)


def error_of(outcome: Finished | RetryLater, status: str = "failed") -> tuple[str, str]:
    """Return the type and the message of an outcome's error, after checking its status."""
    assert (outcome.status, bytes(outcome.result)) == (status, b"null")
    assert outcome.failure is not None
    return outcome.failure.error.type, outcome.failure.error.message


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
async def test_result_is_encoded_by_msgspec(result: Any, text: str) -> None:
    """A handler can return anything that msgspec encodes."""
    outcome = await run_returning(result)
    assert (outcome.status, bytes(outcome.result).decode(), outcome.failure) == ("succeeded", text, None)


@pytest.mark.parametrize("result", [object(), {1, object()}, {("a", "b"): 1}, "\ud800"])
async def test_result_that_cannot_be_encoded_fails_the_job(result: Any) -> None:
    """The job fails with the error `InvalidResult`, and the worker keeps running."""
    assert error_of(await run_returning(result))[0] == "InvalidResult"


async def test_result_with_nan_fails_the_job() -> None:
    """The error has the path of the number, which would be null in JSON."""
    error = error_of(await run_returning({"losses": [1.0, None, float("nan")]}))
    assert error == ("InvalidResult", "result.losses[2] is nan, which JSON cannot represent")


async def test_unawaited_coroutine_fails_the_job() -> None:
    """A plain function that returns a coroutine cannot be recognized at start; the error names the fix."""

    async def hidden() -> None: ...

    def handler(_ctx: JobContext, _payload: Any) -> Any:
        return hidden()

    kind, message = error_of(await run_handler(handler))
    assert kind == "InvalidResult"
    assert "coroutine was not awaited" in message
    assert "`async def`" in message


@pytest.mark.parametrize("kind", ["odd-values-async", "odd-values-thread", "odd-values-process"])
async def test_values_of_any_type_are_displayed(kind: str) -> None:
    """In the loop, in a thread and in a process, a handler may report numbers, paths and any other object."""
    host = FakeHost()
    outcome = await run_job(load_jobs([process_jobs.__name__])[kind], host, "null")
    assert (outcome.status, bytes(outcome.result)) == ("succeeded", b'"done"')
    await wait_until(lambda: host.progress and host.progress[-1] == Progress(100.0, 100, "%", "2023"))
    assert decode(encode(host.progress), list[Progress]) == host.progress


async def test_progress_that_cannot_be_computed_costs_the_display_alone() -> None:
    """A process whose progress raises goes on, and its result counts."""
    outcome = await run_job(load_jobs([process_jobs.__name__])["deep-steps-process"], FakeHost(), "null")
    assert (outcome.status, bytes(outcome.result)) == ("succeeded", b'"done"')


async def test_result_over_the_limit_fails_the_job() -> None:
    """The limit applies to the bytes of the JSON text."""
    assert (await run_returning("x" * (MAX_RESULT_BYTES - 2))).status == "succeeded"
    assert error_of(await run_returning("é" * (MAX_RESULT_BYTES // 2)))[0] == "ResultTooLarge"


@pytest.mark.parametrize(
    ("payload", "location"),
    [
        ('{"name":7}', "$.name"),
        ("{}", "`name`"),
        ('{"name":"a","sizes":[{"width":1},{"width":0}]}', "$.sizes[1].width"),
        ("[]", "`object`"),
        ("{", "truncated"),
    ],
)
async def test_invalid_payload_fails_the_job(payload: str, location: str) -> None:
    """The handler is not called, and the error names the field."""
    called = []

    async def handler(_ctx: JobContext, payload: Picture) -> None:
        called.append(payload)

    kind, message = error_of(await run_handler(handler, payload))
    assert kind == "InvalidPayload"
    assert location in message
    assert called == []


async def test_handler_receives_context_and_payload() -> None:
    """The payload is decoded to the type that the handler declares; unknown fields are ignored."""

    async def handler(ctx: JobContext, payload: Picture) -> Any:
        assert isinstance(payload, Picture)
        return [ctx.kind, ctx.attempt, ctx.max_attempts, payload.sizes[0].width]

    outcome = await run_handler(handler, '{"name":"a","sizes":[{"width":3}],"unknown":null}')
    assert bytes(outcome.result) == b'["test",1,5,3]'


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("the cable is loose"), ("ValueError", "the cable is loose")),
        (KeyError(), ("KeyError", "KeyError")),
        (TimeoutError("the peer was slow"), ("TimeoutError", "the peer was slow")),
        (
            ExceptionGroup("two things", [ValueError("a"), OSError("b")]),
            ("ExceptionGroup", "two things (2 sub-exceptions): ValueError: a; OSError: b"),
        ),
        (ValueError("x" * (MAX_ERROR_LENGTH + 1)), ("ValueError", "x" * (MAX_ERROR_LENGTH - 1) + "…")),
        (type("E" * 200, (Exception,), {})("a"), ("E" * 128, "a")),
    ],
    ids=lambda value: type(value).__name__[:20],
)
async def test_exception_becomes_the_error_of_the_attempt(error: Exception, expected: tuple[str, str]) -> None:
    """The error has the exception's type and message, cut to their limits, and the job is retried."""
    assert error_of(await run_raising(error), "retrying") == expected


async def test_handler_is_cancelled_after_its_timeout() -> None:
    """The handler is cancelled with the argument `timeout`; the error is `Timeout`, not the cancellation."""
    reasons: list[Any] = []

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            reasons.extend(error.args)
            raise

    error = error_of(await run_handler(handler, timeout_s=0.01), "retrying")
    assert error == ("Timeout", "The attempt took longer than 0.01 s.")
    assert reasons == ["timeout"]


async def test_exception_during_a_timeout_is_reported_as_timeout() -> None:
    """The error is `Timeout` even if the handler raises another exception when it is cancelled."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("the file is half written") from None

    kind, _ = error_of(await run_handler(handler, timeout_s=0.01), "retrying")
    assert kind == "Timeout"


async def test_stray_cancellation_fails_the_attempt() -> None:
    """A handler that awaits a cancelled task fails its attempt; the worker is not cancelled."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    assert error_of(await run_handler(handler), "retrying")[0] == "CancelledError"


async def test_cancelled_run_has_no_outcome() -> None:
    """When the worker cancels the run, the CancelledError is raised to the worker."""
    started = asyncio.Event()

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run_handler(handler, timeout_s=60))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def recursive_list() -> Any:
    """Return a list that contains itself."""
    items: list[Any] = []
    items.append(items)
    return items


def broken_payload() -> Callable[..., Any]:
    """Return a handler whose payload type raises an unexpected exception during decoding."""

    class Broken(Struct):
        def __post_init__(self) -> None:
            raise KeyError("a bug in the payload type")

    async def handler(_ctx: JobContext, payload: Any) -> None: ...

    handler.__annotations__["payload"] = Broken
    return handler


def unresolved_payload() -> Callable[..., Any]:
    """Return a handler whose payload annotation cannot be resolved."""

    async def handler(_ctx: JobContext, payload: Any) -> None: ...

    handler.__annotations__["payload"] = "OnlyForTypeChecking"
    return handler


@pytest.mark.parametrize("handler", [broken_payload, unresolved_payload])
async def test_broken_payload_type_fails_the_job(handler: Callable[[], Any]) -> None:
    """A bug in a payload type fails the job and does not affect other jobs of the worker."""
    assert (await run_handler(handler())).status == "failed"


async def test_recursive_result_fails_the_job() -> None:
    """A list that contains itself cannot be encoded."""
    assert error_of(await run_returning(recursive_list()))[0] == "InvalidResult"


async def test_error_message_can_always_be_encoded() -> None:
    """A lone surrogate in the message, as in the name of a file that is not UTF-8, is replaced."""
    assert encode((await run_raising(FileNotFoundError("caf\udce9.jpg"))).failure)


async def test_exception_whose_str_raises_fails_the_attempt() -> None:
    """The message of the error is then the type of the exception."""

    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no message")

    assert error_of(await run_raising(UnprintableError()), "retrying") == ("UnprintableError", "UnprintableError")


class Panic(BaseException):
    """An exception of a library that `except Exception` does not catch."""


NOT_EXCEPTIONS = [
    KeyboardInterrupt("a"),
    SystemExit("a"),
    GeneratorExit("a"),
    Panic("a"),
    asyncio.CancelledError("a"),
    BaseExceptionGroup("g", [KeyboardInterrupt("a")]),
]


@pytest.mark.parametrize("in_thread", [False, True], ids=["loop", "thread"])
@pytest.mark.parametrize("error", NOT_EXCEPTIONS, ids=lambda error: type(error).__name__)
async def test_whatever_a_handler_raises_fails_the_attempt(error: BaseException, in_thread: bool) -> None:
    """The error of the attempt is that of the handler, also if `except Exception` does not catch it."""

    def in_a_thread(_ctx: JobContext, _payload: Any) -> None:
        raise error

    outcome = await (run_handler(in_a_thread) if in_thread else run_raising(error))
    expected = {"BaseExceptionGroup": ("KeyboardInterrupt", "a")}
    expected["CancelledError"] = ("CancelledError", "The handler cancelled itself.")
    name = type(error).__name__
    assert error_of(outcome, "retrying") == expected.get(name, (name, "a"))


async def test_exception_whose_str_exits_fails_the_attempt() -> None:
    """Even the conversion of an exception to text cannot end the worker."""

    class Exiting(Exception):
        def __str__(self) -> str:
            raise SystemExit

    assert error_of(await run_raising(Exiting()), "retrying") == ("Exiting", "Exiting")


@pytest.mark.parametrize("in_thread", [False, True], ids=["loop", "thread"])
@pytest.mark.parametrize("error_type", UNREADABLE, ids=str.lower)
async def test_exception_that_cannot_be_read_fails_the_attempt(error_type: str, in_thread: bool) -> None:
    """An attribute of an author's exception may raise or lie; the attempt has the name of its type."""

    def in_a_thread(_ctx: JobContext, _payload: Any) -> None:
        raise unreadable(error_type)

    with capture_logs() as lines:
        outcome = await (run_handler(in_a_thread) if in_thread else run_raising(unreadable(error_type)))
    assert error_of(outcome, "retrying")[0] == error_type
    assert [line["error"] for line in lines if line["event"] == "handler_failed"] == [error_type]


@pytest.mark.parametrize("after_s", [float("nan"), float("inf"), -1, "soon", 10**400, None])
async def test_delay_that_a_handler_sets_is_checked(after_s: Any) -> None:
    """The attribute of a Retry may have been set to anything."""
    error = Retry("Later.")
    error.after_s = after_s
    outcome = await run_raising(error)
    assert error_of(outcome, "retrying") == ("Retry", "Later.")
    assert outcome.after_s is None or 0 <= outcome.after_s <= MAX_DELAY_S


async def test_stop_iteration_without_text_ends_a_thread() -> None:
    """The worker learns that the thread has ended, although the exception cannot be converted to text."""

    class Unprintable(StopIteration):
        def __str__(self) -> str:
            raise ValueError

    def handler(_ctx: JobContext, _payload: Any) -> None:
        raise Unprintable

    outcome = await asyncio.wait_for(run_handler(handler), PATIENCE_S)
    assert error_of(outcome, "retrying") == ("RuntimeError", "StopIteration: Unprintable")


async def test_handler_that_cancels_its_own_task_fails_the_attempt() -> None:
    """The worker's own tasks are not cancelled."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    assert error_of(await run_handler(handler), "retrying")[0] == "CancelledError"


def nested(*errors: Exception) -> ExceptionGroup[Exception]:
    """Return an exception group in a task group's exception group."""
    return ExceptionGroup("unhandled errors in a TaskGroup", [OSError("c"), ExceptionGroup("inner", errors)])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (nested(Retry("Later", after_s=7), Fail("No such photo")), ("failed", "Fail", "No such photo", None)),
        (nested(Retry("Later", after_s=7), Retry("No", after_s=8)), ("retrying", "Retry", "Later", 7)),
        (nested(Fail("One"), Fail("Two")), ("failed", "Fail", "One", None)),
        (ExceptionGroup("g", [ExceptionGroup("h", [KeyError("k")])]), ("retrying", "KeyError", "'k'", None)),
        (
            BaseExceptionGroup("g", [asyncio.CancelledError(), ValueError("v")]),
            ("retrying", "ValueError", "v", None),
        ),
    ],
    ids=["fail", "retry", "first", "single", "cancellation"],
)
async def test_group_counts_as_its_decisive_exception(error: BaseException, expected: tuple[Any, ...]) -> None:
    """A Fail decides, otherwise a Retry, otherwise the only exception; the log names the line of each."""

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        raise error

    with capture_logs() as lines:
        outcome = await run_handler(handler)
    assert outcome.failure is not None
    shown = outcome.failure.error
    after_s = outcome.after_s if isinstance(outcome, RetryLater) else None
    assert (outcome.status, shown.type, shown.message, after_s) == expected
    (line,) = (line for line in lines if line["event"] == "handler_failed")
    assert f"containing {expected[1]}" in line["where"]


async def test_log_names_the_failing_line_in_a_task_group() -> None:
    """The line inside the task is logged, and not only that of the task group; the text is kept apart."""

    async def fetch() -> None:
        raise KeyError("secret")

    async def handler(_ctx: JobContext, _payload: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fetch())

    with capture_logs() as lines:
        assert error_of(await run_handler(handler), "retrying") == ("KeyError", "'secret'")
    (line,) = (line for line in lines if line["event"] == "handler_failed")
    assert line["where"][-1] == f"{__file__}:{fetch.__code__.co_firstlineno + 1} fetch"
    assert "secret" in line.pop(TRACEBACK_TEXT)
    assert "secret" not in str(line)


async def test_handler_decides_whether_to_retry() -> None:
    """`Fail` ends the job; `Retry` asks for another attempt, after `after_s` or the backoff of the kind."""
    assert error_of(await run_raising(Fail("No such album."))) == ("Fail", "No such album.")
    for after_s in (None, 0, 2.5):
        outcome = await run_raising(Retry("The album is locked.", after_s=after_s))
        assert error_of(outcome, "retrying") == ("Retry", "The album is locked.")
        assert isinstance(outcome, RetryLater)
        assert outcome.after_s == after_s
    for invalid in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="after_s"):
            Retry(after_s=invalid)


async def test_plain_function_runs_in_a_thread() -> None:
    """The event loop is not blocked; progress is coalesced, and the last one arrives before the result."""
    main_thread, host = threading.get_ident(), FakeHost()
    finish = threading.Event()

    def handler(ctx: JobContext, payload: int) -> bool:
        for number in range(payload):
            ctx.progress(number + 1, payload)
        assert finish.wait(PATIENCE_S)
        return threading.get_ident() != main_thread

    run = asyncio.create_task(run_job(job("test")(handler), host, "1000"))
    await wait_until(lambda: host.progress and host.progress[-1].current == 1000)
    assert len(host.progress) < 1000
    finish.set()
    assert bytes((await run).result) == b"true"


@pytest.mark.parametrize("reason", ["cancel", "stop", "lease", "timeout"])
async def test_interrupted_thread_stops_at_its_next_progress(reason: str) -> None:
    """The next call of `progress` raises a CancelledError with the reason; the run ends after the thread."""
    reasons: list[Any] = []
    started = threading.Event()

    def handler(ctx: JobContext, _payload: Any) -> None:
        started.set()
        try:
            while True:
                ctx.progress(1, 2)
        except asyncio.CancelledError as error:
            reasons.extend([error.args, ctx.cancelled])
            raise

    timeout_s = 0.5 if reason == "timeout" else None
    run = asyncio.create_task(run_handler(handler, timeout_s=timeout_s))
    if reason == "timeout":
        assert error_of(await run, "retrying")[0] == "Timeout"
    else:
        await wait_until(started.is_set)
        run.cancel(reason)
        with pytest.raises(asyncio.CancelledError):
            await run
    assert reasons == [(reason,), reason]


async def test_stop_iteration_in_a_thread_fails_the_attempt() -> None:
    """The worker keeps running, although futures do not accept StopIteration."""

    def handler(_ctx: JobContext, _payload: Any) -> None:
        raise StopIteration

    assert error_of(await run_handler(handler), "retrying")[0] == "RuntimeError"


async def test_second_cancel_abandons_a_thread_that_does_not_stop() -> None:
    """A worker that shuts down does not wait for a thread that ignores its cancellation."""
    contexts: list[JobContext] = []
    finish = threading.Event()

    def handler(ctx: JobContext, _payload: Any) -> None:
        contexts.append(ctx)
        finish.wait(PATIENCE_S)

    run = asyncio.create_task(run_handler(handler))
    await wait_until(lambda: contexts)
    run.cancel("stop")
    await wait_until(lambda: contexts[0].cancelled)
    run.cancel("stop")
    with pytest.raises(asyncio.CancelledError):
        await run
    finish.set()


async def test_thread_stops_with_its_lease_although_the_loop_is_blocked() -> None:
    """The next call of the context raises, so that the handler has no more effects while another worker has the job."""
    stopped, reasons = threading.Event(), list[Any]()

    @job("never-ends")
    def never_ends(ctx: JobContext, _payload: Any) -> None:
        try:
            while True:
                ctx.progress(1)
        except asyncio.CancelledError as error:
            reasons.extend([*error.args, ctx.cancelled])
            stopped.set()
            raise

    host = FakeHost()
    running = asyncio.create_task(run_job(never_ends, host, "null"))
    await wait_until(lambda: host.progress)
    host.lease_deadline = time.monotonic() + 0.2
    assert stopped.wait(PATIENCE_S)  # blocks the event loop
    assert reasons == ["lease", "lease"]
    with pytest.raises(LeaseLost):
        await running


class Stubborn:
    """A handler that does not stop when it is cancelled, until a test allows it."""

    def __init__(self, in_thread: bool) -> None:
        self.started, self.finish = threading.Event(), threading.Event()
        self.job: Job[Any, Any] = job("stubborn")(self.in_thread if in_thread else self.in_loop)

    def in_thread(self, _ctx: JobContext, _payload: Any) -> str:
        """Wait in a thread, without a call of the context."""
        self.started.set()
        assert self.finish.wait(PATIENCE_S)
        return "finished anyway"

    async def in_loop(self, _ctx: JobContext, _payload: Any) -> str:
        """Ignore every cancellation."""
        self.started.set()
        while not self.finish.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)
        return "finished anyway"


@pytest.fixture(params=[True, False], ids=["thread", "loop"])
def stubborn(request: pytest.FixtureRequest) -> Iterator[Stubborn]:
    """Return a stubborn handler, which ends after the test."""
    handler = Stubborn(request.param)
    yield handler
    handler.finish.set()


@pytest.fixture
async def runner(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runner]:
    """Return a runner that abandons handlers soon."""
    monkeypatch.setattr(runner_module, "ABANDON_AFTER_S", 0.05)
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as processes:
        yield Runner(processes)


async def test_handler_that_ignores_its_time_limit_is_abandoned(runner: Runner, stubborn: Stubborn) -> None:
    """The job gets no other attempt while the handler runs; log and metric say so until it ends."""
    with capture_logs() as lines:
        attempt = attempt_of(stubborn.job)
        outcome = await runner.run(stubborn.job, attempt, Json(b"{}"), FakeHost(), timeout_s=0.5)
        assert isinstance(outcome, RetryLater)
        assert outcome.abandoned
        assert outcome.failure.error.type == "Timeout"
        (line,) = (line for line in lines if line["event"] == "handler_abandoned")
        assert line["kind"] == "stubborn"
        assert line["seconds"] >= 0.5
        assert any("in_thread" in place or "in_loop" in place for place in line["where"])
        assert (len(runner.abandoned), metrics.HANDLERS_ABANDONED._value.get()) == (1, 1)
        stubborn.finish.set()
        await wait_until(lambda: not runner.abandoned)
        assert metrics.HANDLERS_ABANDONED._value.get() == 0
        assert [line for line in lines if line["event"] == "abandoned_handler_ended"]


async def test_handler_that_stops_late_is_not_abandoned(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that stops within the grace period after its time limit gets another attempt."""
    monkeypatch.setattr(runner_module, "ABANDON_AFTER_S", 30)
    handler, time_limit_s = Stubborn(in_thread=True), 0.5
    run = asyncio.create_task(runner.run(handler.job, attempt_of(handler.job), Json(b"{}"), FakeHost(), time_limit_s))
    await wait_until(handler.started.is_set)
    after_limit = time.monotonic() + time_limit_s
    await wait_until(lambda: time.monotonic() > after_limit)
    handler.finish.set()
    outcome = await run
    assert isinstance(outcome, RetryLater)
    assert not outcome.abandoned
    assert runner.abandoned == set()


@pytest.mark.parametrize("reason", ["cancel", "lease"])
async def test_cancelled_handler_is_abandoned_after_its_time_limit(
    runner: Runner, stubborn: Stubborn, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """A cancellation waits for the handler, but only until its time limit and the grace period are over."""
    monkeypatch.setattr(runner_module, "ABANDON_AFTER_S", -60)  # both are over at once
    run = asyncio.create_task(runner.run(stubborn.job, attempt_of(stubborn.job), Json(b"{}"), FakeHost(), timeout_s=60))
    await wait_until(stubborn.started.is_set)
    run.cancel(reason)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(run, PATIENCE_S)
    assert len(runner.abandoned) == 1


@pytest.mark.parametrize(("reason", "timeout_s"), [("stop", 60), ("cancel", None)])
async def test_running_handler_keeps_its_job(
    runner: Runner, stubborn: Stubborn, monkeypatch: pytest.MonkeyPatch, reason: str, timeout_s: float | None
) -> None:
    """A draining worker must not release the job of a handler that runs; without a time limit there is no hurry."""
    monkeypatch.setattr(runner_module, "ABANDON_AFTER_S", -60)
    run = asyncio.create_task(
        runner.run(stubborn.job, attempt_of(stubborn.job), Json(b"{}"), FakeHost(), timeout_s=timeout_s)
    )
    await wait_until(stubborn.started.is_set)
    run.cancel(reason)
    await asyncio.wait({run}, timeout=0.05)
    assert not run.done()
    stubborn.finish.set()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert runner.abandoned == set()


@pytest.mark.parametrize("reason", ["cancel", "stop", "lease", "timeout"])
async def test_swallowed_cancellation_is_repeated_when_the_lease_is_over(reason: str) -> None:
    """An `async def` that has swallowed its cancellation gets another one, so that it stops within its lease."""
    host, reasons = FakeHost(), list[str]()

    @job("swallows")
    async def swallows(_ctx: JobContext, _payload: Any) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                reasons.append(*error.args)
                if len(reasons) == 3:
                    raise

    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as processes:
        runner, timeout_s = Runner(processes, 0.01), 0.01 if reason == "timeout" else None
        run = asyncio.create_task(runner.run(swallows, attempt_of(swallows), Json(b"{}"), host, timeout_s))
        await wait_until(lambda: runner.attempts)
        await asyncio.sleep(0)
        if reason != "timeout":
            run.cancel(reason)
        await wait_until(lambda: reasons)
        host.lease_deadline = time.monotonic()
        with pytest.raises((asyncio.CancelledError, LeaseLost)):
            await asyncio.wait_for(run, PATIENCE_S)
    assert reasons == [reason, "lease", "lease"]


async def test_handler_that_outlives_its_lease_is_abandoned(runner: Runner, stubborn: Stubborn) -> None:
    """It keeps its slot until it ends; further cancellations do not make a thread look as if it had ended."""
    runner._recancel_interval_s, host = 0.001, FakeHost()
    run = asyncio.create_task(runner.run(stubborn.job, attempt_of(stubborn.job), Json(b"{}"), host, timeout_s=None))
    await wait_until(stubborn.started.is_set)
    run.cancel("cancel")
    await asyncio.wait({run}, timeout=0.05)
    assert not run.done()
    host.lease_deadline = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(run, PATIENCE_S)
    assert len(runner.abandoned) == 1
    stubborn.finish.set()
    await wait_until(lambda: not runner.abandoned)


async def test_calls_of_the_context_raise_when_the_lease_is_over() -> None:
    """An `async def` that swallows every cancellation stops at its next report, step or checkpoint."""
    host, stopped = FakeHost(), list[str]()

    async def handler(ctx: JobContext, _payload: Any) -> None:
        host.lease_deadline = time.monotonic()
        for call in (lambda: ctx.progress(1), lambda: ctx.step("a").__enter__(), lambda: ctx.checkpoint(1)):
            try:
                call()
            except asyncio.CancelledError as error:
                stopped.append(*error.args)
        raise asyncio.CancelledError

    with pytest.raises(LeaseLost):
        await run_job(job("test")(handler), host, "{}")
    assert stopped == ["lease"] * 3
