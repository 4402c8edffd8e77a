"""The reports of one delivery: the latest state, whether it was sent, and the callers that wait for a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from headway.backoff import full_jitter_s
from headway.contracts import (
    ENDED,
    MAX_DETAILS_BYTES,
    MAX_REPORTS_PER_REQUEST,
    NULL,
    JobError,
    JobReport,
    JobStatus,
    Json,
    Progress,
    ReportDetails,
    StepTimes,
    Timestamp,
    Verdict,
    encode,
)
from headway.step_log import newest_steps

from ...runtime.tracebacks import error_fields

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LONG_AGO = float("-inf")  # earlier than any monotonic time
BACKOFF_S, MAX_BACKOFF_S = 0.1, 2.0
STEPS_INTERVAL_S = 1.0  # between two reports with the steps of a running job
LATE_RENEWAL_FRACTION = 0.4  # of the lease: with less until its reported end, a heartbeat may come too late


class ReportRejected(Exception):
    """The notifier rejected the report as invalid; sending it again would not help."""


class ReportStream:
    """The reports of one delivery; a change replaces an earlier one that has not been sent.

    `max_group` is the number of reports that a request with this one may contain. It is halved with each request that
    fails, until a report that makes requests fail is alone. `failures` counts the requests that failed with it alone.
    `collect_steps` returns the steps of the attempt; None until it has any.

    Args:
        initial: the first state, with sequence 0.
        on_verdict: called with every verdict.
        on_change: called when a report is due immediately.
    """

    def __init__(
        self, initial: JobReport, on_verdict: Callable[[Verdict], None], on_change: Callable[[], None]
    ) -> None:
        self.job_id = initial.job_id
        self._latest = initial
        self._on_verdict = on_verdict
        self._on_change = on_change
        self._sequence = 0
        self._lease_until: float | None = None
        self._reported_lease_until = LONG_AGO
        self._due_after_s: float | None = None
        self.sent_at = LONG_AGO
        self.max_group = MAX_REPORTS_PER_REQUEST
        self.failures = 0
        self._retry_at = LONG_AGO
        self._changed = False
        self._urgent = False
        self._watched = True
        self._progress_source: Callable[[], Progress] | None = None
        self._progress_failed = False
        self.collect_steps: Callable[[], tuple[StepTimes, ...]] | None = None
        self._reported_steps: tuple[StepTimes, ...] = ()
        self._steps_reported_at = LONG_AGO
        self._pending: list[asyncio.Future[Verdict]] = []
        self._in_flight: list[asyncio.Future[Verdict]] = []

    @property
    def latest(self) -> JobReport:
        """The state that was reported last, or is to be reported."""
        return self._latest

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when the handler reports progress; the next report calls `collect`."""
        self._progress_source = collect
        self._changed = True
        if self._watched:
            self._on_change()

    def lease_renewed(self, until: float) -> None:
        """Called when the lease was renewed; the new end, a monotonic time, is sent with the next report.

        That is the next heartbeat, unless the lease that the record shows may end before it.
        """
        if self._latest.status == "running":
            self._lease_until = until
            now = time.monotonic()
            if self._reported_lease_until - now < LATE_RENEWAL_FRACTION * (until - now):
                self.report_now()

    def report_now(self) -> None:
        """Report the job at once if it is running; its verdict may say that it was cancelled, or is watched now."""
        if self._sequence > 0 and self._latest.status == "running":
            self._urgent = True
            self._on_change()

    async def report(
        self,
        status: JobStatus,
        *,
        result: Json = NULL,
        error: JobError | None = None,
        lease_until: float | None = None,
        after_s: float | None = None,
        details: ReportDetails | None = None,
    ) -> Verdict:
        """Report a change of status immediately and return its verdict; wait while the notifier is unavailable.

        Args:
            status: the new status.
            result: the result of a job that has succeeded.
            error: the error of a failed attempt, as users see it.
            lease_until: the monotonic time when the lease ends.
            after_s: the seconds from the report until the next attempt.
            details: what only operators see.

        Raises:
            ReportRejected: the notifier rejected the report as invalid.
        """
        self._latest = replace(self._latest, status=status, result=result, error=error, details=details)
        self._lease_until, self._due_after_s = lease_until, after_s
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._pending.append(verdict)
        self._urgent = True
        self._on_change()
        return await verdict

    def next_send_at(self, heartbeat_s: float) -> float:
        """Return the monotonic time when the next report is due.

        A change of status, the progress of a watched job and a report that the notifier has asked for are due
        immediately; otherwise the heartbeat decides. A report that failed alone waits for its backoff.
        """
        if self._urgent or (self._changed and self._watched):
            return self._retry_at
        if self._sequence == 0 or self._latest.status != "running":
            return float("inf")
        return max(self._retry_at, self.sent_at + heartbeat_s)

    def next_report(self) -> JobReport:
        """Return the latest state as a report to send; each call increases the sequence."""
        self._sequence += 1
        self.sent_at = time.monotonic()
        self._changed = self._urgent = False
        self._reported_lease_until = LONG_AGO if self._lease_until is None else self._lease_until
        self._in_flight, self._pending = self._in_flight + self._pending, []
        self.collect_progress()
        return self._stamp(self._latest)

    def _stamp(self, report: JobReport) -> JobReport:
        """Add the sequence and the times, all from one reading of the clock: only their differences count."""
        now = Timestamp.now()
        return replace(
            report,
            details=self._details(),
            sequence=self._sequence,
            lease_until=None if self._lease_until is None else now.after(self._lease_until - self.sent_at),
            due_at=None if self._due_after_s is None else now.after(self._due_after_s),
            sent_at=now,
        )

    def _details(self) -> ReportDetails | None:
        """Return the details of a report, with the steps of the attempt: while it runs, those that have changed."""
        details = self._latest.details
        if self.collect_steps is None:
            return details
        if self._latest.status != "running":
            room = MAX_DETAILS_BYTES if details is None else MAX_DETAILS_BYTES - len(encode(details))
            return replace(details or ReportDetails(), steps=newest_steps(self.collect_steps(), room))
        if self.sent_at - self._steps_reported_at < STEPS_INTERVAL_S:
            return details
        steps = newest_steps(self.collect_steps(), MAX_DETAILS_BYTES)
        if steps == self._reported_steps:
            return details
        self._reported_steps, self._steps_reported_at = steps, self.sent_at
        return ReportDetails(steps=steps)

    def collect_progress(self) -> Progress | None:
        """Return the handler's latest progress, None if there is none. An error costs the job its display alone."""
        source, self._progress_source = self._progress_source, None
        try:
            if source is not None:
                self._latest = replace(self._latest, progress=source())
        except Exception as error:
            if not self._progress_failed:
                self._progress_failed = True
                # The text is shown only with LOG_TRACEBACKS.
                log.error("progress_failed", job_id=str(self._latest.job_id), **error_fields(error))  # noqa: TRY400
        return self._latest.progress

    def on_verdict(self, verdict: Verdict) -> None:
        """Called with the verdict on the report in flight."""
        self.max_group, self.failures, self._retry_at = MAX_REPORTS_PER_REQUEST, 0, LONG_AGO
        self._watched = verdict.watched
        waiting, self._in_flight = self._in_flight, []
        for future in waiting:
            if not future.done():
                future.set_result(verdict)
        self._on_verdict(verdict)

    def on_failure(self, group_size: int) -> None:
        """Called when the request with the report in flight, one of `group_size`, failed: send it again."""
        self.requeue()
        self.max_group = (group_size + 1) // 2
        if group_size == 1:
            self.failures += 1
            self._retry_at = time.monotonic() + full_jitter_s(self.failures, BACKOFF_S, MAX_BACKOFF_S)

    def requeue(self) -> None:
        """Mark the report in flight as unsent."""
        self._pending, self._in_flight = self._in_flight + self._pending, []
        self._reported_steps, self._steps_reported_at = (), LONG_AGO
        self._urgent = True

    def on_rejected(self, detail: str) -> None:
        """Called when the notifier rejects the report in flight as invalid.

        A final report is sent once more, reduced to status and error, so that the job ends for its watchers. Callers
        that wait for any other report get ReportRejected.
        """
        if self._latest.status in ENDED and (self._latest.error is None or self._latest.error.type != "ReportRefused"):
            error = JobError("ReportRefused", "The outcome of the job could not be reported.")
            self.collect_steps = None
            self._latest = replace(self._latest, status="failed", progress=None, result=NULL, error=error, details=None)
            self.requeue()
            return
        waiting, self._in_flight = self._in_flight, []
        for future in waiting:
            if not future.done():
                future.set_exception(ReportRejected(detail))
