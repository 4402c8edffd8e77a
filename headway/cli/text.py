"""Jobs as text: one line for each change, for people without a terminal and, as JSON, for programs."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from headway.contracts import NULL, JobSnapshot, ProgressSnapshot, encode, truncate

MAX_RESULT_LENGTH = 200


class LinePrinter:
    """Prints a line for each change of a job."""

    def __init__(self, write: Callable[[JobSnapshot], str]) -> None:
        self._write = write
        self._last: dict[UUID, str] = {}

    def print_job(self, job: JobSnapshot) -> None:
        """Print the job's line, unless it is the same as before."""
        text = self._write(job)
        if text != self._last.get(job.id):
            self._last[job.id] = text
            print(text, flush=True)


def json_line(job: JobSnapshot) -> str:
    """Write a job's state as the wire has it."""
    return encode(job).decode()


def job_line(job: JobSnapshot) -> str:
    """Write a job's state in one line."""
    parts = (f"{job.kind} {job.id} {status_text(job)}", amount_text(job.progress), attempt_text(job), message_text(job))
    return printable(", ".join(part for part in parts if part))


def status_text(job: JobSnapshot) -> str:
    """Name a job's status, and that its end was asked for."""
    return "cancelling" if job.cancel_requested and job.finished_at is None else job.status


def amount_text(progress: ProgressSnapshot | None) -> str:
    """Write how far a job is: a percentage, or how much is done when nobody knows of how much."""
    if progress is None:
        return ""
    if progress.percent is not None:
        return f"{int(progress.percent)} %"
    return f"{progress.current:g} {progress.unit or ''}".rstrip()


def attempt_text(job: JobSnapshot) -> str:
    """Write which attempt this is, from the second on."""
    return f"attempt {job.attempt} of {job.max_attempts}" if job.attempt > 1 else ""


def message_text(job: JobSnapshot) -> str:
    """Write what a person wants to know: the error or the result at the end, before that what the job says."""
    if job.error is not None:
        return f"{job.error.type}: {job.error.message}"
    if job.result != NULL:
        return truncate(bytes(job.result).decode(), MAX_RESULT_LENGTH)
    return (job.progress.message if job.progress is not None else None) or ""


def printable(text: str) -> str:
    """Take out what could write elsewhere on a terminal: a job's text is anybody's."""
    return "".join(character if character.isprintable() else " " for character in text)


def printable_json(text: str) -> str:
    """Spell what could write elsewhere on a terminal as escapes: the same JSON, as far as it was JSON."""
    return "".join(
        character if character.isprintable() or character == "\n" else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
