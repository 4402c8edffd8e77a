"""Run a handler in a test as a worker would, without any service.

from headway.testing import run

def test_every_photo_is_resized():
    ran = run(thumbnails, {"photos": 3})
    assert ran.result == {"resized": 3}
    assert ran.progress[-1].percent == 100.0
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec

from headway.context import Attempt, JobContext, completed_awaitable
from headway.contracts import MAX_RESULT_BYTES, Json, Progress, StepTimes, decode, encode_value
from headway.jobs import Job


class Run(NamedTuple):
    """The handler's result, every progress that it reported, and the checkpoints that it saved."""

    result: Any
    progress: list[Progress]
    checkpoints: list[Any]


def run(
    job: Job[Any, Any],
    payload: Any = None,
    *,
    checkpoint: Any = None,
    attempt: int = 1,
    job_id: UUID | None = None,
    cancel_after: int | None = None,
    reason: str = "cancel",
) -> Run:
    """Run a job's handler once, in this process, even if it has `process=True`.

    Called inside a running event loop, it blocks the loop; use `run_async` there.

    Args:
        job: the decorated handler.
        payload: the payload as it would be submitted: any value that msgspec encodes as JSON.
        checkpoint: the value that an earlier attempt saved.
        attempt: the number of the attempt.
        job_id: the job's id, random by default.
        cancel_after: cancel the handler after this number of progress reports.
        reason: the reason for the cancellation: `cancel`, `timeout`, `stop` or `lease`.

    Raises:
        msgspec.ValidationError: the payload does not fit the handler's type; the message names the field.
        ValueError, TypeError: payload or result cannot be encoded as JSON, or the result is too large.
        CancelledError: the handler was cancelled.
        Exception: any exception of the handler, including Fail and Retry.
    """
    work = run_async(
        job, payload, checkpoint=checkpoint, attempt=attempt, job_id=job_id, cancel_after=cancel_after, reason=reason
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(contextvars.copy_context().run, asyncio.run, work).result()


async def run_async(
    job: Job[Any, Any],
    payload: Any = None,
    *,
    checkpoint: Any = None,
    attempt: int = 1,
    job_id: UUID | None = None,
    cancel_after: int | None = None,
    reason: str = "cancel",
) -> Run:
    """Run a job's handler once in the running event loop, as `run` does."""
    recorder = Recorder(cancel_after)
    attempt_info = Attempt(
        job_id=job_id or uuid4(),
        kind=job.kind,
        attempt=attempt,
        max_attempts=job.max_attempts,
        checkpoint=encode_value("checkpoint", checkpoint),
    )
    decoded = decode(bytes(encode_value("payload", {} if payload is None else payload)), job.payload_type())
    context = JobContext(attempt_info, recorder)
    if job.is_async:
        task = asyncio.create_task(job.handler(context, decoded))
        recorder.cancel = lambda: task.cancel(reason)
        result = await task
    else:
        recorder.cancel = lambda: setattr(context, "cancelled", reason)
        result = job.handler(context, decoded)
    encode_value("result", result, MAX_RESULT_BYTES)
    return Run(result, recorder.progress, recorder.checkpoints)


class Recorder:
    """Records progress and checkpoints; use it as the sink of a `JobContext` that you create yourself."""

    def __init__(self, cancel_after: int | None = None) -> None:
        self.progress: list[Progress] = []
        self.checkpoints: list[Any] = []
        self.cancel: Callable[[], object]
        self._cancel_after = cancel_after

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when the handler reports progress: record it."""
        self.progress.append(collect())
        if len(self.progress) == self._cancel_after:
            self.cancel()

    def steps_started(self, collect: Callable[[], tuple[StepTimes, ...]]) -> None:
        """Called when the handler begins its first step; its steps are part of its progress."""

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Record the checkpoint."""
        self.checkpoints.append(msgspec.json.decode(checkpoint))
        return completed_awaitable()
