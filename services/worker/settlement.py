"""Settles queue messages: deletes them, releases them for another delivery, or copies them to the poison queue."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

import structlog
from azure.core.exceptions import AzureError

from headway.azure.job_queue import JobQueue
from headway.backoff import full_jitter_s
from headway.contracts import JobReport
from headway.message_codec import message_encoding

from ..runtime.wakeup_client import WakeupClient
from . import metrics
from .follow_ups import FollowUps
from .lease import Lease
from .leased_job import LeasedJob
from .outcomes import Finished, Interruption, Outcome, RetryLater
from .received_job import ReceivedJob
from .reporting.report_stream import ReportRejected

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FOLLOW_UP_BACKOFF_S, MAX_FOLLOW_UP_BACKOFF_S = 1.0, 60.0  # until a message whose follow-up job failed is delivered
POISON_BACKOFF_S, MAX_POISON_BACKOFF_S = 0.5, 10.0


class Settlement:
    """Settles one message, when its delivery ends."""

    def __init__(
        self, queue: JobQueue, wakeups: WakeupClient, follow_ups: FollowUps, lease: Lease, message_id: str
    ) -> None:
        self._queue = queue
        self._wakeups = wakeups
        self._follow_ups = follow_ups
        self._lease = lease
        self._message_id = message_id

    async def settle(self, outcome: Outcome, leased: LeasedJob) -> None:
        """Settle the message according to the outcome of its delivery.

        Args:
            outcome: the outcome that was reported, or the interruption.
            leased: the job; a released message gets its checkpoint and its progress.

        Raises:
            AzureError: the queue is unavailable; the message becomes visible when its lease ends.
        """
        match outcome:
            case Finished():
                await self._delete_after_follow_up(leased.job, leased.stream.latest)
            case Interruption.FINISHED:
                await self._delete_after_follow_up(leased.job, None)
            case Interruption.REFUSED:
                await self._lease.delete()
            case Interruption.SUPERSEDED if leased.job.expired:
                await self._lease.delete()  # notifiers of version 0.1 answer so for an older generation
            case RetryLater(after_s=after_s):
                await self._release(int(after_s or 0))
            case Interruption.STOPPED:
                if await self._lease.release(leased.release_text()):
                    # Before the wake-up, or the report of the next start could overtake this one.
                    with suppress(ReportRejected):
                        await leased.stream.report("queued")
                    self._wakeups.notify()
            case Interruption.LEASE_LOST:
                metrics.LEASES_LOST.inc()

    async def _delete_after_follow_up(self, job: ReceivedJob, end: JobReport | None) -> None:
        """Delete the message of an ended job once its follow-up job is submitted; otherwise release it for later."""
        if await self._follow_ups.submit(job.message, end):
            await self._lease.delete()
        else:
            delay_s = full_jitter_s(job.received.delivery, FOLLOW_UP_BACKOFF_S, MAX_FOLLOW_UP_BACKOFF_S)
            await self._release(math.ceil(delay_s))

    async def _release(self, after_s: int) -> None:
        """Release the message unchanged, and wake a worker when it becomes visible."""
        if await self._lease.release(None, after_s):
            self._wakeups.notify_after(after_s)

    async def move_to_poison_queue(self, reason: str, text: str) -> None:
        """Copy the message to the poison queue, then delete it; see `copy_to_poison_queue`.

        Raises:
            AzureError: the queue is unavailable.
        """
        await self.copy_to_poison_queue(reason, text)
        await self._lease.delete()

    async def copy_to_poison_queue(self, reason: str, text: str) -> None:
        """Copy the message to the poison queue; try again until the queue accepts it.

        Args:
            reason: why, for metrics and logs: `unreadable`, `attempts` (none is left), `refused` or `abandoned`.
            text: the text of the message.
        """
        tries = 0
        while True:
            try:
                await self._queue.poison(text)
            except AzureError as error:
                log.warning("poison_queue_unavailable", message_id=self._message_id, error=type(error).__name__)
                await asyncio.sleep(full_jitter_s(tries, POISON_BACKOFF_S, MAX_POISON_BACKOFF_S))
                tries += 1
            else:
                break
        metrics.MESSAGES_POISONED.labels(reason).inc()
        log.warning("message_poisoned", message_id=self._message_id, reason=reason, encoding=message_encoding(text))
