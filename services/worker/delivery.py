"""One delivery of one message: decode, report the start, run the attempt, report its outcome, settle the message.

Everything that stops a delivery early is an `Interruption`; the first one decides how the message is settled.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog
from azure.core.exceptions import AzureError
from msgspec.structs import replace

from headway.azure.job_queue import JobQueue, ReceivedMessage
from headway.backoff import full_jitter_s
from headway.context import Attempt
from headway.contracts import (
    DEFAULT_ATTEMPTS,
    JobError,
    JobMessage,
    JobReport,
    Verdict,
    decode_message,
    extract_job_id,
)
from headway.jobs import BACKOFF_CAP_S, BACKOFF_S

from ..runtime.wakeup_client import WakeupClient
from . import metrics
from .execution.runner import Runner
from .lease import Lease, LeaseLost
from .leased_job import LeasedJob
from .outcomes import INTERRUPTION_BY_VERDICT, Finished, Interruption, Outcome, RetryLater
from .registry import Registry
from .reporting.report_stream import ReportRejected, ReportStream
from .reporting.reporter import Reporter
from .settlement import Settlement

log: structlog.stdlib.BoundLogger = structlog.get_logger()
T = TypeVar("T")

UNKNOWN_KIND = "unknown"  # for messages that cannot be decoded; in metrics, also for kinds without a handler here
MAX_DELAY_S = 7 * 86_400  # the queue's maximum visibility timeout


@dataclass(frozen=True)
class DeliveryDependencies:
    """The objects and settings that all deliveries of a worker share."""

    queue: JobQueue
    reporter: Reporter
    registry: Registry
    runner: Runner
    lease_s: int
    job_ttl_s: float
    wakeups: WakeupClient


class Delivery:
    """The delivery of one message, from receipt to settlement."""

    def __init__(self, received: ReceivedMessage, deps: DeliveryDependencies) -> None:
        self._received = received
        self._deps = deps
        self._lease = Lease(deps.queue, received, deps.lease_s)
        self._settlement = Settlement(deps.queue, deps.wakeups, self._lease, received.id)
        self._interrupted: asyncio.Future[Interruption] = asyncio.get_running_loop().create_future()
        self._reporting_outcome = False

    def stop(self) -> None:
        """Interrupt the delivery, so that its message is released, unless it is already reporting its outcome."""
        self._interrupt(Interruption.STOPPED)

    async def handle(self) -> None:
        """Process the message and settle it.

        If the queue is unavailable, the message stays unsettled and becomes visible when its lease ends.
        """
        if self._received.delivery > 1:
            metrics.MESSAGES_REDELIVERED.inc()
        try:
            await self._decode_and_process()
        except AzureError as error:
            log.warning("settlement_failed", message_id=self._received.id, error=type(error).__name__)

    async def _decode_and_process(self) -> None:
        """Decode the message and process its job; a message without a valid job id goes to the poison queue."""
        try:
            message = self._with_defaults(decode_message(self._received.text))
        except msgspec.DecodeError as error:
            job_id, detail = extract_job_id(self._received.text), str(error)
            log.warning("message_unreadable", message_id=self._received.id, detail=detail)
            if job_id is None:
                await self._settlement.move_to_poison_queue("unreadable", self._received.text)
            else:
                message = self._with_defaults(JobMessage(id=job_id, kind=UNKNOWN_KIND))
                await self._process(message, partial(self._reject, detail))
        else:
            await self._process(message, self._start)

    async def _process(self, message: JobMessage, work: Callable[[LeasedJob], Awaitable[Outcome]]) -> None:
        """Renew the lease while `work` runs, report its outcome, and settle the message."""
        started = time.perf_counter()
        with (
            structlog.contextvars.bound_contextvars(job_id=str(message.id), kind=message.kind),
            self._deps.reporter.stream(self._first_report(message), self._on_verdict) as stream,
        ):
            leased = LeasedJob(message, self._received.text, self._lease, stream)
            renewal = asyncio.create_task(self._renew(stream))
            try:
                outcome = await work(leased)
                if outcome is Interruption.CANCELLED:
                    outcome = Finished("cancelled")
                if not isinstance(outcome, Interruption):
                    outcome = await self._report(outcome, stream)
                outcome_name = outcome.name.lower() if isinstance(outcome, Interruption) else outcome.status
                self._record_metrics(message, outcome, outcome_name)
                await self._settlement.settle(outcome, leased)
            finally:
                renewal.cancel()
            log.info(
                "job_handled",
                outcome=outcome_name,
                attempt=self._attempt(message),
                delivery=self._received.delivery,
                duration_s=round(time.perf_counter() - started, 3),
            )

    async def _reject(self, detail: str, leased: LeasedJob) -> Outcome:
        """Copy a message that cannot be decoded to the poison queue and fail its job."""
        if (outcome := await self._report_start(leased.stream)) is not None:
            return outcome
        await self._settlement.copy_to_poison_queue("unreadable", leased.text)
        return Finished.failed("InvalidMessage", detail)

    async def _report_start(self, stream: ReportStream) -> Outcome | None:
        """Report the start; return None if the attempt may start, otherwise the outcome of the delivery."""
        try:
            verdict = await self._race_interruption(stream.report("running", lease_until=self._lease.until))
        except ReportRejected as error:
            return Finished.failed("ReportRefused", f"The job's start could not be reported: {error}")
        return verdict if isinstance(verdict, Interruption) else None

    async def _start(self, leased: LeasedJob) -> Outcome:
        """Report the start, and run the attempt once the verdict permits it."""
        message = leased.message
        if leased.expired:
            return Finished.failed("Expired", "The job expired before this attempt started.")
        if (outcome := await self._report_start(leased.stream)) is not None:
            return outcome
        if message.attempt(self._received.delivery) > message.max_attempts:
            await self._settlement.copy_to_poison_queue("attempts", leased.text)
            return Finished.failed("AttemptsUsedUp", f"No attempts are left; the maximum is {message.max_attempts}.")
        return await self._run(leased)

    async def _run(self, leased: LeasedJob) -> Outcome:
        """Run the handler; return its outcome or, if the attempt failed, the scheduled retry."""
        message = leased.message
        job = self._deps.registry.get(message.kind)
        if job is None:
            error = JobError("UnknownKind", f"This worker has no handler for the kind {message.kind!r}.")
            return await self._schedule_retry(RetryLater(error), leased)  # another worker may have one
        attempt = Attempt(
            job_id=message.id,
            kind=message.kind,
            attempt=self._attempt(message),
            max_attempts=message.max_attempts,
            checkpoint=message.checkpoint,
        )
        timeout_s = message.timeout_s or job.timeout_s
        if self._received.delivery == 1:
            metrics.observe_since_submission(message, metrics.QUEUE_WAIT.labels(message.kind))
        metrics.ATTEMPTS_STARTED.labels(message.kind).inc()
        with metrics.JOBS_RUNNING.track_inprogress(), metrics.HANDLER_DURATION.labels(message.kind).time():
            handler_run = self._deps.runner.run(job, attempt, message.payload, leased, timeout_s)
            outcome = await self._race_interruption(handler_run)
        if not isinstance(outcome, RetryLater):
            return outcome
        return await self._schedule_retry(outcome, leased, job.backoff_s, job.backoff_cap_s)

    async def _schedule_retry(
        self, retry: RetryLater, leased: LeasedJob, backoff_s: float = BACKOFF_S, cap_s: float = BACKOFF_CAP_S
    ) -> Outcome:
        """Return the retry with its delay; after the last attempt, poison the message and return `failed`."""
        attempt = self._attempt(leased.message)
        if attempt >= leased.message.max_attempts:
            await self._settlement.copy_to_poison_queue("attempts", leased.text)
            return Finished("failed", error=retry.error)
        after_s = retry.after_s
        if after_s is None:
            after_s = full_jitter_s(attempt - 1, backoff_s, cap_s)
        return replace(retry, after_s=math.ceil(min(after_s, MAX_DELAY_S)))  # the queue's unit is a second

    async def _report(self, outcome: Finished | RetryLater, stream: ReportStream) -> Outcome:
        """Report the outcome; return it, or the outcome that replaces it because of the verdict.

        From this call on, only a lost lease interrupts the delivery.
        """
        self._reporting_outcome = True
        if self._interrupted.done():
            self._interrupted = asyncio.get_running_loop().create_future()
        try:
            report = stream.report(outcome.status, result=outcome.result, error=outcome.error, due_at=outcome.due_at)
            verdict = await self._race_interruption(report)
        except ReportRejected:  # the reduced report was rejected, too; see ReportStream.on_rejected
            return Interruption.REFUSED
        if isinstance(verdict, Interruption):
            return verdict
        if not verdict.accepted:
            return INTERRUPTION_BY_VERDICT[verdict.reason or "superseded"]
        if isinstance(outcome, RetryLater) and verdict.cancel_requested:  # requested after the attempt had failed
            return await self._report(Finished("cancelled"), stream)
        return outcome

    async def _race_interruption(self, work: Coroutine[Any, Any, T]) -> T | Interruption:
        """Run work until it completes or the delivery is interrupted; return the interruption if there is one.

        Interrupted work is cancelled, with the reason as the argument of CancelledError, and awaited.
        """
        task = asyncio.create_task(work)
        awaited: set[asyncio.Future[Any]] = {task, self._interrupted}
        try:
            if not self._interrupted.done():
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._interrupted.done() or not task.done():
                task.cancel(self._interrupted.result().reason if self._interrupted.done() else None)
                await asyncio.wait({task})
        if self._interrupted.done():
            if not task.cancelled():
                task.exception()  # marks it as retrieved, or asyncio would log it
            return self._interrupted.result()
        return task.result()

    def _interrupt(self, reason: Interruption) -> None:
        """Interrupt the delivery, unless it is already interrupted or reporting its outcome."""
        if not self._interrupted.done() and (not self._reporting_outcome or reason is Interruption.LEASE_LOST):
            self._interrupted.set_result(reason)

    def _on_verdict(self, verdict: Verdict) -> None:
        """Called with every verdict on this delivery."""
        if not verdict.accepted:
            self._interrupt(INTERRUPTION_BY_VERDICT[verdict.reason or "superseded"])
        elif verdict.cancel_requested:
            self._interrupt(Interruption.CANCELLED)

    async def _renew(self, stream: ReportStream) -> None:
        try:
            await self._lease.renew_forever(lambda: stream.lease_renewed(self._lease.until))
        except LeaseLost as error:
            log.warning("lease_lost", detail=str(error))
            self._interrupt(Interruption.LEASE_LOST)

    def _record_metrics(self, message: JobMessage, outcome: Outcome, outcome_name: str) -> None:
        kind = message.kind if message.kind in self._deps.registry else UNKNOWN_KIND
        metrics.DELIVERIES_FINISHED.labels(kind, outcome_name).inc()
        if isinstance(outcome, Finished):
            metrics.observe_since_submission(message, metrics.END_TO_END.labels(kind))

    def _attempt(self, message: JobMessage) -> int:
        """Return the attempt to report. A delivery after the last attempt only reports the failure."""
        return min(message.attempt(self._received.delivery), message.max_attempts)

    def _with_defaults(self, message: JobMessage) -> JobMessage:
        """Return the message with missing times set, and with its kind's `max_attempts` unless it has its own."""
        submitted_at = message.submitted_at or self._received.inserted_at
        job = self._deps.registry.get(message.kind)
        uses_default = message.max_attempts == DEFAULT_ATTEMPTS
        return replace(
            message,
            submitted_at=submitted_at,
            expires_at=message.expires_at or submitted_at.after(self._deps.job_ttl_s),
            max_attempts=job.max_attempts if job is not None and uses_default else message.max_attempts,
        )

    def _first_report(self, message: JobMessage) -> JobReport:
        """Return the state with which the reports of this delivery begin."""
        assert message.submitted_at is not None  # noqa: S101 - set by _with_defaults
        assert message.expires_at is not None  # noqa: S101
        return JobReport(
            job_id=message.id,
            kind=message.kind,
            generation=message.generation,
            message_id=self._received.id,
            delivery=self._received.delivery,
            sequence=0,
            attempt=self._attempt(message),
            max_attempts=message.max_attempts,
            status="running",
            submitted_at=message.submitted_at,
            expires_at=message.expires_at,
        )
