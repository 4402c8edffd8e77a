"""The outcomes of a delivery: the attempt finished, asks for a retry, or was interrupted."""

from __future__ import annotations

import re
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
_QUOTED_VALUE = re.compile(r"^(Invalid (?:enum )?value) .*?( - at `[^`]*`)?$", re.DOTALL)


class Failure(Struct, frozen=True):
    """Why an attempt failed.

    Attributes:
        error: the true error.
        traceback: that of an unexpected exception.
        is_public: whether users may see the error: it was written for them, by the author of the job or by Headway.
    """

    error: JobError
    traceback: Traceback | None = None
    is_public: bool = False


def public_failure(error_type: str, message: str, traceback: Traceback | None = None) -> Failure:
    """Return a failure whose error users see; its message is cut to its limit."""
    return Failure(JobError(error_type, truncate(message, MAX_ERROR_LENGTH)), traceback, is_public=True)


class Finished(Struct, frozen=True, tag=True):
    """The final outcome of a job."""

    status: JobStatus
    result: Json = NULL
    failure: Failure | None = None
    after_s: None = None

    @classmethod
    def failed(cls, error_type: str, message: str) -> Finished:
        """Return the outcome `failed` with an error that users see; its message is cut to its limit."""
        return cls("failed", failure=public_failure(error_type, message))


class RetryLater(Struct, frozen=True, tag=True):
    """A failed attempt that is to be followed by another one.

    It starts after `after_s` seconds; None means the backoff of the kind. With `abandoned` there is no other attempt,
    because the handler of this one still runs.
    """

    failure: Failure
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
        message = truncate(f"The result cannot be encoded as JSON: {error_message(error)}", MAX_ERROR_LENGTH)
        return Finished("failed", failure=Failure(JobError("InvalidResult", message), Traceback.of(error)))


def outcome_from_exception(error: BaseException) -> Finished | RetryLater:
    """Return the outcome for an exception of a handler.

    Fail, Retry and an invalid payload are not bugs and have no traceback, unless they are part of a group.
    """
    try:
        return _outcome_from_exception(error)
    except BaseException:  # the attributes of an author's exception may raise anything
        unreadable = JobError(type_name(error), "The exception has no readable text.")
        return RetryLater(Failure(unreadable, Traceback.of(error)))


def _outcome_from_exception(error: BaseException) -> Finished | RetryLater:
    cause = decisive_exception(error)
    traceback = None if cause is error else Traceback.of(error)
    match cause:
        case Fail():
            return Finished("failed", failure=public_failure("Fail", error_message(cause), traceback))
        case Retry(after_s=after_s):
            return RetryLater(public_failure("Retry", error_message(cause), traceback), _delay_s(after_s))
        case InvalidPayload(__cause__=None):
            return Finished.failed("InvalidPayload", error_message(cause))
        case InvalidPayload(__cause__=BaseException() as bug):
            return Finished("failed", failure=Failure(job_error(bug), Traceback.of(bug)))
        case _:
            return RetryLater(Failure(job_error(cause), traceback or Traceback.of(error)))


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
    """The payload does not fit the type that the handler expects, or the type itself raised the cause of this."""


def decode_payload(job: Job[Any, Any], payload: Json) -> Any:
    """Decode a payload to the type of the handler's second parameter.

    Raises:
        InvalidPayload: the payload does not fit; or the type itself has a bug, which is the exception's cause then.
    """
    try:
        return decode(bytes(payload), job.payload_type())
    except msgspec.DecodeError as error:
        # A type rejects a payload by a ValueError. msgspec turns a TypeError in its code into a DecodeError, too.
        bug = error.__cause__ if isinstance(error.__cause__, TypeError) else None
        raise InvalidPayload(_without_value(error)) from bug
    except Exception as error:
        raise InvalidPayload from error


def _without_value(error: msgspec.DecodeError) -> str:
    """Return the message of an error without the value of the payload that msgspec quotes, unless it is an author's."""
    return str(error) if error.__cause__ is not None else _QUOTED_VALUE.sub(r"\1\2", str(error))


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
