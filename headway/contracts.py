"""The wire contracts: queue messages, reports and their verdicts, and the snapshots that clients receive.

Times are `Timestamp`: milliseconds since the epoch in code, RFC 3339 in UTC with milliseconds in JSON.
Payload, result and checkpoint are `Json`: encoded JSON that the services forward byte for byte.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict

from headway.json_codec import MAX_NESTING_DEPTH as MAX_NESTING_DEPTH
from headway.json_codec import InvalidValue as InvalidValue
from headway.json_codec import ValueTooLarge as ValueTooLarge
from headway.json_codec import check_decodable as check_decodable
from headway.json_codec import decode as decode
from headway.json_codec import encode as encode
from headway.json_codec import encode_value as encode_value
from headway.json_codec import nesting_depth as nesting_depth
from headway.labels import MAX_KIND_LENGTH, Labels
from headway.timestamp import Timestamp as Timestamp

SCHEMA_VERSION = 2  # of messages, reports and records, as docs/upgrading.md explains; version 0.1 had 1
MAX_PAYLOAD_BYTES = 32 * 1024
MAX_RESULT_BYTES = 32 * 1024
MAX_CHECKPOINT_BYTES = 8 * 1024
MAX_MESSAGE_BYTES = 64 * 1024  # of an encoded queue message
MAX_REPORTS_PER_REQUEST = 500
MAX_REPORTS_BYTES = 1024 * 1024
DEFAULT_ATTEMPTS = 5  # the default of `max_attempts`
MAX_ATTEMPTS = 1000  # the limit of `max_attempts`
MAX_DELAY_S = 7 * 86_400  # before a start: the maximum visibility timeout of the queue
MAX_RELEASES = 20  # by draining workers; further ones cost attempts, or a handler that stops its worker never ends
MAX_NAME_LENGTH = MAX_KIND_LENGTH  # characters of a kind, and of other names
MAX_PROGRESS_MESSAGE_LENGTH = 1_000  # characters of a progress message
MAX_UNIT_LENGTH = 32
MAX_UNFINISHED_PERCENT = 99.99  # before the total is reached
MAX_ERROR_LENGTH = 4_000  # characters of an error's message
MAX_TRACEBACK_BYTES = 8 * 1024  # of one that a worker sends
MAX_DETAILS_BYTES = 56 * 1024  # of the message and the traceback of a report
MAX_STEPS = 100  # of an attempt, in its details
MAX_STEP_NAME_LENGTH = 200

JobStatus = Literal["queued", "running", "retrying", "succeeded", "failed", "cancelled"]
RejectionReason = Literal["superseded", "finished", "duplicate", "stale"]
ENDED: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})  # the final statuses

Json = msgspec.Raw
NULL = Json(b"null")
EMPTY_PAYLOAD = Json(b"{}")
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Natural = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # JavaScript represents larger integers only approximately
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)] | Annotated[float, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1, le=2**53 - 1)]
MaxAttempts = Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)]
TimeoutSeconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]


def percentage(current: float, total: float | None) -> float | None:
    """Return the percentage, 0.0 to 100.0 with two decimals, or None if the total is unknown.

    It is 100 only when the total is reached: 99,999 of 100,000 are 99.99 %.
    """
    if total is None:
        return None
    return 100.0 if current >= total else min(round(100.0 * (current / total), 2), MAX_UNFINISHED_PERCENT)


class JobMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message on the jobs queue."""

    id: UUID
    kind: Name = "countdown"
    payload: Json = EMPTY_PAYLOAD
    submitted_at: Timestamp | None = None  # None: when the queue received the message
    due_at: Timestamp | None = None  # None: at once
    expires_at: Timestamp | None = None  # None: JOB_TTL_S after the submission
    generation: Natural = 0  # how often the job was redriven
    max_attempts: MaxAttempts | None = None  # None: the number of the kind
    timeout_s: TimeoutSeconds | None = None  # of one attempt; None: the timeout of the kind
    releases: Natural = 0  # how often the message was released at the cost of no attempt
    checkpoint: Json = NULL
    drains: Natural = 0  # how many of the releases a draining worker made
    progress: Progress | None = None  # of the attempt that was released last
    progress_attempt: Positive | None = None  # the number of that attempt; a later one does not start from `progress`
    labels: Labels | None = None
    on_end: Name | None = None  # the kind of the job that follows this one

    def attempt(self, delivery: int) -> int:
        """Return the number of the attempt, from 1; the first `MAX_RELEASES` releases of draining workers are free.

        Args:
            delivery: the number of the delivery, from 1 (the queue's dequeue count).
        """
        return max(1, delivery - self.releases + max(0, self.drains - MAX_RELEASES))


class SubmittedJob(Struct, frozen=True, kw_only=True):
    """A job whose message is on the queue, as the submitter posts it to the notifier (`POST /submissions`)."""

    id: UUID
    kind: Name
    labels: Labels | None = None
    submitted_at: Timestamp
    due_at: Timestamp | None = None  # None: at once
    expires_at: Timestamp
    max_attempts: MaxAttempts = DEFAULT_ATTEMPTS  # until a report of the worker, which knows the number of the kind
    generation: Natural = 0
    by: Name | UnsetType = UNSET  # the operator who ran the job again


class Progress(Struct, frozen=True):
    """The progress of a job; `total` is None if the amount of work is unknown."""

    current: Number
    total: Number | None = None
    unit: Annotated[str, Meta(max_length=MAX_UNIT_LENGTH)] | None = None
    message: Annotated[str, Meta(max_length=MAX_PROGRESS_MESSAGE_LENGTH)] | None = None

    @property
    def percent(self) -> float | None:
        """The percentage, 0.0 to 100.0 with two decimals, or None if the total is unknown."""
        return percentage(self.current, self.total)


