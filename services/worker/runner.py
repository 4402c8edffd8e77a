"""Runs one handler: from the payload's text to how the job ended."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any, cast

import msgspec
import structlog
from msgspec import Struct

from headway import Job, JobContext
from headway.contracts import (
    MAX_ERROR,
    MAX_NAME,
    NULL,
    RESULT_BYTES,
    JobError,
    JobStatus,
    Json,
    decode,
    encode,
    shortened,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Ending(Struct, frozen=True):
    """How a job ended."""

    status: JobStatus
    result: Json = NULL
    error: JobError | None = None

    @classmethod
    def failed(cls, kind: str, message: str) -> Ending:
        """End a job `failed`, with an error for its user."""
        return cls("failed", error=JobError(kind[:MAX_NAME], shortened(message, MAX_ERROR)))


async def run(job: Job[..., Any], context: JobContext, payload: Json, timeout_s: float | None) -> Ending:
    """Decode the payload, call the handler and encode its result; whatever goes wrong is an ending too."""
    try:
        decoded = decode(bytes(payload), job.payload_type())
    except msgspec.DecodeError as error:
        return Ending.failed("InvalidPayload", str(error))
    except Exception as error:  # the payload's own type is at fault
        return _failed(error, job.kind)
    try:
        async with asyncio.timeout(timeout_s) as limit:
            result = await job.handler(context, decoded)
    except asyncio.CancelledError:
        if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
            raise
        return Ending.failed("CancelledError", "The handler cancelled itself.")
    except (Exception, SystemExit) as error:  # sys.exit() in a handler ends the job, not the worker
        if limit.expired():
            return Ending.failed("Timeout", f"The job took longer than {timeout_s:g} s.")
        return _failed(error, job.kind)
    return _succeeded(result)


def _succeeded(result: Any) -> Ending:
    try:
        text = encode(result)
    except Exception as error:  # whatever the result's own types raise; RecursionError when it holds itself
        return Ending.failed("InvalidResult", f"The result is not JSON: {error}")
    if len(text) > RESULT_BYTES:
        return Ending.failed("ResultTooLarge", f"The result has {len(text)} bytes; {RESULT_BYTES} is the most.")
    return Ending("succeeded", Json(text))


def _failed(error: BaseException, kind: str) -> Ending:
    """Tell the error to the user, and to the log where it came from: its message may quote the payload."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    log.warning("handler_failed", kind=kind, error=type(error).__name__, where=where)
    try:
        message = str(error)
    except Exception:  # an author's `__str__`
        message = ""
    return Ending.failed(type(error).__name__, message or type(error).__name__)
