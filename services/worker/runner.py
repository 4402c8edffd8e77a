"""Runs one handler: from the payload's text to how the attempt ended."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import msgspec
import structlog

from headway import Fail, Job, JobContext, Retry
from headway.contracts import (
    MAX_ERROR,
    MAX_NAME,
    RESULT_BYTES,
    JobError,
    Json,
    Progress,
    decode,
    encode,
    shortened,
)
from services.worker.outcomes import Again, Ending

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def run(job: Job[..., Any], context: JobContext, payload: Json, timeout_s: float | None) -> Ending | Again:
    """Decode the payload, call the handler and encode its result; whatever goes wrong is an ending too."""
    try:
        decoded = decode(bytes(payload), job.payload_type())
    except msgspec.DecodeError as error:
        return Ending.failed("InvalidPayload", str(error))
    except Exception as error:  # the payload's own type is at fault
        return Ending("failed", error=_told(error, job.kind))
    limit = _Limit(timeout_s)
    try:
        with limit:
            result = await _call(job, context, decoded)
    except asyncio.CancelledError:
        if limit.task.cancelling():
            raise
        if not limit.expired:
            return Again(JobError("CancelledError", "The handler cancelled itself."))
    except (Exception, SystemExit) as error:  # sys.exit() in a handler ends the job, not the worker
        if not limit.expired:
            return _raised(error, job.kind)
    else:
        return _succeeded(result)
    return Again(JobError("Timeout", f"The attempt took longer than {timeout_s:g} s."))


class _Limit:
    """Cancels the running task when its time is over, and says so: asyncio.timeout cannot tell the handler why."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False
        self.task = cast("asyncio.Task[Any]", asyncio.current_task())

    def __enter__(self) -> None:
        if self._seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self.expired = True
        self.task.cancel("timeout")

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.expired:
            self.task.uncancel()


async def _call(job: Job[..., Any], context: JobContext, payload: Any) -> Any:
    if inspect.iscoroutinefunction(job.handler):
        return await job.handler(context, payload)
    context.show_by(_FromThread)
    thread = _in_thread(partial(contextvars.copy_context().run, job.handler, context, payload))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError as error:
        if not thread.done():  # it cannot be stopped, only asked to; its effects end before the job is somebody else's
            context.cancelled = str(error.args[0]) if error.args else "cancel"
            await asyncio.wait({thread})
        raise


def _in_thread(call: Callable[[], Any]) -> asyncio.Future[Any]:
    """Call in a thread of its own, which no other handler waits for, and this process's end neither."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    ended.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask for it

    def work() -> None:
        settle: Callable[[], None]
        try:
            settle = partial(ended.set_result, call())
        except StopIteration as error:  # which no future takes
            settle = partial(ended.set_exception, RuntimeError(f"StopIteration: {error}"))
        except BaseException as error:
            settle = partial(ended.set_exception, error)
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=work, name="handler", daemon=True).start()
    return ended


class _FromThread:
    """Passes progress from a thread to the loop: the latest wins, and the loop is woken once for many."""

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._latest: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            woken = self._latest is not None
            self._latest = progress
        if not woken:
            self._loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        with self._lock:
            progress, self._latest = self._latest, None
        if progress is not None:
            self._show(progress)


def _succeeded(result: Any) -> Ending:
    try:
        text = encode(result)
    except Exception as error:  # whatever the result's own types raise; RecursionError when it holds itself
        return Ending.failed("InvalidResult", f"The result is not JSON: {error}")
    if len(text) > RESULT_BYTES:
        return Ending.failed("ResultTooLarge", f"The result has {len(text)} bytes; {RESULT_BYTES} is the most.")
    return Ending("succeeded", Json(text))


def _raised(error: BaseException, kind: str) -> Ending | Again:
    match error:
        case Fail():
            return Ending.failed("Fail", _message(error))
        case Retry(after_s=after_s):
            return Again(JobError("Retry", shortened(_message(error), MAX_ERROR)), after_s)
        case _:
            return Again(_told(error, kind))


def _told(error: BaseException, kind: str) -> JobError:
    """Tell the error to the user, and to the log where it came from: its message may quote the payload."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    log.warning("handler_failed", kind=kind, error=type(error).__name__, where=where)
    return JobError(type(error).__name__[:MAX_NAME], shortened(_message(error), MAX_ERROR))


def _message(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # an author's `__str__`
        return type(error).__name__
