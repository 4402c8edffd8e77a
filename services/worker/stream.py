"""The reports of one delivery: the latest state, what was told of it, and who waits for a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec.structs import replace

from headway.contracts import ENDED, NULL, JobError, JobReport, JobStatus, Json, Progress, Timestamp, Verdict

NEVER = float("-inf")


class ReportRefused(Exception):
    """The notifier finds the report itself wrong; sending it again would not help."""


class Stream:
    """What one delivery has to tell; what is told before the next request replaces what was."""

    def __init__(self, first: JobReport, judged: Callable[[Verdict], None], told: Callable[[], None]) -> None:
        self._report = first
        self._judged = judged
        self._told = told
        self._sequence = 0
        self.sent_at = NEVER
        self._changed = False
        self._urgent = False
        self._watched = True
        self._take: Callable[[], Progress] | None = None
        self._waiting: list[asyncio.Future[Verdict]] = []
        self._in_flight: list[asyncio.Future[Verdict]] = []

    def due(self, take: Callable[[], Progress]) -> None:
        """Tell how far the job is, which is asked for when the next request goes."""
        self._take = take
        self._changed = True
        if self._watched:
            self._told()

    def leased(self, until: Timestamp) -> None:
        """Tell until when the job is held."""
        if self._report.status == "running":
            self._report = replace(self._report, lease_until=until)
            self._changed = True

    async def tell(
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
        self._report = replace(
            self._report, status=status, result=result, error=error, lease_until=lease_until, due_at=due_at
        )
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append(verdict)
        self._urgent = True
        self._told()
        return await verdict

    def due_at(self, heartbeat_s: float) -> float:
        """Return the monotonic time of the next report: now for what matters or is watched, else by heartbeat."""
        if self._urgent or (self._changed and self._watched):
            return NEVER
        if self._sequence == 0 or self._report.status != "running":
            return float("inf")
        return self.sent_at + heartbeat_s

    def stamp(self) -> JobReport:
        """Take the state as it is now, to be written into a request; each time with a greater sequence."""
        self._sequence += 1
        self.sent_at = time.monotonic()
        self._changed = self._urgent = False
        self._in_flight, self._waiting = self._in_flight + self._waiting, []
        if self._take is not None:
            self._report = replace(self._report, progress=self._take())
            self._take = None
        return replace(self._report, sequence=self._sequence, sent_at=Timestamp.now())

    def answered(self, verdict: Verdict) -> None:
        """Take the verdict of the request that it was stamped for."""
        self._watched = verdict.watched
        waiting, self._in_flight = self._in_flight, []
        for future in waiting:
            if not future.done():
                future.set_result(verdict)
        self._judged(verdict)

    def unsent(self) -> None:
        """Take that the request failed: what it said is still to be told."""
        self._waiting, self._in_flight = self._in_flight + self._waiting, []
        self._changed = True
        self._urgent = self._urgent or bool(self._waiting)

    def refused(self, detail: str) -> None:
        """Take that the report itself is wrong: an ending shrinks to a bare failure, all else is dropped."""
        if self._report.status in ENDED and (self._report.error is None or self._report.error.type != "ReportRefused"):
            error = JobError("ReportRefused", "The job's ending could not be reported.")
            self._report = replace(self._report, status="failed", progress=None, result=NULL, error=error)
            self.unsent()
            return
        waiting, self._in_flight = self._in_flight, []
        for future in waiting:
            if not future.done():
                future.set_exception(ReportRefused(detail))
