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
    MAX_ERROR,
    MAX_NAME,
    NULL,
    RESULT_BYTES,
    JobError,
    JobStatus,
    Json,
    Timestamp,
    decode,
    depth,
    encode,
    shortened,
)


class Ending(Struct, frozen=True, tag=True):
    """How a job ended."""

    status: JobStatus
    result: Json = NULL
    error: JobError | None = None
    due_at: None = None

    @classmethod
    def failed(cls, kind: str, message: str) -> Ending:
        """End a job `failed`, with an error for its user."""
        return cls("failed", error=JobError(kind[:MAX_NAME], shortened(message, MAX_ERROR)))


class Again(Struct, frozen=True, tag=True):
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
    def word(self) -> str:
        """Why a handler is cancelled, as it is told."""
        return {Interruption.CANCELLED: "cancel", Interruption.STOPPED: "stop"}.get(self, "lease")


Outcome = Ending | Again | Interruption

# What a verdict that refuses a report means.
REASONS = {
    "finished": Interruption.FINISHED,
    "duplicate": Interruption.FINISHED,
    "superseded": Interruption.SUPERSEDED,
    "stale": Interruption.SUPERSEDED,
}


def succeeded(result: Any) -> Ending:
    """End a job with what its handler has returned."""
    try:
        text = encode(result)
    except Exception as error:  # whatever the result's own types raise; RecursionError when it holds itself
        return Ending.failed("InvalidResult", f"The result is not JSON: {error}")
    if len(text) > RESULT_BYTES:
        return Ending.failed("ResultTooLarge", f"The result has {len(text)} bytes; {RESULT_BYTES} is the most.")
    if depth(text) > MAX_DEPTH:
        return Ending.failed("InvalidResult", f"The result is nested more than {MAX_DEPTH} levels deep.")
    return Ending("succeeded", Json(text))


def raised(error: BaseException) -> tuple[Ending | Again, list[str]]:
    """End an attempt with what it has raised, and tell where that came from when it is worth a line in the log."""
    match error:
        case Fail():
            return Ending.failed("Fail", _message(error)), []
        case Retry(after_s=after_s):
            return Again(JobError("Retry", shortened(_message(error), MAX_ERROR)), after_s), []
        case InvalidPayload(error=told, __cause__=cause):
            return Ending("failed", error=told), [] if cause is None else _frames(cause)
        case _:
            return Again(_told(error)), _frames(error)


class InvalidPayload(Exception):
    """The payload is none that the handler takes."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


def read_payload(job: Job[..., Any], payload: Json) -> Any:
    """Decode a payload to what the handler takes."""
    try:
        return decode(bytes(payload), job.payload_type())
    except msgspec.DecodeError as error:
        raise InvalidPayload(JobError("InvalidPayload", shortened(str(error), MAX_ERROR))) from None
    except Exception as error:  # the payload's own type is at fault
        raise InvalidPayload(_told(error)) from error


def _told(error: BaseException) -> JobError:
    return JobError(type(error).__name__[:MAX_NAME], shortened(_message(error), MAX_ERROR))


def _frames(error: BaseException) -> list[str]:
    """Name the places that an error came through, and no more: its message may quote the payload."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def _message(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # an author's `__str__`
        return type(error).__name__
