"""The outcomes of a delivery: the attempt finished, asks for a retry, or was interrupted."""

from __future__ import annotations

from asyncio import CancelledError
from enum import Enum, auto
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from headway import Fail, Job, Retry
from headway.contracts import (
    MAX_DELAY_S,
    MAX_ERROR_LENGTH,
    MAX_NAME_LENGTH,
    MAX_RESULT_BYTES,
    NULL,
    InvalidValue,
    JobError,
    JobStatus,
    Json,
    ValueTooLarge,
    decode,
    encode_value,
    truncate,
)

from ..runtime.exception_tree import leaf_exceptions, message_of, type_name
from ..runtime.tracebacks import Traceback

MAX_LEAVES = 5  # of an exception group, in its error message


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

    It starts after `after_s` seconds; None means the backoff of the kind. With `abandoned` there is no other attempt,
    because the handler of this one still runs.
    """

    error: JobError
    after_s: float | None = None
    abandoned: bool = False
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
        return Finished("succeeded", encode_value("result", result, MAX_RESULT_BYTES))
    except ValueTooLarge as error:
        return Finished.failed("ResultTooLarge", str(error))
    except InvalidValue as error:
        return Finished.failed("InvalidResult", str(error))
    except Exception as error:  # of the author's types; RecursionError if the result contains itself
        return Finished.failed("InvalidResult", f"The result cannot be encoded as JSON: {error_message(error)}")


def outcome_from_exception(error: BaseException) -> tuple[Finished | RetryLater, Traceback | None]:
    """Return the outcome for an exception of a handler, and the traceback to log.

    Fail, Retry and an invalid payload are not bugs and have no traceback, unless they are part of a group.
    """
    try:
        return _outcome_from_exception(error)
    except BaseException:  # the attributes of an author's exception may raise anything
        return RetryLater(JobError(type_name(error), "The exception has no readable text.")), Traceback.of(error)


def _outcome_from_exception(error: BaseException) -> tuple[Finished | RetryLater, Traceback | None]:
    cause = decisive_exception(error)
    traceback = None if cause is error else Traceback.of(error)
    match cause:
        case Fail():
            return Finished.failed("Fail", error_message(cause)), traceback
        case Retry(after_s=after_s):
            message = truncate(error_message(cause), MAX_ERROR_LENGTH)
            return RetryLater(JobError("Retry", message), _delay_s(after_s)), traceback
        case InvalidPayload(error=payload_error, __cause__=bug):
            return Finished("failed", error=payload_error), None if bug is None else Traceback.of(bug)
        case _:
            return RetryLater(job_error(cause)), traceback or Traceback.of(error)


def _delay_s(after_s: Any) -> float | None:
    """Return the delay that a Retry asks for; None if an author has set its attribute to what is no delay."""
    try:
        delay_s = float(min(after_s, MAX_DELAY_S))
    except Exception:
        return None
    return delay_s if delay_s >= 0 else None


def decisive_exception(error: BaseException) -> BaseException:
    """Return the exception that decides the outcome.

    Of a group, this is the first Fail, otherwise the first Retry, otherwise the only exception, otherwise the group
    itself. Cancellations do not count: a task group cancels its tasks when one of them fails.
    """
    leaves = list(leaf_exceptions(error))
    for chosen_type in (Fail, Retry):
        for leaf in leaves:
            if isinstance(leaf, chosen_type):
                return leaf
    failures = [leaf for leaf in leaves if not isinstance(leaf, CancelledError)] or leaves[:1]
    return failures[0] if len(failures) == 1 else error


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
    """Return an exception as a job's error: its type and message, cut to their limits.

    The message of a group includes the types and messages of its exceptions.
    """
    message = error_message(error)
    if isinstance(error, BaseExceptionGroup):
        leaves = islice(leaf_exceptions(error), MAX_LEAVES)
        message += ": " + "; ".join(f"{type_name(leaf)}: {error_message(leaf)}" for leaf in leaves)
    return JobError(type_name(error), truncate(message, MAX_ERROR_LENGTH))


def error_message(error: BaseException) -> str:
    """Return the message of an exception, or the name of its type if it has none."""
    return message_of(error) or type_name(error)
