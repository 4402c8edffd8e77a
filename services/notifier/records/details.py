"""The details of a job, which only operators see, as `job_details.lua` stores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct
from redis.exceptions import RedisError

from headway.contracts import JobError, StepTimes, Timestamp, decode
from headway.details import OperatorAction

T = TypeVar("T")
DETAILS_FIELDS = (
    "attempt",
    "error",
    "traceback",
    "steps",
    "message",
    "earlier_errors",
    "actions",
)  # in the order of a read


class AttemptKey(Struct, frozen=True, kw_only=True):
    """What tells an attempt from the others of its job."""

    attempt: int
    generation: int = 0
    started_at: Timestamp | None = None


class AttemptError(AttemptKey, frozen=True, kw_only=True):
    """The true error of an attempt."""

    error: JobError


class JobDetails(Struct, frozen=True, kw_only=True):
    """The details of a job. Another program may have changed them; what is not valid is missing.

    Attributes:
        attempt: the attempt that `error`, `traceback` and `steps` belong to.
        message: the text of the queue message, None if it was not kept.
        earlier_errors: the errors of other attempts, the oldest first.
        actions: what operators did with the job, the newest first.
    """

    attempt: AttemptKey | None = None
    error: JobError | None = None
    traceback: str | None = None
    steps: tuple[StepTimes, ...] = ()
    message: str | None = None
    earlier_errors: tuple[AttemptError, ...] = ()
    actions: tuple[OperatorAction, ...] = ()


def details_from_reply(reply: Sequence[bytes | None] | RedisError) -> JobDetails:
    """Return the details for the reply of `HMGET` with DETAILS_FIELDS; none if the key has another type.

    Raises:
        RedisError: the read failed.
    """
    if isinstance(reply, RedisError):
        _check_type_error(reply)
        return JobDetails()
    attempt, error, traceback, steps, message, earlier_errors, actions = reply
    return JobDetails(
        attempt=_decoded(attempt, AttemptKey),
        error=_decoded(error, JobError),
        traceback=_text(traceback),
        steps=_decoded(steps, tuple[StepTimes, ...]) or (),
        message=_text(message),
        earlier_errors=_decoded(earlier_errors, tuple[AttemptError, ...]) or (),
        actions=tuple(action for line in (actions or b"").splitlines() if (action := _decoded(line, OperatorAction))),
    )


def error_from_reply(reply: Sequence[bytes | None] | RedisError) -> JobError | None:
    """Return the error for the reply of `HMGET` with that field, None if there is none.

    Raises:
        RedisError: the read failed.
    """
    if isinstance(reply, RedisError):
        _check_type_error(reply)
        return None
    return _decoded(reply[0], JobError)


def _check_type_error(error: RedisError) -> None:
    """Raise an error of Redis, unless the key has another type."""
    if not str(error).startswith("WRONGTYPE"):
        raise error


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _decoded(value: bytes | None, target: type[T]) -> T | None:
    """Return a value, or None if it is missing or not valid."""
    try:
        return None if value is None else decode(value, target)
    except msgspec.DecodeError:
        return None
