"""The outcomes of a delivery: the attempt finished, asks for a retry, or was interrupted."""

from __future__ import annotations

import traceback
from enum import Enum, auto
from typing import Any

import msgspec
from msgspec import Struct

from headway import Fail, Job, Retry
from headway.contracts import (
    MAX_ERROR_LENGTH,
    MAX_NAME_LENGTH,
    MAX_NESTING_DEPTH,
    MAX_RESULT_BYTES,
    NULL,
    JobError,
    JobStatus,
    Json,
    decode,
    encode,
    nesting_depth,
    truncate,
)


class Finished(Struct, frozen=True, tag=True):
    """The final outcome of a job."""

    status: JobStatus
    result: Json = NULL
    error: JobError | None = None
    after_s: None = None

    @classmethod
    def failed(cls, error_type: str, message: str) -> Finished:
        """Return the outcome `failed`; the error's type and message are shown to users and cut to their limits."""
        return cls("failed", error=JobError(error_type[:MAX_NAME_LENGTH], truncate(message, MAX_ERROR_LENGTH)))


class RetryLater(Struct, frozen=True, tag=True):
    """A failed attempt that is to be followed by another one.

    It starts after `after_s` seconds; None means the backoff of the kind.
    """

    error: JobError
    after_s: float | None = None
    status: JobStatus = "retrying"
    result: Json = NULL


class Interruption(Enum):
    """Why a delivery stops early."""

    CANCELLED = auto()  # a client requested it
    FINISHED = auto()  # the job has ended, was redriven, or belongs to another message: delete this one
    SUPERSEDED = auto()  # a newer delivery has the job: leave the message alone
    LEASE_LOST = auto()  # another worker has the message, or may have it: leave it alone
    REFUSED = auto()  # the notifier rejects the reports as invalid: keep the message on the poison queue
    STOPPED = auto()  # this worker stops: release the message

    @property
    def reason(self) -> str:
        """The argument of the handler's CancelledError: `cancel`, `stop` or `lease`."""
        return {Interruption.CANCELLED: "cancel", Interruption.STOPPED: "stop"}.get(self, "lease")


Outcome = Finished | RetryLater | Interruption


class LeaseLost(Exception):
    """Another worker has the message, or may have it."""


# The interruption for each reason of a rejected report.
INTERRUPTION_BY_VERDICT = {
    "finished": Interruption.FINISHED,
    "duplicate": Interruption.FINISHED,
    "superseded": Interruption.SUPERSEDED,
    "stale": Interruption.SUPERSEDED,
}


def outcome_from_result(result: Any) -> Finished:
    """Return the outcome for a handler's return value: `succeeded`, or `failed` if it cannot be a result."""
    try:
        text = encode(result)
    except Exception as error:  # of the author's types; RecursionError if the result contains itself
        return Finished.failed("InvalidResult", f"The result cannot be encoded as JSON: {error}")
    if len(text) > MAX_RESULT_BYTES:
        return Finished.failed("ResultTooLarge", f"The result has {len(text)} bytes; the limit is {MAX_RESULT_BYTES}.")
    if nesting_depth(text) > MAX_NESTING_DEPTH:
        return Finished.failed("InvalidResult", f"The result is nested more than {MAX_NESTING_DEPTH} levels deep.")
    return Finished("succeeded", Json(text))


def outcome_from_exception(error: BaseException) -> tuple[Finished | RetryLater, list[str]]:
    """Return the outcome for an exception of a handler, and the traceback lines to log.

    The list is empty for Fail, Retry and an invalid payload, which are not bugs.
    """
    match error:
        case Fail():
            return Finished.failed("Fail", error_message(error)), []
        case Retry(after_s=after_s):
            return RetryLater(JobError("Retry", truncate(error_message(error), MAX_ERROR_LENGTH)), after_s), []
        case InvalidPayload(error=payload_error, __cause__=cause):
            return Finished("failed", error=payload_error), [] if cause is None else traceback_lines(cause)
        case _:
            return RetryLater(job_error(error)), traceback_lines(error)


class InvalidPayload(Exception):
    """The payload does not fit the type that the handler expects."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


def decode_payload(job: Job[Any, Any], payload: Json) -> Any:
    """Decode a payload to the type of the handler's second parameter.

    Raises:
        InvalidPayload: the payload does not fit; or the type itself raised, and then the exception has a cause.
    """
    try:
        return decode(bytes(payload), job.payload_type())
    except msgspec.DecodeError as error:
        raise InvalidPayload(JobError("InvalidPayload", truncate(str(error), MAX_ERROR_LENGTH))) from None
    except Exception as error:  # a bug in the payload type
        raise InvalidPayload(job_error(error)) from error


def job_error(error: BaseException) -> JobError:
    """Return an exception as a job's error: its type and message, cut to their limits."""
    return JobError(type(error).__name__[:MAX_NAME_LENGTH], truncate(error_message(error), MAX_ERROR_LENGTH))


def traceback_lines(error: BaseException) -> list[str]:
    """Return file, line and function of each frame, without the message, which may contain the payload."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def error_message(error: BaseException) -> str:
    """Return the message of an exception, or the name of its type if it has none."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # the `__str__` of an author's exception may fail
        return type(error).__name__
