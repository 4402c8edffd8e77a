"""Everything that a snapshot has, as text."""

from __future__ import annotations

from collections.abc import Iterator

from headway.cli.text import amount_text, error_text, json_line, number_text, printable, printable_text, status_text
from headway.client.job_details import Attempt, JobDetails, TrueError
from headway.contracts import NULL, EarlierAttempt, JobError, JobSnapshot, ProgressSnapshot

TIMES = {
    "submitted": "submitted_at",
    "run again": "redriven_at",
    "due": "due_at",
    "started": "started_at",
    "advanced": "advanced_at",
    "updated": "updated_at",
    "finished": "finished_at",
    "leased until": "lease_until",
    "expires": "expires_at",
}


def details_text(job: JobSnapshot, details: JobDetails | None = None) -> str:
    """Return the name of a job, or its kind, a line for each of its fields that has a value, and the traceback."""
    fields = [(label, printable(value)) for label, value in _fields(job, details) if value]
    width = max(len(label) for label, _ in fields) + 2
    lines = [printable(job.name or job.kind), *(f"  {label:{width}}{value}" for label, value in fields)]
    traceback = None if details is None or details.error is None else details.error.traceback
    return "\n".join([*lines, *([] if traceback is None else ["", printable_text(traceback).rstrip()])])


def json_with_details(job: JobSnapshot, details: JobDetails | None = None) -> str:
    """Return a job's snapshot as a line of JSON, with the details, if there are any, in a field."""
    return json_line(job) if details is None else json_line(job, details=details)


def _fields(job: JobSnapshot, details: JobDetails | None) -> Iterator[tuple[str, str]]:
    yield "id", str(job.id)
    yield "kind", job.kind
    yield "status", status_text(job)
    yield "progress", _progress_text(job.progress)
    yield "attempt", f"{job.attempt} of {job.max_attempts}"
    yield "generation", str(job.generation or "")
    for label, field in TIMES.items():
        time = getattr(job, field)
        yield label, "" if time is None else str(time)
    shown = _error_text(job.error)
    error = "" if details is None else _error_text(details.error)
    yield "error", error or shown
    yield "shown as", shown if error and error != shown else ""
    yield "result", "" if job.result == NULL else bytes(job.result).decode()
    earlier = job.earlier_attempts if details is None else details.attempts[: len(job.earlier_attempts)]
    for attempt in earlier:
        yield f"attempt {attempt.attempt}", _attempt_text(attempt)
    if details is not None:
        yield from _detail_fields(details)
        payload = bytes(details.payload).decode() if details.kept else ""
        yield "payload", payload or ("not kept" if job.finished_at else "")


def _detail_fields(details: JobDetails) -> Iterator[tuple[str, str]]:
    """Yield what only operators see."""
    for step in details.steps:
        yield "step", f"{step.name}, {step.started_at} to {step.ended_at or 'now'}"
    for action in details.actions:
        yield action.action, f"by {action.by}, {action.at}"
    yield "owner", details.labels.owner or ""
    yield "tags", ", ".join(details.labels.tags)
    yield "worker", details.worker or ""
    yield "trace", details.trace_id or ""
    yield "checkpoint", "" if details.checkpoint == NULL else bytes(details.checkpoint).decode()


def _error_text(error: JobError | TrueError | None) -> str:
    return "" if error is None else error_text(error.type, error.message)


def _progress_text(progress: ProgressSnapshot | None) -> str:
    if progress is None:
        return ""
    amount = number_text(progress.current)
    if progress.total is not None:
        amount += f" of {number_text(progress.total)}"
    if progress.unit:
        amount += f" {progress.unit}"
    percent = amount_text(progress) if progress.total is not None and progress.unit != "%" else ""
    return ", ".join(part for part in (percent, amount, progress.message) if part)


def _attempt_text(attempt: EarlierAttempt | Attempt) -> str:
    error = attempt.error if isinstance(attempt, EarlierAttempt) else _error_text(attempt.error)
    times = f"{attempt.started_at or 'not started'} to {attempt.ended_at or 'now'}"
    return ", ".join(part for part in (attempt.outcome, error, times) if part)
