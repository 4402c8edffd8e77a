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

from headway.azure.job_queue import ReceivedMessage, is_receipt_invalid, was_never_sent
from headway.contracts import Timestamp

from . import metrics

HANDLER_MARGIN = 0.1  # of the lease, kept for stopping the handler
RENEWAL_RETRY = 0.1  # of the lease, between two tries of a renewal that failed
MAX_RELEASE_TRIES, RELEASE_RETRY_DELAY_S = 3, 0.3  # tries to hand a message back, and between them


class MessageStore(Protocol):
    """The part of the queue that a lease needs."""

    async def update(self, message_id: str, pop_receipt: str, visibility_s: int, text: str | None = None) -> str:
        """Set a message's visibility and return its new receipt."""

    async def delete(self, message_id: str, pop_receipt: str) -> None:
        """Remove a message."""


class LeaseLost(Exception):
    """The message is another worker's, or may be."""


class Lease:
    """The exclusive right to one message."""

    def __init__(
        self, queue: MessageStore, received: ReceivedMessage, lease_s: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue = queue
        self._id = received.id
        self._pop_receipt = received.pop_receipt
        self._lease_s = lease_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._receipt_uncertain = False  # whether the receipt may be dead though the message is ours
        self._settled = False
        self._confirmed_at = received.requested_at
        self._renewal_wanted = asyncio.Event()  # a renewal, now, since there is a text to write
        self._text: str | None = None
        self._waiting_for_text: list[asyncio.Future[None]] = []
        self._over = False

    @property
    def until(self) -> Timestamp:
        """When the lease ends by this machine's clock, unless it is renewed."""
        return Timestamp.now().after(self._confirmed_at + self._lease_s - self._clock())

    @property
    def handler_deadline(self) -> float:
        """When a handler must have stopped, by the monotonic clock, unless the lease is renewed."""
        return self._confirmed_at + self._lease_s * (1 - HANDLER_MARGIN)

    async def save_text(self, text: str) -> None:
        """Write a new text into the message with a renewal, at once, and wait until it is there.

        Raises:
            CancelledError: nobody renews any more, since the message may be another worker's.
        """
        if self._over:
            raise asyncio.CancelledError("lease")
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting_for_text.append(saved)
        self._text = text
        self._renewal_wanted.set()
        await saved

    async def renew_forever(self, on_renewed: Callable[[], None]) -> NoReturn:
        """Renew at half time, for ever; raises LeaseLost, in time to stop the handler."""
        try:
            await self._renew_until_lost(on_renewed)
        finally:
            self._over = True
            for saved in self._waiting_for_text:
                saved.cancel("lease")

    async def _renew_until_lost(self, on_renewed: Callable[[], None]) -> NoReturn:
        pause_s = self._half_time_s()
        while True:
            left_s = self.handler_deadline - self._clock()
            if left_s <= 0:
                raise LeaseLost("the lease could not be renewed in time")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause_s, left_s)):
                    await self._renewal_wanted.wait()
            self._renewal_wanted.clear()
            pause_s = self._lease_s * RENEWAL_RETRY
            renewed = await self._renew()
            metrics.LEASE_RENEWALS.labels("renewed" if renewed else "failed").inc()
            if renewed:
                pause_s = self._half_time_s()
                on_renewed()

    def _half_time_s(self) -> float:
        return self._lease_s / 2 * random.uniform(0.9, 1)  # noqa: S311 - so that many do not stay in step

    async def _renew(self) -> bool:
        async with self._lock:
            if self._settled:
                return False
            asked_at = self._clock()
            text, waiting = self._text, len(self._waiting_for_text)
            try:
                async with asyncio.timeout(max(0.0, self.handler_deadline - asked_at)):
                    self._pop_receipt = await self._queue.update(self._id, self._pop_receipt, self._lease_s, text)
            except HttpResponseError as error:
                if is_receipt_invalid(error) and not self._receipt_uncertain:
                    raise LeaseLost("another worker has the message") from error
                self._receipt_uncertain = True
                return False
            except (AzureError, TimeoutError) as error:
                self._receipt_uncertain = self._receipt_uncertain or not (
                    isinstance(error, AzureError) and was_never_sent(error)
                )
                return False
            self._receipt_uncertain = False
            self._confirmed_at = asked_at
            self._on_text_saved(text, waiting)
            return True

    def _on_text_saved(self, text: str | None, count: int) -> None:
        """Tell those who waited for this text; one that came meanwhile is still to be written."""
        self._text = None if self._text is text else self._text
        done, self._waiting_for_text = self._waiting_for_text[:count], self._waiting_for_text[count:]
        for saved in done:
            if not saved.done():
                saved.set_result(None)

    async def delete(self) -> None:
        """Remove the message, after a renewal that is in flight; in doubt it is left to come back."""
        async with self._lock:
            if not self._receipt_uncertain:
                await self._queue.delete(self._id, self._pop_receipt)
                self._settled = True

    async def release(self, text: str | None, after_s: int = 0) -> bool:
        """Hand the message back, to be seen after a while, with a text when given; tell whether that could be done."""
        async with self._lock:
            if not self._receipt_uncertain:
                await self._release_with_retry(text, after_s)
                self._settled = True
            return self._settled

    async def _release_with_retry(self, text: str | None, after_s: int) -> None:
        """Try a few times: what is not handed back is nobody's until the lease ends, and that costs an attempt."""
        for left in reversed(range(MAX_RELEASE_TRIES)):
            try:
                await self._queue.update(self._id, self._pop_receipt, after_s, text)
            except AzureError as error:
                another = isinstance(error, HttpResponseError) and is_receipt_invalid(error)
                if another and left < MAX_RELEASE_TRIES - 1:
                    return  # a try that seemed to fail has done it
                if another or not left:
                    raise
                await asyncio.sleep(RELEASE_RETRY_DELAY_S)
            else:
                return
