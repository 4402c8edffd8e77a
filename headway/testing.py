"""For the tests of job authors: runs a handler as a worker would, without any service.

from headway.testing import run

def test_every_photo_is_resized():
    ran = run(thumbnails, {"photos": 3})
    assert ran.result == {"resized": 3}
    assert ran.progress[-1].percent == 100.0
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec

from headway.context import Attempt, JobContext, completed_awaitable
from headway.contracts import MAX_DEPTH, MAX_RESULT_BYTES, Json, Progress, decode, encode, nesting_depth
from headway.jobs import Job


class Run(NamedTuple):
    """What a handler has returned, every progress that it has shown, and the checkpoints that it has kept."""

    result: Any
    progress: list[Progress]
    checkpoints: list[Any]


def run(
    job: Job[..., Any],
    payload: Any = None,
    *,
    checkpoint: Any = None,
    attempt: int = 1,
    job_id: UUID | None = None,
    cancel_after: int | None = None,
    reason: str = "cancel",
) -> Run:
    """Run a job's handler once, in this process, also when it would have one of its own.

    `payload` is what the job would be submitted with: JSON, or anything that msgspec encodes to it. `checkpoint` is
    what an earlier attempt has kept. With `cancel_after`, the handler is cancelled, for that reason, once it has shown
    progress so many times. It may be called within a running loop, which it holds up: there, `run_async`
    does the same in that loop.

    Raises:
        msgspec.ValidationError: the payload is none that the handler takes; the message names the field.
        ValueError, TypeError: the result is too large, or not JSON.
        CancelledError: it was cancelled.
        Exception: whatever the handler raises; Fail and Retry, too.
    """
    work = run_async(
        job, payload, checkpoint=checkpoint, attempt=attempt, job_id=job_id, cancel_after=cancel_after, reason=reason
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(contextvars.copy_context().run, asyncio.run, work).result()


async def run_async(
    job: Job[..., Any],
    payload: Any = None,
    *,
    checkpoint: Any = None,
    attempt: int = 1,
    job_id: UUID | None = None,
    cancel_after: int | None = None,
    reason: str = "cancel",
) -> Run:
    """Run a job's handler once in the running loop; otherwise as `run`."""
    recorder = Recorder(cancel_after)
    about = Attempt(
        job_id=job_id or uuid4(),
        kind=job.kind,
        attempt=attempt,
        max_attempts=job.max_attempts,
        checkpoint=Json(encode(checkpoint)),
    )
    decoded = decode(encode({} if payload is None else payload), job.payload_type())
    context = JobContext(about, recorder)
    if inspect.iscoroutinefunction(job.handler):
        task = asyncio.create_task(job.handler(context, decoded))
        recorder.cancel = lambda: task.cancel(reason)
        result = await task
    else:
        recorder.cancel = lambda: setattr(context, "cancelled", reason)
        result = job.handler(context, decoded)
    text = encode(result)
    if len(text) > MAX_RESULT_BYTES or nesting_depth(text) > MAX_DEPTH:
        raise ValueError(f"a result has at most {MAX_RESULT_BYTES} bytes in {MAX_DEPTH} levels: {len(text)} bytes")
    return Run(result, recorder.progress, recorder.checkpoints)


class Recorder:
    """Keeps what a handler has to say: a host for a `JobContext` that is made by hand."""

    def __init__(self, cancel_after: int | None = None) -> None:
        self.progress: list[Progress] = []
        self.checkpoints: list[Any] = []
        self.cancel: Callable[[], object]
        self._cancel_after = cancel_after

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Take it at once, all of it."""
        self.progress.append(collect())
        if len(self.progress) == self._cancel_after:
            self.cancel()

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Keep it here."""
        self.checkpoints.append(msgspec.json.decode(checkpoint))
        return completed_awaitable()
