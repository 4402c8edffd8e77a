"""One delivery of one message: report the start, run the attempt, report its outcome, settle the message.

Everything that stops a delivery early is an `Interruption`, which decides how the message is settled.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import structlog
from azure.core.exceptions import AzureError

from headway.azure.job_queue import JobQueue, ReceivedMessage
from headway.contracts import JobReport, Verdict
from headway.trace_context import TraceContext, trace_fields

from ..runtime.tracebacks import error_fields
from ..runtime.wakeup_client import WakeupClient
from . import metrics
from .attempt import run_attempt
from .attempt_span import attempt_span, record_outcome
from .audiences import report_details, visible_error
from .execution.runner import Runner
from .follow_ups import FollowUps
from .interruption_signal import InterruptionSignal
from .lease import Lease
from .leased_job import LeasedJob
from .logs.job_log import JobLog
from .logs.sender import LogSender
from .outcomes import (
    INTERRUPTION_BY_VERDICT,
    Finished,
    Interruption,
    LeaseLost,
    Outcome,
    RetryLater,
)
from .received_job import UNKNOWN_KIND, ReceivedJob
from .registry import Registry
from .reporting.report_stream import ReportRejected, ReportStream
from .reporting.reporter import Reporter
from .settings import WorkerSettings
from .settlement import Settlement

if TYPE_CHECKING:
    from ..runtime.tracer import Tracer

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True)
class DeliveryDependencies:
    """The objects and settings that all deliveries of a worker share."""

    settings: WorkerSettings
    queue: JobQueue
    reporter: Reporter
    registry: Registry
    runner: Runner
    wakeups: WakeupClient
    follow_ups: FollowUps
    logs: LogSender
    tracer: Tracer | None = None


class Delivery:
    """The delivery of one message, from receipt to settlement."""

    def __init__(self, received: ReceivedMessage, deps: DeliveryDependencies) -> None:
        self._received = received
        self._deps = deps
        self._lease = Lease(deps.queue, received, deps.settings.lease_s)
        self._settlement = Settlement(deps.queue, deps.wakeups, deps.follow_ups, self._lease, received.id)
        self._signal = InterruptionSignal()

    def stop(self) -> None:
        """Interrupt the delivery, so that its message is released, unless its attempt already has an outcome."""
        self._signal.interrupt(Interruption.STOPPED)

    async def handle(self) -> None:
        """Process the message and settle it.

        If the queue is unavailable, the message stays unsettled and becomes visible when its lease ends.
        """
        if self._received.delivery > 1:
            metrics.MESSAGES_REDELIVERED.inc()
        try:
            await self._read_and_process()
        except AzureError as error:
            log.warning("settlement_failed", message_id=self._received.id, error=type(error).__name__)

    async def _read_and_process(self) -> None:
        """Decode the message and process its job; a message without the id of a job goes to the poison queue."""
        try:
            job = ReceivedJob.read(self._received, self._deps.registry, self._deps.settings.job_ttl_s)
        except msgspec.DecodeError as error:
            log.warning("message_unreadable", message_id=self._received.id, detail=str(error))
            async with self._lease.renewed(lambda: None, self._on_lease_lost):
                await self._signal.race(self._settlement.move_to_poison_queue("unreadable", self._received.text))
        else:
            await self._process(job)

    async def _process(self, job: ReceivedJob) -> None:
        """Renew the lease while the job is processed and its outcome reported, then settle the message."""
        started, first_report = time.perf_counter(), job.first_report()
        with (
            structlog.contextvars.bound_contextvars(
                job_id=str(job.message.id), kind=job.message.kind, **trace_fields(job.trace)
            ),
            self._deps.reporter.stream(first_report, self._on_verdict) as stream,
        ):
            async with self._lease.renewed(lambda: stream.lease_renewed(self._lease.until), self._on_lease_lost):
                leased = LeasedJob(job, self._lease, stream, self._open_log(first_report))
                outcome = await self._start(leased)
                if outcome is Interruption.CANCELLED:
                    outcome = Finished("cancelled")
                if not isinstance(outcome, Interruption):
                    outcome = await self._report(outcome, leased)
                outcome_name = outcome.name.lower() if isinstance(outcome, Interruption) else outcome.status
                self._record_metrics(job, outcome, outcome_name)
                leased.log.close(has_ended=isinstance(outcome, Finished))
                await self._settlement.settle(outcome, leased)
            log.info(
                "job_handled",
                outcome=outcome_name,
                attempt=job.reported_attempt,
                delivery=self._received.delivery,
                duration_s=round(time.perf_counter() - started, 3),
            )

    async def _start(self, leased: LeasedJob) -> Outcome:
        """Report the start and, once the verdict permits it, run the attempt; return the outcome."""
        job = leased.job
        if job.problem is not None:
            log.warning("message_unreadable", message_id=self._received.id, detail=job.problem)
        elif job.expired:
            return Finished.failed("Expired", "The job expired before this attempt started.")
        if (outcome := await self._report_start(leased.stream)) is not None:
            return outcome
        if job.problem is not None:
            return await self._poison("unreadable", Finished.failed("InvalidMessage", job.problem), leased)
        if job.attempt > job.max_attempts:
            error = f"No attempts are left; the maximum is {job.max_attempts}."
            return await self._poison("attempts", Finished.failed("AttemptsUsedUp", error), leased)
        return await self._run(leased)

    async def _report_start(self, stream: ReportStream) -> Outcome | None:
        """Report the start; return None if the attempt may start, otherwise the outcome of the delivery."""
        try:
            verdict = await self._signal.race(stream.report("running", lease_until=self._lease.until))
        except ReportRejected as error:
            return Finished.failed("ReportRefused", f"The job's start could not be reported: {error}")
        return verdict if isinstance(verdict, Interruption) else None

    async def _run(self, leased: LeasedJob) -> Outcome:
        """Run the attempt, within a span if traces are on; if it failed and was the last one, poison the message."""
        if self._deps.tracer is None:
            outcome = await self._attempt(leased, leased.job.trace)
        else:
            with attempt_span(self._deps.tracer, leased.job, self._deps.settings.queue_name) as span:
                with structlog.contextvars.bound_contextvars(**trace_fields(span.trace)):
                    outcome = await self._attempt(leased, span.trace)
                record_outcome(span, outcome, is_last=_is_last(outcome, leased.job))
        if isinstance(outcome, RetryLater) and _is_last(outcome, leased.job):
            reason = "abandoned" if outcome.abandoned else "attempts"
            return await self._poison(reason, Finished("failed", failure=outcome.failure), leased)
        return outcome

    async def _attempt(self, leased: LeasedJob, trace: TraceContext | None) -> Outcome:
        """Run the attempt and return its outcome, or its interruption."""
        try:
            outcome = await self._signal.race(run_attempt(leased, self._deps.registry, self._deps.runner, trace))
        except LeaseLost as error:
            self._on_lease_lost(error)
            return Interruption.LEASE_LOST
        if not isinstance(outcome, Interruption):
            self._signal.begin_ending()
        return outcome

    async def _poison(self, reason: str, outcome: Outcome, leased: LeasedJob) -> Outcome:
        """Copy the message to the poison queue; return the outcome, or the interruption of the copying."""
        interruption = await self._signal.race(self._settlement.copy_to_poison_queue(reason, leased.text))
        return interruption or outcome

    async def _report(self, outcome: Finished | RetryLater, leased: LeasedJob) -> Outcome:
        """Report the outcome; return it, or the outcome that replaces it because of the verdict."""
        self._signal.begin_ending()
        try:
            verdict = await self._signal.race(
                leased.stream.report(
                    outcome.status,
                    result=outcome.result,
                    error=visible_error(outcome.failure, show_errors=self._deps.settings.show_errors),
                    after_s=outcome.after_s,
                    details=report_details(outcome.failure, leased.kept_message(outcome.status)),
                )
            )
        except ReportRejected:  # the reduced report was rejected, too; see ReportStream.on_rejected
            return await self._poison("refused", Interruption.REFUSED, leased)
        if isinstance(verdict, Interruption):
            return verdict
        if not verdict.accepted:
            return INTERRUPTION_BY_VERDICT[verdict.reason or "superseded"]
        if isinstance(outcome, RetryLater) and verdict.cancel_requested:  # requested after the attempt had failed
            return await self._report(Finished("cancelled"), leased)
        return outcome

    def _open_log(self, report: JobReport) -> JobLog:
        kind = self._deps.registry.get(report.kind)
        return self._deps.logs.open(report, watchers=kind is not None and kind.log == "watchers")

    def _on_verdict(self, verdict: Verdict) -> None:
        """Called with every verdict on this delivery."""
        if not verdict.accepted:
            self._lease.revoke()
            self._signal.interrupt(INTERRUPTION_BY_VERDICT[verdict.reason or "superseded"])
        elif verdict.cancel_requested:
            self._signal.interrupt(Interruption.CANCELLED)

    def _on_lease_lost(self, error: BaseException) -> None:
        """Called when the lease is lost; an exception other than LeaseLost is a bug or a cancellation from outside."""
        if self._signal.reason is Interruption.LEASE_LOST:
            return
        if isinstance(error, LeaseLost):
            log.warning("lease_lost", detail=str(error))
        else:
            log.error("lease_lost", **error_fields(error))
        self._signal.interrupt(Interruption.LEASE_LOST)

    def _record_metrics(self, job: ReceivedJob, outcome: Outcome, outcome_name: str) -> None:
        kind = job.message.kind if job.message.kind in self._deps.registry else UNKNOWN_KIND
        metrics.DELIVERIES_FINISHED.labels(kind, outcome_name).inc()
        if isinstance(outcome, Finished):
            metrics.observe_since_due(job, metrics.END_TO_END.labels(kind))


def _is_last(outcome: Outcome, job: ReceivedJob) -> bool:
    """Return whether an attempt has failed, and no other one follows."""
    return isinstance(outcome, RetryLater) and (outcome.abandoned or job.attempt >= job.max_attempts)
