"""One delivery of one message: decode, start, run, report, settle.

Whatever stops a delivery is an `Interruption`; the first one decides how the message is settled.
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

from headway.azure_queue import JobQueue, Received
from headway.backoff import full_jitter_s
from headway.context import Attempt
from headway.contracts import (
    DEFAULT_ATTEMPTS,
    JobError,
    JobMessage,
    JobReport,
    Verdict,
    decode_message,
    readable_id,
)
from headway.jobs import BACKOFF_CAP_S, BACKOFF_S
from services.runtime.wakeup_client import WakeupClient
from services.worker import metrics
from services.worker.holding import Holding
from services.worker.lease import Lease, LeaseLost
from services.worker.outcomes import REASONS, Again, Ending, Interruption, Outcome
from services.worker.registry import Registry
from services.worker.reporter import Reporter
from services.worker.runner import Runner
from services.worker.stream import ReportRefused, Stream

log: structlog.stdlib.BoundLogger = structlog.get_logger()
T = TypeVar("T")

UNKNOWN = "unknown"  # the kind of what cannot be read, and in metrics of what has no handler here
MAX_DELAY_S = 7 * 86_400  # the longest that the queue hides a message


@dataclass(frozen=True)
class Tools:
    """What all deliveries share."""

    queue: JobQueue
    reporter: Reporter
    registry: Registry
    runner: Runner
    lease_s: int
    job_ttl_s: float
    waker: WakeupClient


class Delivery:
    """One message, from its receipt to its settling."""

    def __init__(self, received: Received, tools: Tools) -> None:
        self._received = received
        self._tools = tools
        self._lease = Lease(tools.queue, received, tools.lease_s)
        self._interrupted: asyncio.Future[Interruption] = asyncio.get_running_loop().create_future()
        self._ending = False

    def stop(self) -> None:
        """Hand the message back, since this worker stops; an ending that is on its way is still seen through."""
        self._interrupt(Interruption.STOPPED)

    async def handle(self) -> None:
        """See the message through; one that cannot be settled now comes back when its lease ends."""
        if self._received.delivery > 1:
            metrics.REDELIVERED.inc()
        try:
            await self._decode()
        except AzureError as error:
            log.warning("message_unsettled", message_id=self._received.id, error=type(error).__name__)

    async def _decode(self) -> None:
        """Find out what is to be done for the message, and do it."""
        try:
            message = self._completed(decode_message(self._received.text))
        except msgspec.DecodeError as error:
            job_id, detail = readable_id(self._received.text), str(error)
            log.warning("message_unreadable", message_id=self._received.id, detail=detail)
            if job_id is None:
                await self._poison("unreadable", self._received.text)
                await self._lease.delete()
            else:
                message = self._completed(JobMessage(id=job_id, kind=UNKNOWN))
                await self._see_through(message, partial(self._reject, detail))
        else:
            await self._see_through(message, self._start)

    async def _see_through(self, message: JobMessage, work: Callable[[Holding], Awaitable[Outcome]]) -> None:
        """Keep the lease while the work is done, report how it ended, and settle the message."""
        started = time.perf_counter()
        with (
            structlog.contextvars.bound_contextvars(job_id=str(message.id), kind=message.kind),
            self._tools.reporter.stream(self._first_report(message), self._judge) as stream,
        ):
            held = Holding(message, self._received.text, self._lease, stream)
            renewing = asyncio.create_task(self._renew(stream))
            try:
                outcome = await work(held)
                if outcome is Interruption.CANCELLED:
                    outcome = Ending("cancelled")
                if not isinstance(outcome, Interruption):
                    outcome = await self._report(outcome, stream)
                name = outcome.name.lower() if isinstance(outcome, Interruption) else outcome.status
                self._measure(message, outcome, name)
                await self._settle(outcome, held)
            finally:
                renewing.cancel()
            log.info(
                "job_handled",
                outcome=name,
                attempt=self._attempt(message),
                delivery=self._received.delivery,
                duration_s=round(time.perf_counter() - started, 3),
            )

    async def _reject(self, detail: str, held: Holding) -> Outcome:
        if (refused := await self._ask(held.stream)) is not None:
            return refused
        await self._poison("unreadable", held.text)
        return Ending.failed("InvalidMessage", detail)

    async def _ask(self, stream: Stream) -> Outcome | None:
        """Ask for the start; return what became of the delivery when it is not granted."""
        try:
            granted = await self._unless_interrupted(stream.tell("running", lease_until=self._lease.until))
        except ReportRefused as error:
            return Ending.failed("ReportRefused", f"The job's start could not be reported: {error}")
        return granted if isinstance(granted, Interruption) else None

    async def _start(self, held: Holding) -> Outcome:
        """Ask for the start, and run the handler once it is granted: no verdict, no start."""
        message = held.message
        if held.expired:
            return Ending.failed("Expired", "The job was not started in time.")
        if (refused := await self._ask(held.stream)) is not None:
            return refused
        if message.attempt(self._received.delivery) > message.max_attempts:
            await self._poison("attempts", held.text)
            return Ending.failed("AttemptsUsedUp", f"The job was given up after {message.max_attempts} attempts.")
        return await self._run(held)

    async def _run(self, held: Holding) -> Outcome:
        message = held.message
        job = self._tools.registry.get(message.kind)
        if job is None:
            unknown = JobError("UnknownKind", f"No worker here knows the kind {message.kind!r}.")
            return await self._again(Again(unknown), held)  # another fleet may
        attempt = Attempt(
            job_id=message.id,
            kind=message.kind,
            attempt=self._attempt(message),
            max_attempts=message.max_attempts,
            checkpoint=message.checkpoint,
        )
        timeout_s = message.timeout_s or job.timeout_s
        if self._received.delivery == 1:
            metrics.since_submission(message, metrics.QUEUE_WAIT.labels(message.kind))
        metrics.STARTED.labels(message.kind).inc()
        with metrics.IN_PROGRESS.track_inprogress(), metrics.DURATION.labels(message.kind).time():
            running = self._tools.runner.run(job, attempt, message.payload, held, timeout_s)
            outcome = await self._unless_interrupted(running)
        if not isinstance(outcome, Again):
            return outcome
        return await self._again(outcome, held, job.backoff_s, job.backoff_cap_s)

    async def _again(
        self, asked: Again, held: Holding, backoff_s: float = BACKOFF_S, cap_s: float = BACKOFF_CAP_S
    ) -> Outcome:
        """Find out when the next attempt is; after the last one the job has failed."""
        attempt = self._attempt(held.message)
        if attempt >= held.message.max_attempts:
            await self._poison("attempts", held.text)
            return Ending("failed", error=asked.error)
        after_s = asked.after_s
        if after_s is None:
            after_s = full_jitter_s(attempt - 1, backoff_s, cap_s)
        return replace(asked, after_s=math.ceil(min(after_s, MAX_DELAY_S)))  # the queue counts in whole seconds

    async def _report(self, ending: Ending | Again, stream: Stream) -> Outcome:
        """Report how the attempt ended and wait for the verdict; from here on only a lost lease interrupts."""
        self._ending = True
        if self._interrupted.done():
            self._interrupted = asyncio.get_running_loop().create_future()
        try:
            told = stream.tell(ending.status, result=ending.result, error=ending.error, due_at=ending.due_at)
            verdict = await self._unless_interrupted(told)
        except ReportRefused:  # even the bare failure
            return Interruption.REFUSED
        if isinstance(verdict, Interruption):
            return verdict
        if not verdict.accepted:
            return REASONS[verdict.reason or "superseded"]
        if isinstance(ending, Again) and verdict.cancel_requested:  # while it failed
            return await self._report(Ending("cancelled"), stream)
        return ending

    async def _settle(self, outcome: Outcome, held: Holding) -> None:
        match outcome:
            case Ending() | Interruption.FINISHED:
                await self._lease.delete()
            case Interruption.SUPERSEDED if held.expired:  # of an older generation it would come back for ever
                await self._lease.delete()
            case Again(after_s=after_s):
                if await self._lease.release(None, int(after_s or 0)):
                    self._tools.waker.notify_after(after_s or 0)
            case Interruption.STOPPED:
                if await self._lease.release(held.handed_back()):
                    await held.stream.tell("queued")  # before another worker's start can overtake it
                    self._tools.waker.notify()
            case Interruption.REFUSED:
                await self._poison("refused", held.text)
                await self._lease.delete()
            case Interruption.LEASE_LOST:
                metrics.LEASES_LOST.inc()

    async def _unless_interrupted(self, work: Coroutine[Any, Any, T]) -> T | Interruption:
        """Do the work until it is done or an interruption comes, which wins."""
        task = asyncio.create_task(work)
        waited_for: set[asyncio.Future[Any]] = {task, self._interrupted}
        try:
            if not self._interrupted.done():
                await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._interrupted.done() or not task.done():
                task.cancel(self._interrupted.result().word if self._interrupted.done() else None)
                await asyncio.wait({task})
        if self._interrupted.done():
            if not task.cancelled():
                task.exception()  # whatever it was, it is of no more interest
            return self._interrupted.result()
        return task.result()

    def _interrupt(self, reason: Interruption) -> None:
        if not self._interrupted.done() and (not self._ending or reason is Interruption.LEASE_LOST):
            self._interrupted.set_result(reason)

    def _judge(self, verdict: Verdict) -> None:
        """Obey a verdict, whenever it comes."""
        if not verdict.accepted:
            self._interrupt(REASONS[verdict.reason or "superseded"])
        elif verdict.cancel_requested:
            self._interrupt(Interruption.CANCELLED)

    async def _renew(self, stream: Stream) -> None:
        try:
            await self._lease.hold(lambda: stream.leased(self._lease.until))
        except LeaseLost as error:
            log.warning("lease_lost", detail=str(error))
            self._interrupt(Interruption.LEASE_LOST)

    async def _poison(self, reason: str, text: str) -> None:
        """Copy a message's text to the poison queue."""
        await self._tools.queue.poison(text)
        metrics.POISONED.labels(reason).inc()
        log.warning("message_poisoned", message_id=self._received.id, reason=reason)

    def _measure(self, message: JobMessage, outcome: Outcome, name: str) -> None:
        kind = message.kind if message.kind in self._tools.registry else UNKNOWN
        metrics.JOBS.labels(kind, name).inc()
        if isinstance(outcome, Ending):
            metrics.since_submission(message, metrics.END_TO_END.labels(kind))

    def _attempt(self, message: JobMessage) -> int:
        return min(message.attempt(self._received.delivery), message.max_attempts)

    def _completed(self, message: JobMessage) -> JobMessage:
        """Fill in what the message leaves open: its times, and the kind's own number of attempts."""
        submitted_at = message.submitted_at or self._received.inserted_at
        job = self._tools.registry.get(message.kind)
        default = job is not None and message.max_attempts == DEFAULT_ATTEMPTS
        return replace(
            message,
            submitted_at=submitted_at,
            expires_at=message.expires_at or submitted_at.after(self._tools.job_ttl_s),
            max_attempts=job.max_attempts if job is not None and default else message.max_attempts,
        )

    def _first_report(self, message: JobMessage) -> JobReport:
        assert message.submitted_at is not None  # noqa: S101 - as _completed has it
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
