"""Everything that a snapshot has, as text."""

from __future__ import annotations

from collections.abc import Iterator

from headway.cli.text import amount_text, number_text, printable, status_text
from headway.contracts import NULL, EarlierAttempt, JobSnapshot, ProgressSnapshot

TIMES = {
    "submitted": "submitted_at",
    "due": "due_at",
    "started": "started_at",
    "advanced": "advanced_at",
    "updated": "updated_at",
    "finished": "finished_at",
    "leased until": "lease_until",
    "expires": "expires_at",
}


def details_text(job: JobSnapshot) -> str:
    """Return the name of a job, or its kind, and a line for each of its fields that has a value."""
    fields = [(label, printable(value)) for label, value in _fields(job) if value]
    width = max(len(label) for label, _ in fields) + 2
    return "\n".join([printable(job.name or job.kind), *(f"  {label:{width}}{value}" for label, value in fields)])


def _fields(job: JobSnapshot) -> Iterator[tuple[str, str]]:
    yield "id", str(job.id)
    yield "kind", job.kind
    yield "status", status_text(job)
    yield "progress", _progress_text(job.progress)
    yield "attempt", f"{job.attempt} of {job.max_attempts}"
    yield "generation", str(job.generation or "")
    for label, field in TIMES.items():
        time = getattr(job, field)
        yield label, "" if time is None else str(time)
    yield "error", "" if job.error is None else f"{job.error.type}: {job.error.message}"
    yield "result", "" if job.result == NULL else bytes(job.result).decode()
    for earlier in job.earlier_attempts:
        yield f"attempt {earlier.attempt}", _attempt_text(earlier)


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


def _attempt_text(attempt: EarlierAttempt) -> str:
    times = f"{attempt.started_at or 'not started'} to {attempt.ended_at}"
    return ", ".join(part for part in (attempt.outcome, attempt.error, times) if part)
