"""Settles queue messages: deletes them, releases them for another delivery, or copies them to the poison queue."""

from __future__ import annotations

import structlog

from headway.azure.job_queue import JobQueue

from ..runtime.wakeup_client import WakeupClient
from . import metrics
from .lease import Lease
from .leased_job import LeasedJob
from .outcomes import Finished, Interruption, Outcome, RetryLater

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Settlement:
    """The settlement of one message."""

    def __init__(self, queue: JobQueue, wakeups: WakeupClient, lease: Lease, message_id: str) -> None:
        self._queue = queue
        self._wakeups = wakeups
        self._lease = lease
        self._message_id = message_id

    async def settle(self, outcome: Outcome, job: LeasedJob) -> None:
        """Settle the message according to the outcome of its delivery.

        Raises:
            AzureError: the queue is unavailable; the message becomes visible when its lease ends.
        """
        match outcome:
            case Finished() | Interruption.FINISHED:
                await self._lease.delete()
            case Interruption.SUPERSEDED if job.expired:  # otherwise it would be delivered for ever
                await self._lease.delete()
            case RetryLater(after_s=after_s):
                if await self._lease.release(None, int(after_s or 0)):
                    self._wakeups.notify_after(after_s or 0)
            case Interruption.STOPPED:
                if await self._lease.release(job.release_text()):
                    await job.stream.report("queued")  # before the wake-up: the next start must not overtake it
                    self._wakeups.notify()
            case Interruption.REFUSED:
                await self.discard("refused", job.text)
            case Interruption.LEASE_LOST:
                metrics.LEASES_LOST.inc()

    async def discard(self, reason: str, text: str) -> None:
        """Move the message to the poison queue.

        Args:
            reason: `unreadable` or `refused`, for metrics and logs.
            text: the text of the message.

        Raises:
            AzureError: the queue is unavailable.
        """
        await self.poison(reason, text)
        await self._lease.delete()

    async def poison(self, reason: str, text: str) -> None:
        """Copy the message to the poison queue; `reason` as for `discard`, or `attempts`.

        Raises:
            AzureError: the queue is unavailable.
        """
        await self._queue.poison(text)
        metrics.POISONED.labels(reason).inc()
        log.warning("message_poisoned", message_id=self._message_id, reason=reason)