class ProgressSnapshot(Struct, frozen=True):
    """A job's progress as clients receive it, with the percentage."""

    current: float | int
    total: float | int | None
    percent: float | None
    unit: str | None
    message: str | None


class JobError(Struct, frozen=True):
    """The error of a failed attempt, as users see it."""

    type: Name
    message: Annotated[str, Meta(max_length=MAX_ERROR_LENGTH)]


class StepTimes(Struct, frozen=True):
    """A step of an attempt; `ended_at` is None while it runs."""

    name: Annotated[str, Meta(max_length=MAX_STEP_NAME_LENGTH)]
    started_at: Timestamp
    ended_at: Timestamp | None = None


class ReportDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a report has for operators only. The record script stores it apart from the record.

    Attributes:
        message: the text of the queue message, with which the job can be run again.
        error: the true error; users may see a general one instead.
        traceback: that of the error, without the values of variables.
        steps: the steps of the attempt, in the order of their starts.
    """

    message: Annotated[str, Meta(max_length=MAX_MESSAGE_BYTES)] | None = None
    error: JobError | None = None
    traceback: Annotated[str, Meta(max_length=MAX_DETAILS_BYTES)] | None = None
    steps: Annotated[tuple[StepTimes, ...], Meta(max_length=MAX_STEPS)] = ()


class JobReport(Struct, frozen=True, kw_only=True):
    """A worker's report about one delivery of a job.

    It carries the whole state, so that a single report can rebuild a lost record.
    """

    job_id: UUID
    kind: Name
    generation: Natural = 0
    message_id: Name  # the id of the queue message
    delivery: Positive  # the dequeue count of the queue message
    sequence: Natural  # higher in each report of the delivery; the fence rejects a report that arrives out of order
    attempt: Positive = 1
    max_attempts: MaxAttempts = DEFAULT_ATTEMPTS
    status: JobStatus
    progress: Progress | None = None
    result: Json = NULL
    error: JobError | None = None
    submitted_at: Timestamp
    expires_at: Timestamp
    lease_until: Timestamp | None = None
    due_at: Timestamp | None = None
    sent_at: Timestamp | None = None
    labels: Labels | None = None  # those of the message; a record keeps the labels that it has
    worker: Name | None = None  # the id of the worker, to which the notifier sends control messages
    details: ReportDetails | None = None


class ProgressUrlReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """A report as the query of a URL, for workers in any language; with a progress of 100 the job has succeeded."""

    job_id: UUID
    progress: Annotated[float, Meta(ge=0, le=100)]
    message: Annotated[str, Meta(max_length=MAX_PROGRESS_MESSAGE_LENGTH)] | None = None
    kind: Name | None = None


class Verdict(Struct, frozen=True):
    """The notifier's answer to one report.

    Attributes:
        accepted: whether the record was updated.
        reason: why the report was rejected, None if it was accepted.
        cancel_requested: whether a client has requested the cancellation of the job.
        watched: whether a client watches the job; the worker then reports progress without delay.
    """

    job_id: UUID
    accepted: bool
    reason: RejectionReason | None = None
    cancel_requested: bool = False
    watched: bool = False


class ControlMessage(Struct, frozen=True):
    """A message to a worker on its control stream: report these jobs, or all that run, at once."""

    report: list[str] | Literal["all"]


class EarlierAttempt(Struct, frozen=True, kw_only=True):
    """An attempt before the current one.

    `outcome` is `failed`, `released` (by a worker that stopped), `lost` (with its worker), or the status with which the
    job had ended before it was redriven. `error` is the type of the attempt's error.
    """

    attempt: int
    started_at: Timestamp | None = None
    ended_at: Timestamp
    outcome: str
    error: str | None = None


class JobSnapshot(Struct, frozen=True, kw_only=True):
    """The whole state of a job at one version, as every client receives it."""

    id: UUID
    kind: str
    status: JobStatus
    version: int
    generation: int = 0
    attempt: int = 1
    max_attempts: int = DEFAULT_ATTEMPTS
    progress: ProgressSnapshot | None = None
    result: Json = NULL
    error: JobError | None = None
    cancel_requested: bool = False
    submitted_at: Timestamp
    started_at: Timestamp | None = None
    updated_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    due_at: Timestamp | None = None
    lease_until: Timestamp | None = None
    expires_at: Timestamp
    name: str | None = None
    advanced_at: Timestamp | None = None  # when the progress last rose
    earlier_attempts: tuple[EarlierAttempt, ...] = ()  # the last five, the oldest first
    redriven_at: Timestamp | None = None  # when the job was last run again, and began to wait


OPTIONAL_SNAPSHOT_FIELDS = ("name", "advanced_at", "earlier_attempts", "redriven_at")  # left out when they are empty


def encode_snapshot(snapshot: JobSnapshot) -> bytes:
    """Encode a snapshot as clients receive it."""
    fields = asdict(snapshot)
    return encode({name: fields[name] for name in fields if fields[name] or name not in OPTIONAL_SNAPSHOT_FIELDS})


def uuid_str(job_id: UUID) -> str:
    """Return `str(job_id)`; msgspec formats a UUID three times as fast."""
    return encode(job_id)[1:-1].decode()


def truncate(text: str, max_length: int) -> str:
    """Return a text, shortened to `max_length` characters with an ellipsis, and without lone surrogates.

    UTF-8 cannot encode a lone surrogate, so each becomes a question mark.
    """
    shortened = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return shortened.encode(errors="replace").decode()


def to_progress_snapshot(progress: Progress | None) -> ProgressSnapshot | None:
    """Return the progress of a snapshot for the progress of a report."""
    if progress is None:
        return None
    return ProgressSnapshot(progress.current, progress.total, progress.percent, progress.unit, progress.message)
