"""What job authors test with."""

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
    """Count, from where an earlier attempt was."""
    begun = ctx.checkpoint_value or 0
    async for number in ctx.track(range(begun, payload.count)):
        await asyncio.sleep(0)
        await ctx.checkpoint(number + 1)
    return {"attempt": ctx.attempt, "begun": begun}


@job("sync", process=True)
def beside(ctx: JobContext, payload: Photos) -> int:
    """Count in a plain function."""
    for number in ctx.track(range(payload.count)):
        ctx.checkpoint(number)
    return payload.count


def checked(ran: Run) -> None:
    """Hold what a run of the async job over two photos has left."""
    assert ran.result == {"attempt": 1, "begun": 0}
    assert [one.percent for one in ran.progress] == [0.0, 50.0, 100.0]
    assert ran.checkpoints == [1, 2]


def test_a_handler_runs_without_any_service() -> None:
    """The result, all progress and all checkpoints come back."""
    checked(run(in_loop, {"count": 2}))


async def test_a_handler_runs_within_a_loop() -> None:
    """As in a test that is itself asynchronous, and in its own loop when it asks for that."""
    checked(run(in_loop, {"count": 2}))
    checked(await run_async(in_loop, Photos(2)))


def test_plain_functions_run_too() -> None:
    """Also those that have a process of their own in a worker."""
    ran = run(beside, Photos(3))
    assert (ran.result, len(ran.progress), ran.checkpoints) == (3, 4, [0, 1, 2])


def test_a_later_attempt_finds_what_an_earlier_one_has_kept() -> None:
    """A test gives it, as the queue would."""
    assert run(in_loop, {"count": 3}, checkpoint=2, attempt=4).result == {"attempt": 4, "begun": 2}


def test_a_payload_that_does_not_fit_is_named() -> None:
    """As the job's user would be told."""
    with pytest.raises(msgspec.ValidationError, match=r"\$\.count"):
        run(in_loop, {"count": "many"})


@pytest.mark.parametrize(
    ("result", "error"),
    [("x" * MAX_RESULT_BYTES, ValueError), (object(), TypeError), (msgspec.Raw(b"[" * 600 + b"]" * 600), ValueError)],
    ids=["large", "no JSON", "deep"],
)
def test_a_result_that_a_worker_would_refuse_is_refused(result: Any, error: type[Exception]) -> None:
    """Before it happens in production."""

    @job("returns")
    async def returns(_ctx: JobContext, _payload: Any) -> Any:
        return result

    with pytest.raises(error):
        run(returns)


@pytest.mark.parametrize(
    "value", ["x" * MAX_CHECKPOINT_BYTES, msgspec.Raw(b"[" * 600 + b"]" * 600)], ids=["large", "deep"]
)
def test_a_checkpoint_has_its_limits(value: Any) -> None:
    """The handler is told where it keeps it."""

    @job("keeps")
    async def keeps(ctx: JobContext, _payload: Any) -> None:
        await ctx.checkpoint(value)

    with pytest.raises(ValueError, match="checkpoint"):
        run(keeps)


def test_what_a_handler_raises_comes_out() -> None:
    """A test expects it as it would any error."""

    @job("fails")
    async def fails(_ctx: JobContext, _payload: Any) -> None:
        raise Fail("No photos")

    with pytest.raises(Fail, match="No photos"):
        run(fails)


@pytest.mark.parametrize("made", [in_loop, beside])
def test_a_handler_is_cancelled_where_the_test_wants_it(made: Job[..., Any]) -> None:
    """It is told why, and what it had kept by then stands."""
    with pytest.raises(asyncio.CancelledError, match="stop"):
        run(made, Photos(10), cancel_after=3, reason="stop")


async def test_a_test_in_a_loop_outlives_the_cancellation() -> None:
    """It is the handler's alone."""
    with pytest.raises(asyncio.CancelledError):
        await run_async(in_loop, Photos(10), cancel_after=3)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
