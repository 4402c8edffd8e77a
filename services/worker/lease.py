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
from contextlib import suppress
from typing import NoReturn, Protocol

from azure.core.exceptions import AzureError, HttpResponseError

from headway.azure_queue import Received, gone, unsent
from headway.contracts import Timestamp
from services.worker import metrics

MARGIN = 0.1  # of the lease, kept for stopping the handler
RETRY = 0.1  # of the lease, between two tries of a renewal that failed
RELEASES, RELEASE_PAUSE_S = 3, 0.3  # tries to hand a message back, and between them


class Messages(Protocol):
    """The part of the queue that a lease needs."""

    async def update(self, message_id: str, receipt: str, visibility_s: int, text: str | None = None) -> str:
        """Set a message's visibility and return its new receipt."""

    async def delete(self, message_id: str, receipt: str) -> None:
        """Remove a message."""


class LeaseLost(Exception):
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
        self._wanted = asyncio.Event()  # a renewal, now, since there is a text to write
        self._text: str | None = None
        self._saving: list[asyncio.Future[None]] = []
        self._over = False

    @property
    def until(self) -> Timestamp:
        """When the lease ends by this machine's clock, unless it is renewed."""
        return Timestamp.now().after(self._confirmed_at + self._lease_s - self._clock())

    @property
    def held_until(self) -> float:
        """When a handler must have stopped, by the monotonic clock, unless the lease is renewed."""
        return self._confirmed_at + self._lease_s * (1 - MARGIN)

    async def save(self, text: str) -> None:
        """Write a new text into the message with a renewal, at once, and wait until it is there.

        Raises:
            CancelledError: nobody renews any more, since the message may be another worker's.
        """
        if self._over:
            raise asyncio.CancelledError("lease")
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._saving.append(saved)
        self._text = text
        self._wanted.set()
        await saved

    async def hold(self, renewed: Callable[[], None]) -> NoReturn:
        """Renew at half time, for ever; raises LeaseLost, in time to stop the handler."""
        try:
            await self._hold(renewed)
        finally:
            self._over = True
            for saved in self._saving:
                saved.cancel("lease")

    async def _hold(self, renewed: Callable[[], None]) -> NoReturn:
        pause = self._half()
        while True:
            left = self.held_until - self._clock()
            if left <= 0:
                raise LeaseLost("the lease could not be renewed in time")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, left)):
                    await self._wanted.wait()
            self._wanted.clear()
            pause = self._lease_s * RETRY
            renewal = await self._renew()
            metrics.LEASE_RENEWALS.labels("renewed" if renewal else "failed").inc()
            if renewal:
                pause = self._half()
                renewed()

    def _half(self) -> float:
        return self._lease_s / 2 * random.uniform(0.9, 1)  # noqa: S311 - so that many do not stay in step

    async def _renew(self) -> bool:
        async with self._lock:
            if self._settled:
                return False
            asked_at = self._clock()
            text, saving = self._text, len(self._saving)
            try:
                async with asyncio.timeout(max(0.0, self.held_until - asked_at)):
                    self._receipt = await self._queue.update(self._id, self._receipt, self._lease_s, text)
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
            self._saved(text, saving)
            return True

    def _saved(self, text: str | None, count: int) -> None:
        """Tell those who waited for this text; one that came meanwhile is still to be written."""
        self._text = None if self._text is text else self._text
        done, self._saving = self._saving[:count], self._saving[count:]
        for saved in done:
            if not saved.done():
                saved.set_result(None)

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
                await self._hand_back(text, after_s)
                self._settled = True
            return self._settled

    async def _hand_back(self, text: str | None, after_s: int) -> None:
        """Try a few times: what is not handed back is nobody's until the lease ends, and that costs an attempt."""
        for left in reversed(range(RELEASES)):
            try:
                await self._queue.update(self._id, self._receipt, after_s, text)
            except AzureError as error:
                another = isinstance(error, HttpResponseError) and gone(error)
                if another and left < RELEASES - 1:
                    return  # a try that seemed to fail has done it
                if another or not left:
                    raise
                await asyncio.sleep(RELEASE_PAUSE_S)
            else:
                return
