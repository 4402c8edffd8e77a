"""The arguments of the record script, in the order of its field lists."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

from headway.contracts import (
    DEFAULT_ATTEMPTS,
    JobReport,
    Progress,
    ProgressUrlReport,
    ReportDetails,
    SubmittedJob,
    Timestamp,
    encode,
    to_progress_snapshot,
    uuid_str,
)
from headway.grants import OPERATE
from headway.labels import NO_LABELS, Labels
from headway.timestamp import MAX_MS
from headway.tokens import Grant

from ..redis_client.lua_script import ScriptCall
from .keys import job_key
from .record_read import RecordRead

MAX_LABEL_FIELDS = 2  # `labels` and `name`


def _milliseconds(timestamp: Timestamp | None) -> int | bytes:
    return b"null" if timestamp is None else int(timestamp)


def _labels(labels: Labels | None) -> list[bytes]:
    """Return the fields `labels` and `name`, which end the arguments and are left out if they are empty."""
    if labels is None or labels == NO_LABELS:
        return []
    return [encode(labels)] if labels.name is None else [encode(labels), encode(labels.name)]


def report_call(report: JobReport, *, is_full: bool = False) -> ScriptCall:
    """Return the call for a report: the script's REPORT_FIELDS, and its DETAILS_FIELDS if the report has details.

    Args:
        report: the report.
        is_full: whether Redis is full, so that the long texts of the details are left out.
    """
    labels = _labels(report.labels)
    if report.details is not None:
        optional = _with_details(report, report.details, labels, is_full=is_full)
    elif report.worker is not None or labels:
        optional = [report.worker or "", *labels]
    else:
        optional = []
    return [
        job_key(uuid_str(report.job_id)),
        "report",
        encode(report.kind),
        encode(report.status),
        report.generation,
        report.attempt,
        report.max_attempts,
        encode(to_progress_snapshot(report.progress)),
        bytes(report.result),
        encode(report.error),
        report.submitted_at.to_json(),
        report.expires_at.to_json(),
        report.message_id,
        report.delivery,
        report.sequence,
        _milliseconds(report.lease_until),
        _milliseconds(report.due_at),
        int(report.expires_at),
        _milliseconds(report.sent_at),
        *optional,
    ]


def _with_details(report: JobReport, details: ReportDetails, labels: list[bytes], *, is_full: bool) -> list[Any]:
    """Return the optional REPORT_FIELDS, `error_type` and the DETAILS_FIELDS, each empty if it is missing."""
    error = details.error
    is_hidden = error is not None and report.error is not None and error.type != report.error.type
    return [
        report.worker or "",
        *labels,
        *[b""] * (MAX_LABEL_FIELDS - len(labels)),
        encode(error.type) if error is not None and is_hidden else b"",
        b"" if error is None else encode(error),
        _text(None if is_full else details.traceback),
        encode(details.steps) if details.steps else b"",
        _text(None if is_full else details.message),
    ]


def _text(text: str | None) -> bytes:
    return b"" if text is None else text.encode(errors="replace")


def progress_call(report: ProgressUrlReport, now: Timestamp, job_ttl_s: float) -> ScriptCall:
    """Return the call for a one-line report: the script's PROGRESS_FIELDS."""
    expires_at = now.after(job_ttl_s)
    return [
        job_key(report.job_id),
        "progress",
        encode(report.kind),
        encode("succeeded" if report.progress == 100 else "running"),
        DEFAULT_ATTEMPTS,
        encode(to_progress_snapshot(Progress(report.progress, 100, "%", report.message))),
        math.floor(1000 * report.progress),
        encode(now),
        encode(expires_at),
        int(expires_at),
    ]


def submission_call(job: SubmittedJob) -> ScriptCall:
    """Return the call for a submitted job: the script's SUBMISSION_FIELDS."""
    labels = _labels(job.labels)
    if isinstance(job.by, str):
        labels += [*[b""] * (MAX_LABEL_FIELDS - len(labels)), _action("redrive" if job.generation else "rerun", job.by)]
    return [
        job_key(uuid_str(job.id)),
        "submission",
        encode(job.kind),
        job.generation,
        job.max_attempts,
        job.submitted_at.to_json(),
        job.expires_at.to_json(),
        _milliseconds(job.due_at),
        int(job.expires_at),
        *labels,
    ]


def cancel_call(grant: Grant, record: RecordRead | None = None) -> ScriptCall:
    """Return the call for a cancellation: the script's CANCEL_FIELDS.

    Args:
        grant: the grant.
        record: the record that matches the grant's filter, if it has one; the script applies the cancellation only
            while the kind and the labels are the same.
    """
    kind, labels = (encode(grant.kind), b"") if record is None else record.filtered_fields
    return [
        job_key(grant.job_id),
        "cancel",
        kind,
        DEFAULT_ATTEMPTS,
        encode(grant.submitted_at),
        encode(grant.due_at),
        encode(grant.expires_at),
        int(grant.expires_at),
        "true" if grant.requires_record else b"",
        labels,
        _action("cancel", grant.by if OPERATE in grant.scope else None),
    ]


def cancel_unchanged_call(job_id: UUID, generation: int, until: Timestamp | None, by: str) -> ScriptCall:
    """Return the call that cancels a job unless it has ended or was redriven: the script's CANCEL_UNCHANGED_FIELDS."""
    until_ms = MAX_MS if until is None else int(until)
    return [job_key(job_id), "cancel_unchanged", generation, until_ms, _action("cancel", by)]


def erase_call(job_id: UUID, by: str | None) -> ScriptCall:
    """Return the call that erases what an ended job has left, and keeps who has erased it."""
    return [job_key(job_id), "erase", _action("erase", by)]


def _action(action: str, by: str | None) -> bytes:
    """Return an operator's action for the script, empty if it was no operator's."""
    return b"" if by is None else encode({"action": action, "by": by})
