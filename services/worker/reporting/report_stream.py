"""The reports of one delivery: the latest state, what was told of it, and who waits for a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec.structs import replace

from headway.contracts import ENDED, NULL, JobError, JobReport, JobStatus, Json, Progress, Timestamp, Verdict

NEVER = float("-inf")


class ReportRejected(Exception):
    """The notifier finds the report itself wrong; sending it again would not help."""


class ReportStream:
    """What one delivery has to tell; what is told before the next request replaces what was."""

    def __init__(self, first: JobReport, on_verdict: Callable[[Verdict], None], on_change: Callable[[], None]) -> None:
        self._latest = first
        self._on_verdict = on_verdict
        self._on_change = on_change
        self._sequence = 0
        self.sent_at = NEVER
        self._changed = False
        self._urgent = False
        self._watched = True
        self._progress_source: Callable[[], Progress] | None = None
        self._pending: list[asyncio.Future[Verdict]] = []
        self._in_flight: list[asyncio.Future[Verdict]] = []

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Tell how far the job is, which is asked for when the next request goes."""
        self._progress_source = collect
        self._changed = True
        if self._watched:
            self._on_change()

    def lease_renewed(self, until: Timestamp) -> None:
        """Tell until when the job is held."""
        if self._latest.status == "running":
            self._latest = replace(self._latest, lease_until=until)
            self._changed = True

    async def report(
        self,
        status: JobStatus,
        *,
        result: Json = NULL,
        error: JobError | None = None,
        lease_until: Timestamp | None = None,
        due_at: Timestamp | None = None,
    ) -> Verdict:
        """Tell a change that matters, at once, and wait for its verdict however long that takes.

        Raises:
            ReportRefused: the notifier will never take it.
        """
        self._latest = replace(
            self._latest, status=status, result=result, error=error, lease_until=lease_until, due_at=due_at
        )
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._pending.append(verdict)
        self._urgent = True
        self._on_change()
        return await verdict

    def next_send_at(self, heartbeat_s: float) -> float:
        """Return the monotonic time of the next report: now for what matters or is watched, else by heartbeat."""
        if self._urgent or (self._changed and self._watched):
            return NEVER
        if self._sequence == 0 or self._latest.status != "running":
            return float("inf")
        return self.sent_at + heartbeat_s

    def next_report(self) -> JobReport:
        """Take the state as it is now, to be written into a request; each time with a greater sequence."""
        self._sequence += 1
        self.sent_at = time.monotonic()
        self._changed = self._urgent = False
        self._in_flight, self._pending = self._in_flight + self._pending, []
        if self._progress_source is not None:
            self._latest = replace(self._latest, progress=self._progress_source())
            self._progress_source = None
        return replace(self._latest, sequence=self._sequence, sent_at=Timestamp.now())

    def on_verdict(self, verdict: Verdict) -> None:
        """Take the verdict of the request that it was stamped for."""
        self._watched = verdict.watched
        waiting, self._in_flight = self._in_flight, []
        for future in waiting:
            if not future.done():
                future.set_result(verdict)
        self._on_verdict(verdict)

    def requeue(self) -> None:
        """Take that the request failed: what it said is still to be told."""
        self._pending, self._in_flight = self._in_flight + self._pending, []
        self._changed = True
        self._urgent = self._urgent or bool(self._pending)

    def on_rejected(self, detail: str) -> None:
        """Take that the report itself is wrong: an ending shrinks to a bare failure, all else is dropped."""
        if self._latest.status in ENDED and (self._latest.error is None or self._latest.error.type != "ReportRefused"):
            error = JobError("ReportRefused", "The job's ending could not be reported.")
            self._latest = replace(self._latest, status="failed", progress=None, result=NULL, error=error)
            self.requeue()
            return
        waiting, self._in_flight = self._in_flight, []
        for future in waiting:
            if not future.done():
                future.set_exception(ReportRejected(detail))
