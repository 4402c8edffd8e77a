"""The helpers with which job authors test their handlers."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from headway import Fail, Job, JobContext, job
from headway.contracts import MAX_CHECKPOINT_BYTES, MAX_RESULT_BYTES
from headway.testing import Run, run, run_async


class Photos(msgspec.Struct):
    """A payload."""

    count: int


@job("async")
async def in_loop(ctx: JobContext, payload: Photos) -> dict[str, Any]:
    """Count photos, starting from the checkpoint."""
    start = ctx.checkpoint_value or 0
    async for number in ctx.track(range(start, payload.count)):
        await asyncio.sleep(0)
        await ctx.checkpoint(number + 1)
    return {"attempt": ctx.attempt, "start": start}


@job("sync", process=True)
def in_process(ctx: JobContext, payload: Photos) -> int:
    """Count photos in a plain function."""
    for number in ctx.track(range(payload.count)):
        ctx.checkpoint(number)
    return payload.count


def assert_complete(ran: Run) -> None:
    """Assert the outcome of the async job with two photos."""
    assert ran.result == {"attempt": 1, "start": 0}
    assert [progress.percent for progress in ran.progress] == [0.0, 50.0, 100.0]
    assert ran.checkpoints == [1, 2]


def test_a_handler_runs_without_any_service() -> None:
    """`run` returns the result, all progress and all checkpoints."""
    assert_complete(run(in_loop, {"count": 2}))


async def test_a_handler_runs_inside_an_event_loop() -> None:
    """An async test may call both `run` and `run_async`."""
    assert_complete(run(in_loop, {"count": 2}))
    assert_complete(await run_async(in_loop, Photos(2)))


def test_a_plain_function_runs() -> None:
    """A plain function runs in the process of the test, even with `process=True`."""
    ran = run(in_process, Photos(3))
    assert (ran.result, len(ran.progress), ran.checkpoints) == (3, 4, [0, 1, 2])


def test_a_later_attempt_gets_the_checkpoint() -> None:
    """A test passes the number of the attempt and the checkpoint of an earlier one."""
    assert run(in_loop, {"count": 3}, checkpoint=2, attempt=4).result == {"attempt": 4, "start": 2}


def test_an_invalid_payload_names_the_field() -> None:
    """The validation error contains the path of the invalid field."""
    with pytest.raises(msgspec.ValidationError, match=r"\$\.count"):
        run(in_loop, {"count": "many"})


@pytest.mark.parametrize(
    ("result", "error"),
    [("x" * MAX_RESULT_BYTES, ValueError), (object(), TypeError), (msgspec.Raw(b"[" * 600 + b"]" * 600), ValueError)],
    ids=["large", "not JSON", "deep"],
)
def test_an_invalid_result_is_rejected(result: Any, error: type[Exception]) -> None:
    """A result that a worker would reject fails the test before it fails in production."""

    @job("returns")
    async def returns(_ctx: JobContext, _payload: Any) -> Any:
        return result

    with pytest.raises(error):
        run(returns)


@pytest.mark.parametrize("place", ["payload", "checkpoint", "result"])
def test_nan_is_refused_everywhere(place: str) -> None:
    """A payload, a checkpoint and a result with NaN fail the test, instead of becoming null."""

    @job("returns")
    async def returns(_ctx: JobContext, payload: Any) -> Any:
        return payload if place != "result" else {"loss": float("nan")}

    values: dict[str, Any] = {place: {"loss": float("nan")}} if place != "result" else {}
    with pytest.raises(ValueError, match=rf"^{place}\.loss is nan, which JSON cannot represent$"):
        run(returns, **values)


def test_a_handler_that_hides_its_coroutine_fails_the_test() -> None:
    """The error names the fix."""

    @job("hidden")
    def hidden(ctx: JobContext, payload: Photos) -> Any:
        return in_loop(ctx, payload)

    with pytest.raises(TypeError, match=r"not awaited.*`async def`"):
        run(hidden, Photos(1))


@pytest.mark.parametrize(
    "value", ["x" * MAX_CHECKPOINT_BYTES, msgspec.Raw(b"[" * 600 + b"]" * 600)], ids=["large", "deep"]
)
def test_an_invalid_checkpoint_is_rejected(value: Any) -> None:
    """A checkpoint that is too large or nested too deep raises a ValueError in the handler."""

    @job("keeps")
    async def keeps(ctx: JobContext, _payload: Any) -> None:
        await ctx.checkpoint(value)

    with pytest.raises(ValueError, match="checkpoint"):
        run(keeps)


def test_an_exception_of_the_handler_is_raised() -> None:
    """`run` raises the handler's exception unchanged."""

    @job("fails")
    async def fails(_ctx: JobContext, _payload: Any) -> None:
        raise Fail("No photos")

    with pytest.raises(Fail, match="No photos"):
        run(fails)


@pytest.mark.parametrize("tested_job", [in_loop, in_process])
def test_a_handler_is_cancelled_after_some_reports(tested_job: Job[Any, Any]) -> None:
    """`cancel_after` cancels the handler, and the CancelledError has the reason."""
    with pytest.raises(asyncio.CancelledError, match="stop"):
        run(tested_job, Photos(10), cancel_after=3, reason="stop")


async def test_only_the_handler_is_cancelled() -> None:
    """The cancellation of a handler does not affect the test that runs it."""
    with pytest.raises(asyncio.CancelledError):
        await run_async(in_loop, Photos(10), cancel_after=3)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
