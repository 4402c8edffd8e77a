"""How an attempt can end: by itself, or because something stops it."""

from __future__ import annotations

import traceback
from enum import Enum, auto
from typing import Any

import msgspec
from msgspec import Struct

from headway import Fail, Job, Retry
from headway.contracts import (
    MAX_DEPTH,
    MAX_ERROR_LENGTH,
    MAX_NAME_LENGTH,
    MAX_RESULT_BYTES,
    NULL,
    JobError,
    JobStatus,
    Json,
    Timestamp,
    decode,
    encode,
    nesting_depth,
    truncate,
)


class Finished(Struct, frozen=True, tag=True):
    """How a job ended."""

    status: JobStatus
    result: Json = NULL
    error: JobError | None = None
    due_at: None = None

    @classmethod
    def failed(cls, kind: str, message: str) -> Finished:
        """End a job `failed`, with an error for its user."""
        return cls("failed", error=JobError(kind[:MAX_NAME_LENGTH], truncate(message, MAX_ERROR_LENGTH)))


class RetryLater(Struct, frozen=True, tag=True):
    """An attempt that asks for another one; without `after_s`, by the kind's backoff."""

    error: JobError
    after_s: float | None = None
    status: JobStatus = "retrying"
    result: Json = NULL

    @property
    def due_at(self) -> Timestamp:
        """When the next attempt is, counted from now."""
        return Timestamp.now().after(self.after_s or 0)


class Interruption(Enum):
    """Why a delivery goes no further."""

    CANCELLED = auto()  # a watcher asked for it
    FINISHED = auto()  # the job has ended, or is another message's: this message is of no more use
    SUPERSEDED = auto()  # another delivery has the job: touch nothing
    LEASE_LOST = auto()  # the message is another worker's, or may be: touch nothing
    REFUSED = auto()  # the notifier finds the reports themselves wrong: a human must look
    STOPPED = auto()  # this worker stops: hand the message back

    @property
    def reason(self) -> str:
        """Why a handler is cancelled, as it is told."""
        return {Interruption.CANCELLED: "cancel", Interruption.STOPPED: "stop"}.get(self, "lease")


Outcome = Finished | RetryLater | Interruption

# What a verdict that refuses a report means.
INTERRUPTION_BY_VERDICT = {
    "finished": Interruption.FINISHED,
    "duplicate": Interruption.FINISHED,
    "superseded": Interruption.SUPERSEDED,
    "stale": Interruption.SUPERSEDED,
}


def outcome_from_result(result: Any) -> Finished:
    """End a job with what its handler has returned."""
    try:
        text = encode(result)
    except Exception as error:  # whatever the result's own types raise; RecursionError when it holds itself
        return Finished.failed("InvalidResult", f"The result is not JSON: {error}")
    if len(text) > MAX_RESULT_BYTES:
        return Finished.failed("ResultTooLarge", f"The result has {len(text)} bytes; {MAX_RESULT_BYTES} is the most.")
    if nesting_depth(text) > MAX_DEPTH:
        return Finished.failed("InvalidResult", f"The result is nested more than {MAX_DEPTH} levels deep.")
    return Finished("succeeded", Json(text))


def outcome_from_exception(error: BaseException) -> tuple[Finished | RetryLater, list[str]]:
    """End an attempt with what it has raised, and tell where that came from when it is worth a line in the log."""
    match error:
        case Fail():
            return Finished.failed("Fail", error_message(error)), []
        case Retry(after_s=after_s):
            return RetryLater(JobError("Retry", truncate(error_message(error), MAX_ERROR_LENGTH)), after_s), []
        case InvalidPayload(error=told, __cause__=cause):
            return Finished("failed", error=told), [] if cause is None else traceback_lines(cause)
        case _:
            return RetryLater(job_error(error)), traceback_lines(error)


class InvalidPayload(Exception):
    """The payload is none that the handler takes."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


def decode_payload(job: Job[..., Any], payload: Json) -> Any:
    """Decode a payload to what the handler takes."""
    try:
        return decode(bytes(payload), job.payload_type())
    except msgspec.DecodeError as error:
        raise InvalidPayload(JobError("InvalidPayload", truncate(str(error), MAX_ERROR_LENGTH))) from None
    except Exception as error:  # the payload's own type is at fault
        raise InvalidPayload(job_error(error)) from error


def job_error(error: BaseException) -> JobError:
    """Return an exception as the error of a job."""
    return JobError(type(error).__name__[:MAX_NAME_LENGTH], truncate(error_message(error), MAX_ERROR_LENGTH))


def traceback_lines(error: BaseException) -> list[str]:
    """Return the places that an exception passed, without its message, which may contain the payload."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def error_message(error: BaseException) -> str:
    """Return the message of an exception, its type's name if it has none."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # an author's `__str__`
        return type(error).__name__
