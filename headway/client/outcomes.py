"""The outcomes of a job without a result."""

from __future__ import annotations

from headway.contracts import JobError


class JobFailed(Exception):
    """Raised by `Client.result` when the job has failed; `error` has the `type` and the `message`."""

    def __init__(self, error: JobError) -> None:
        super().__init__(f"{error.type}: {error.message}")
        self.error = error


class JobCancelled(Exception):
    """Raised by `Client.result` when the job was cancelled."""
