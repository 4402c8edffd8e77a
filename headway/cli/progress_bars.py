"""Progress bars on a terminal: one line per job, redrawn in place."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from headway.cli.text import amount_text, attempt_text, message_text, printable, status_text
from headway.contracts import JobSnapshot, Timestamp, percentage

BAR_WIDTH = 30
STATUS_MARKS = {  # symbol and style of a status; a running job has a spinner
    "queued": ("·", "dim"),
    "retrying": ("↻", "yellow"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("■", "yellow"),
}


class ProgressBars:
    """A context manager that displays jobs on a terminal until it exits.

    Args:
        now: returns the current time by the clock of the snapshots' times, not the terminal's.
        console: the terminal.
        confirmed: returns the time until which the snapshots are known to be the newest ones; by default, now.
    """

    def __init__(
        self,
        now: Callable[[], Timestamp],
        console: Console | None = None,
        confirmed: Callable[[], Timestamp] | None = None,
    ) -> None:
        self._now = now
        self._confirmed = confirmed or now
        self._jobs: dict[UUID, JobSnapshot] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=10)

    def __enter__(self) -> ProgressBars:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, job: JobSnapshot) -> None:
        """Replace the snapshot of a job, or add a job; the next redraw displays it."""
        self._jobs[job.id] = job

    def table(self) -> Table:
        """Return a table with one row per job. Called by rich on each redraw."""
        table = Table.grid(padding=(0, 1))
        for _ in range(6):
            table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for job in list(self._jobs.values()):  # a copy, because rich redraws in a thread of its own
            table.add_row(*self._row(job))
        return table

    def _row(self, job: JobSnapshot) -> tuple[RenderableType, ...]:
        mark, style = STATUS_MARKS.get(job.status, ("", "cyan"))
        now = self._now()
        waiting = waiting_text(job, now, self._confirmed())
        details = " · ".join(part for part in (waiting, attempt_text(job), message_text(job)) if part)
        return (
            Text(mark, style) if mark else self._spinner,
            Text(printable(job.name or job.kind), "bold"),
            progress_bar(job),
            Text(amount_text(job.progress), justify="right"),
            Text(elapsed_text(job, now), "dim"),
            Text(status_text(job), style),
            Text(printable(details), "red" if job.error else "", overflow="ellipsis", no_wrap=job.error is None),
        )


def progress_bar(job: JobSnapshot) -> ProgressBar:
    """Return the bar of a job; it pulses while the job runs and the total is unknown."""
    percent = None if job.progress is None else percentage(job.progress.current, job.progress.total)
    pulse = job.status == "running" and percent is None
    filled = 100.0 if job.status == "succeeded" else percent or 0.0
    style = {"failed": "red", "cancelled": "yellow"}.get(job.status, "cyan")
    return ProgressBar(100, filled, BAR_WIDTH, pulse, complete_style=style, finished_style="green", pulse_style=style)


def elapsed_text(job: JobSnapshot, now: Timestamp) -> str:
    """Return how long the last attempt has run so far, or ran, as `m:ss` or `h:mm:ss`; empty if none has started."""
    if job.started_at is None:
        return ""
    seconds = max(0, (job.finished_at or now) - job.started_at) // 1000
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def waiting_text(job: JobSnapshot, now: Timestamp, confirmed: Timestamp | None = None) -> str:
    """Return the seconds until a delayed job is due, or `worker lost` if the lease of a running job has expired.

    `confirmed` is the time until which the snapshot is known to be the newest one; by default, now. A lost connection
    is not a lost worker.
    """
    if job.status == "running":
        return "worker lost" if job.lease_until is not None and job.lease_until < (confirmed or now) else ""
    if job.due_at is None or job.finished_at is not None:
        return ""
    return f"in {max(0, job.due_at - now) // 1000} s"
