"""Jobs as lines of text or JSON, for output that is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

from msgspec.structs import asdict

from headway.contracts import (
    NULL,
    OPTIONAL_SNAPSHOT_FIELDS,
    JobSnapshot,
    ProgressSnapshot,
    encode,
    percentage,
    truncate,
)

MAX_RESULT_LENGTH = 200
MESSAGE_ERRORS = {"Fail", "Retry"}  # which handlers raise for users
OPTIONAL_FIELDS = (*OPTIONAL_SNAPSHOT_FIELDS, "labels", "error_type")  # left out when they are empty


class LinePrinter:
    """Prints a line for each change of a job."""

    def __init__(self, format_job: Callable[[JobSnapshot], str]) -> None:
        self._format_job = format_job
        self._last_lines: dict[UUID, str] = {}

    def print_job(self, job: JobSnapshot) -> None:
        """Print the job's line if it has changed."""
        line = self._format_job(job)
        if line != self._last_lines.get(job.id):
            self._last_lines[job.id] = line
            print(line, flush=True)


def json_line(job: JobSnapshot, **more: object) -> str:
    """Return a job's snapshot as JSON, with further fields."""
    fields = asdict(job)
    present = {name: value for name, value in fields.items() if value or name not in OPTIONAL_FIELDS} | more
    return encodable_json(encode(present).decode())


def job_line(job: JobSnapshot) -> str:
    """Return a job's state as one line."""
    state = f"{job.kind} {job.id} {status_text(job)}"
    parts = (state, job.name, amount_text(job.progress), attempt_text(job), message_text(job))
    return printable(", ".join(part for part in parts if part))


def status_text(job: JobSnapshot) -> str:
    """Return a job's status, or `cancelling` if a cancellation has been requested."""
    return "cancelling" if job.cancel_requested and job.finished_at is None else job.status


def amount_text(progress: ProgressSnapshot | None) -> str:
    """Return the progress as a percentage, or as an amount if the total is unknown."""
    if progress is None:
        return ""
    percent = percentage(progress.current, progress.total)  # a notifier of version 0.1 rounds up to 100
    if percent is not None:
        return f"{int(percent)} %"
    return f"{number_text(progress.current)} {progress.unit or ''}".rstrip()


def number_text(number: float) -> str:
    """Return a number with all its digits, in groups of three: `1,234,567`, or `0.25`."""
    text = f"{Decimal(repr(number + 0)):,f}"  # + 0, because -0.0 is 0
    return text.rstrip("0").rstrip(".") if "." in text else text


def attempt_text(job: JobSnapshot) -> str:
    """Return the number of the attempt, or an empty string for the first one."""
    return f"attempt {job.attempt} of {job.max_attempts}" if job.attempt > 1 else ""


def message_text(job: JobSnapshot) -> str:
    """Return the error or the result of an ended job, or the progress message of a running one."""
    if job.error is not None:
        return error_text(job.error.type, job.error.message)
    if job.result != NULL:
        return truncate(bytes(job.result).decode(), MAX_RESULT_LENGTH)
    return (job.progress.message if job.progress is not None else None) or ""


def error_text(error_type: str, message: str | None) -> str:
    """Return an error as the pages show it: of `Fail` and `Retry` only the message, which says all, if there is one."""
    if not message:
        return error_type
    return message if error_type in MESSAGE_ERRORS else f"{error_type}: {message}"


def printable(text: str) -> str:
    """Replace control characters: a job's texts may contain terminal escape sequences."""
    return "".join(character if character.isprintable() else " " for character in text)


def printable_text(text: str) -> str:
    """Escape control characters in a text of several lines. A carriage return begins a line, as in a progress bar."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1] for character in lines
    )


def printable_json(text: str) -> str:
    """Escape control characters in JSON, and what stdout cannot encode; it still decodes to the same value."""
    return encodable_json(
        "".join(character if character.isprintable() or character == "\n" else _escape(character) for character in text)
    )


def encodable_json(text: str) -> str:
    """Escape the characters of JSON if the encoding of stdout lacks one of them; it decodes to the same value."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return "".join(character if character.isascii() else _escape(character) for character in text)
    return text


def _escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
