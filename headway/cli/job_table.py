"""A table of jobs on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.cli.durations import duration_text
from headway.cli.progress_bars import STATUS_MARKS, waiting_text
from headway.cli.text import amount_text, attempt_text, message_text, printable, status_text
from headway.contracts import JobSnapshot, Timestamp

FULL_ID_WIDTH = 120  # characters of a terminal that has room for whole ids
ID_LENGTH = 8  # of the beginning of an id; `headway show` takes it, too
MAX_NAME_WIDTH = 32


def print_table(jobs: Iterable[JobSnapshot], now: Timestamp, console: Console | None = None) -> None:
    """Print a row for each job.

    Args:
        jobs: the jobs.
        now: the current time by the clock of the snapshots' times.
        console: the terminal; by default stdout.
    """
    console = console or Console()
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("STATUS", no_wrap=True)
    table.add_column("JOB", no_wrap=True, max_width=min(MAX_NAME_WIDTH, console.width // 4))
    table.add_column("ID", no_wrap=True)
    table.add_column("DONE", no_wrap=True, justify="right")
    table.add_column("SINCE", no_wrap=True, justify="right")
    table.add_column("DETAILS", no_wrap=True, ratio=1)
    for job in jobs:
        table.add_row(*_row(job, now, None if console.width >= FULL_ID_WIDTH else ID_LENGTH))
    console.print(table)


def _row(job: JobSnapshot, now: Timestamp, id_length: int | None) -> tuple[Text, ...]:
    mark, style = STATUS_MARKS.get(job.status, ("▸", "cyan"))
    details = " · ".join(part for part in (waiting_text(job, now), attempt_text(job), message_text(job)) if part)
    return (
        Text(f"{mark} {status_text(job)}", style),
        Text(printable(job.name or job.kind), "bold", overflow="ellipsis"),
        Text(str(job.id)[:id_length], "dim"),
        Text(amount_text(job.progress)),
        Text(duration_text(now - _since(job)), "dim"),
        Text(printable(details), "red" if job.error else "", overflow="ellipsis"),
    )


def _since(job: JobSnapshot) -> Timestamp:
    """Return since when a job has ended, run or waited."""
    started_at = job.started_at if job.status == "running" else None
    return job.finished_at or started_at or job.submitted_at
