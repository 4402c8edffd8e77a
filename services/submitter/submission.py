"""Submissions: parses and validates them, and creates the queue message and the grant of each job."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from headway.contracts import (
    DEFAULT_ATTEMPTS,
    EMPTY_PAYLOAD,
    MAX_DELAY_S,
    MAX_NESTING_DEPTH,
    MAX_PAYLOAD_BYTES,
    JobMessage,
    Json,
    MaxAttempts,
    Name,
    SubmittedJob,
    TimeoutSeconds,
    Timestamp,
    decode,
    encode,
    nesting_depth,
)
from headway.labels import MAX_LABELS_BYTES, MAX_TAGS, NO_LABELS, RESERVED_PREFIX, DisplayName, Labels, Owner, Tag
from headway.tokens import Grant
from headway.trace_context import TraceContext

from ..runtime.errors import BadRequest, PayloadTooLarge, UnprocessableContent
from ..runtime.request import decode_body

MAX_BODY_BYTES = 2 * MAX_PAYLOAD_BYTES  # the payload and the other fields
MAX_FORM_FIELDS = 32


class Submission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /jobs`."""

    kind: Name
    payload: Json = EMPTY_PAYLOAD
    delay_s: Annotated[float, Meta(ge=0, le=MAX_DELAY_S)] = 0
    max_attempts: MaxAttempts | None = None  # None: the number of the kind
    timeout_s: TimeoutSeconds | None = None
    name: DisplayName | None = None
    owner: Owner | None = None
    tags: Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)] = ()
    on_end: Name | None = None  # the kind of the job that follows this one; None: that of the kind, if it has one

    @property
    def labels(self) -> Labels | None:
        """The labels of the job, or None if it has none."""
        labels = Labels(name=self.name, owner=self.owner, tags=self.tags)
        return None if labels == NO_LABELS else labels


class InternalSubmission(Submission, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /jobs` on the internal listener."""

    id: UUID


S = TypeVar("S", bound=Submission)


class AcceptedJob(Struct, frozen=True, kw_only=True):
    """The queue message of an accepted job, the grant for its token, and the delay of its start in seconds."""

    message: JobMessage
    grant: Grant
    delay_s: int

    @property
    def submitted(self) -> SubmittedJob:
        """The job as the notifier gets it."""
        return submitted_job(self.message)


def submitted_job(message: JobMessage) -> SubmittedJob:
    """Return a job as the notifier gets it; its message has the times of its submission and its end."""
    assert message.submitted_at is not None  # noqa: S101 - every message that the submitter sends has both times
    assert message.expires_at is not None  # noqa: S101
    return SubmittedJob(
        id=message.id,
        kind=message.kind,
        labels=message.labels,
        submitted_at=message.submitted_at,
        due_at=message.due_at,
        expires_at=message.expires_at,
        max_attempts=message.max_attempts or DEFAULT_ATTEMPTS,
        generation=message.generation,
    )


def submission_from_json(body: bytes) -> Submission:
    """Parse a submission in JSON.

    Raises:
        BadRequest: the body is not JSON.
        UnprocessableContent: a field is missing or invalid; the error names it.
        PayloadTooLarge: the payload exceeds its limit.
    """
    return check_limits(decode_body(body, Submission))


def submission_from_form(body: bytes) -> Submission:
    """Parse a submission in a form.

    `payload` is JSON text, `tags` is a list with commas and may be repeated. An empty field counts as missing, and so
    does a blank name.

    Raises:
        BadRequest: the body is not a form.
        UnprocessableContent, PayloadTooLarge: as for `submission_from_json`.
    """
    try:
        pairs = parse_qsl(body.decode(), strict_parsing=bool(body), errors="strict", max_num_fields=MAX_FORM_FIELDS)
    except ValueError as error:
        raise BadRequest("The body is not a valid form.") from error
    fields: dict[str, Any] = dict(pairs)
    if not fields.get("name", "").strip():
        fields.pop("name", None)
    if "payload" in fields:
        fields["payload"] = _payload_from_text(fields["payload"])
    if "tags" in fields:
        fields["tags"] = [
            tag.strip() for name, text in pairs if name == "tags" for tag in text.split(",") if tag.strip()
        ]
    try:
        return check_limits(msgspec.convert(fields, Submission, strict=False))
    except msgspec.ValidationError as error:
        raise UnprocessableContent.from_validation_error(error) from error


def _payload_from_text(text: str) -> Json:
    try:
        return decode(text, Json)
    except msgspec.DecodeError as error:
        raise UnprocessableContent("The payload is not JSON.", field="payload") from error


def check_limits(submission: S) -> S:
    """Return a submission whose fields fit together.

    Raises:
        UnprocessableContent: a field is invalid; the error names it.
        PayloadTooLarge: the payload exceeds its limit.
    """
    check_payload(submission.payload)
    if len(encode(submission.labels)) > MAX_LABELS_BYTES:
        raise UnprocessableContent(f"The labels are larger than {MAX_LABELS_BYTES} bytes.", field="tags")
    if submission.on_end == submission.kind:
        raise UnprocessableContent("A job cannot follow itself: it would run for ever.", field="on_end")
    if submission.on_end is not None and submission.on_end.startswith(RESERVED_PREFIX):
        raise UnprocessableContent(f"Kinds that begin with {RESERVED_PREFIX!r} are reserved.", field="on_end")
    return submission


def check_payload(payload: Json) -> None:
    """Raise PayloadTooLarge or UnprocessableContent if a payload is too large or is nested too deep."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLarge(f"The payload is larger than {MAX_PAYLOAD_BYTES} bytes.", field="payload")
    if nesting_depth(bytes(payload)) > MAX_NESTING_DEPTH:
        raise UnprocessableContent(f"The payload is nested more than {MAX_NESTING_DEPTH} levels deep.", field="payload")


def with_trace(labels: Labels | None, trace: TraceContext | None) -> Labels | None:
    """Return labels with the trace context of their submission, unless they would exceed their limit with it."""
    if trace is None:
        return labels
    traced = replace(labels or NO_LABELS, trace=str(trace))
    return labels if len(encode(traced)) > MAX_LABELS_BYTES else traced


def accept_submission(
    submission: Submission, job_ttl_s: float, job_id: UUID, trace: TraceContext | None = None
) -> AcceptedJob:
    """Create the queue message and the grant of a job.

    Args:
        submission: the request.
        job_ttl_s: the lifetime of the job.
        job_id: its id.
        trace: the trace context of the request, if it has one.

    Raises:
        UnprocessableContent: the job would expire before its delay ends.
    """
    if submission.delay_s >= job_ttl_s:
        raise UnprocessableContent("Expected a delay shorter than the lifetime of a job.", field="delay_s")
    now = Timestamp.now()
    delay_s = math.ceil(submission.delay_s)  # the queue's unit is a second
    due_at = now.after(delay_s) if delay_s else None
    message = JobMessage(
        id=job_id,
        kind=submission.kind,
        payload=submission.payload,
        submitted_at=now,
        due_at=due_at,
        expires_at=now.after(job_ttl_s),
        max_attempts=submission.max_attempts,
        timeout_s=submission.timeout_s,
        labels=with_trace(submission.labels, trace),
        on_end=submission.on_end,
    )
    grant = Grant(
        job_id=job_id,
        kind=submission.kind,
        submitted_at=now,
        expires_at=now.after(job_ttl_s),
        due_at=due_at,
    )
    return AcceptedJob(message=message, grant=grant, delay_s=delay_s)
