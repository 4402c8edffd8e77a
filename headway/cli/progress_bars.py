"""Jobs as bars on a terminal, one line each, redrawn in place."""

from __future__ import annotations

from uuid import UUID

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from headway.cli.text import amount_text, attempt_text, message_text, printable, status_text
from headway.contracts import JobSnapshot, Timestamp

BAR_WIDTH = 30
MARKS = {
    "queued": ("·", "dim"),
    "retrying": ("↻", "yellow"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("■", "yellow"),
}


class ProgressBars:
    """Displays each job as a line with a bar."""

    def __init__(self, console: Console | None = None) -> None:
        self._jobs: dict[UUID, JobSnapshot] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=10)

    def __enter__(self) -> ProgressBars:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, job: JobSnapshot) -> None:
        """Display a newer snapshot with the next redraw."""
        self._jobs[job.id] = job

    def table(self) -> Table:
        """Return the table of all jobs."""
        table = Table.grid(padding=(0, 1))
        for _ in range(6):
            table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for job in list(self._jobs.values()):
            table.add_row(*self._row(job))
        return table

    def _row(self, job: JobSnapshot) -> tuple[RenderableType, ...]:
        mark, style = MARKS.get(job.status, ("", "cyan"))
        details = " · ".join(part for part in (waiting_text(job), attempt_text(job), message_text(job)) if part)
        return (
            Text(mark, style) if mark else self._spinner,
            Text(printable(job.kind), "bold"),
            progress_bar(job),
            Text(amount_text(job.progress), justify="right"),
            Text(elapsed_text(job), "dim"),
            Text(status_text(job), style),
            Text(printable(details), "red" if job.error else "", overflow="ellipsis", no_wrap=job.error is None),
        )


def progress_bar(job: JobSnapshot) -> ProgressBar:
    """Return a job's bar, which pulses while the job runs without a known total."""
    percent = None if job.progress is None else job.progress.percent
    pulse = job.status == "running" and percent is None
    done = 100.0 if job.status == "succeeded" else percent or 0.0
    style = {"failed": "red", "cancelled": "yellow"}.get(job.status, "cyan")
    return ProgressBar(100, done, BAR_WIDTH, pulse, complete_style=style, finished_style="green", pulse_style=style)


def elapsed_text(job: JobSnapshot) -> str:
    """Return how long a job has run."""
    if job.started_at is None:
        return ""
    seconds = max(0, (job.finished_at or Timestamp.now()) - job.started_at) // 1000
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def waiting_text(job: JobSnapshot) -> str:
    """Return what a job waits for: its due time, or another worker."""
    now = Timestamp.now()
    if job.status == "running":
        return "worker lost" if job.lease_until is not None and job.lease_until < now else ""
    if job.due_at is None or job.finished_at is not None:
        return ""
    return f"in {max(0, job.due_at - now) // 1000} s"
