"""The settings of the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from ..runtime.queue_settings import QueueSettings
from ..runtime.settings import Delay, Seconds, StringList, Url

MAX_HEARTBEAT_FRACTION = 1 / 4  # of the lease


class WorkerSettings(QueueSettings, frozen=True, kw_only=True):
    """The settings of the worker, read from environment variables of the same names in upper case."""

    service: ClassVar[str] = "worker"

    notifier_internal_url: Url
    """Where the notifier receives reports."""
    submitter_internal_url: Url | None = None
    """Where the submitter receives requests of workers. Needed for jobs with `on_end` and for actions on many jobs: see
    docs/when-a-job-ends.md and docs/run-again.md#many-jobs-at-once."""
    report_key_file: Path
    """The keys that authorize reports and submissions, one per line. The worker uses the first."""
    worker_jobs: StringList = ()
    """The modules and packages with your jobs. The built-in jobs are always loaded."""
    worker_concurrency: Annotated[int, Meta(ge=1, le=1000)] = 16
    """How many jobs run at once."""
    lease_s: Annotated[int, Meta(ge=1, le=7 * 86_400)] = 60
    """How long a message is leased: see docs/concepts.md#the-lease."""
    heartbeat_s: Seconds = 10
    """The longest time between two reports of a running job: at most a quarter of `LEASE_S`, and at most 1 s while the
    notifier cannot ask the worker for reports."""
    process_memory_mb: Annotated[int, Meta(ge=1)] = 256
    """How much memory the process of a `process=True` handler may hold after an attempt. If it holds more, it is
    replaced."""
    poll_max_s: Seconds = 10
    """The longest pause between two polls of an empty queue; at most 1 s while the notifier cannot wake the worker."""
    show_errors: bool = False
    """Whether users see the texts of unexpected exceptions of your jobs, which may contain anything: leave it off in
    production. See docs/write-jobs.md#failing."""
    grace_s: Delay = 20
    """How long running jobs may go on after SIGTERM before they are released."""

    @property
    def max_report_interval_s(self) -> float:
        """The longest time between two reports of a running job, short enough for each lease to be reported in time."""
        return min(self.heartbeat_s, self.lease_s * MAX_HEARTBEAT_FRACTION)
