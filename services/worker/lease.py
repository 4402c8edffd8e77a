"""The lease: one message is this worker's for as long as its visibility is renewed, and not a moment longer.

Every renewal gives a new receipt and kills the old one. So renewals and settling share one lock, and after a lost
response nobody knows which receipt is alive: then nothing may be settled, and the handler has to stop before the last
confirmed lease ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from azure.core.exceptions import AzureError, HttpResponseError

from headway.azure_queue import Received, gone, unsent
from headway.contracts import Timestamp
from services.worker import metrics

MARGIN = 0.1  # of the lease, kept for stopping the handler
RETRY = 0.1  # of the lease, between two tries of a renewal that failed


class Messages(Protocol):
    """The part of the queue that a lease needs."""

    async def update(self, message_id: str, receipt: str, visibility_s: int, text: str | None = None) -> str:
        """Set a message's visibility and return its new receipt."""

    async def delete(self, message_id: str, receipt: str) -> None:
        """Remove a message."""


class LeaseLost(Exception):  # noqa: N818 - reads as what it is
    """The message is another worker's, or may be."""


class Lease:
    """The exclusive right to one message."""

    def __init__(
        self, queue: Messages, received: Received, lease_s: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue = queue
        self._id = received.id
        self._receipt = received.receipt
        self._lease_s = lease_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._doubt = False  # whether the receipt may be dead though the message is ours
        self._settled = False
        self._confirmed_at = received.requested_at

    @property
    def until(self) -> Timestamp:
        """When the lease ends by this machine's clock, unless it is renewed."""
        return Timestamp.now().after(self._confirmed_at + self._lease_s - self._clock())

    async def hold(self, renewed: Callable[[], None]) -> NoReturn:
        """Renew at half time, for ever; raises LeaseLost, in time to stop the handler."""
        pause = self._lease_s / 2 * random.uniform(0.9, 1)  # noqa: S311
        while True:
            left = self._confirmed_at + self._lease_s * (1 - MARGIN) - self._clock()
            if left <= 0:
                raise LeaseLost("the lease could not be renewed in time")
            await asyncio.sleep(min(pause, left))
            pause = self._lease_s * RETRY
            renewal = await self._renew()
            metrics.LEASE_RENEWALS.labels("renewed" if renewal else "failed").inc()
            if renewal:
                pause = self._lease_s / 2
                renewed()

    async def _renew(self) -> bool:
        async with self._lock:
            if self._settled:
                return False
            asked_at = self._clock()
            try:
                async with asyncio.timeout(max(0.0, self._confirmed_at + self._lease_s * (1 - MARGIN) - asked_at)):
                    self._receipt = await self._queue.update(self._id, self._receipt, self._lease_s)
            except HttpResponseError as error:
                if gone(error) and not self._doubt:
                    raise LeaseLost("another worker has the message") from error
                self._doubt = True
                return False
            except (AzureError, TimeoutError) as error:
                self._doubt = self._doubt or not (isinstance(error, AzureError) and unsent(error))
                return False
            self._doubt = False
            self._confirmed_at = asked_at
            return True

    async def delete(self) -> None:
        """Remove the message, after a renewal that is in flight; in doubt it is left to come back."""
        async with self._lock:
            if not self._doubt:
                await self._queue.delete(self._id, self._receipt)
                self._settled = True

    async def release(self, text: str | None, after_s: int = 0) -> bool:
        """Hand the message back, to be seen after a while, with a text when given; tell whether that could be done."""
        async with self._lock:
            if not self._doubt:
                await self._queue.update(self._id, self._receipt, after_s, text)
                self._settled = True
            return self._settled
