"""The lease of a queue message: this worker owns the message as long as it renews the visibility timeout in time.

Each renewal returns a new pop receipt and invalidates the old one. Renewal and settlement therefore share a lock. If
the response to a renewal is lost, it is unknown which receipt is valid: the message must not be settled, and the
handler must stop before the last confirmed lease ends. A renewal that ends for any reason is a lost lease, too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from azure.core.exceptions import AzureError, HttpResponseError

from headway.azure.job_queue import ReceivedMessage, is_receipt_invalid, was_never_sent

from . import metrics
from .outcomes import LeaseLost

STOP_MARGIN_FRACTION = 0.1  # of the lease: the time to stop the handler before the lease ends
RETRY_DELAY_FRACTION = 0.1  # of the lease: the delay after a failed renewal
MAX_RELEASE_TRIES, RELEASE_RETRY_DELAY_S = 3, 0.3
ENDED = float("-inf")


class MessageStore(Protocol):
    """The queue operations that a lease uses."""

    async def update(self, message_id: str, pop_receipt: str, visibility_s: int, text: str | None = None) -> str:
        """Set the visibility timeout of a message, and its text if given; return the new pop receipt.

        Raises:
            AzureError: the queue is unavailable, or the pop receipt is invalid.
        """

    async def delete(self, message_id: str, pop_receipt: str) -> None:
        """Delete a message; do nothing if the pop receipt is invalid.

        Raises:
            AzureError: the queue is unavailable.
        """


class Lease:
    """The lease of one message.

    Args:
        queue: the queue of the message.
        received: the message.
        lease_s: the visibility timeout in seconds, with which it was received and is renewed.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, queue: MessageStore, received: ReceivedMessage, lease_s: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue = queue
        self._id = received.id
        self._pop_receipt = received.pop_receipt
        self._lease_s = lease_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._receipt_uncertain = False  # a renewal without a response may have replaced the receipt
        self._settled = False
        self._confirm(received.requested_at)
        self._renew_now = asyncio.Event()  # set when there is a text to save
        self._unsaved_text: str | None = None
        self._text_waiters: list[asyncio.Future[None]] = []
        self._renewals_ended = False
        self._revoked = False

    def _confirm(self, requested_at: float) -> None:
        self._confirmed_at = requested_at
        self._renewal_deadline = requested_at + self._lease_s * (1 - STOP_MARGIN_FRACTION)

    @property
    def handler_deadline(self) -> float:
        """The monotonic time by which the handler must stop unless the lease is renewed; thread-safe."""
        return ENDED if self._revoked else self._renewal_deadline

    def revoke(self) -> None:
        """End the time of the handler: the job belongs to another delivery."""
        self._revoked = True

    @property
    def until(self) -> float:
        """The monotonic time when the last confirmed lease ends."""
        return self._confirmed_at + self._lease_s

    async def save_text(self, text: str) -> None:
        """Renew the lease now with a new message text, and wait until the queue confirms it.

        A newer text replaces one that has not been sent.

        Raises:
            CancelledError: the lease is lost.
        """
        if self._renewals_ended:
            raise asyncio.CancelledError("lease")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._text_waiters.append(waiter)
        self._unsaved_text = text
        self._renew_now.set()
        await waiter

    @asynccontextmanager
    async def renewed(
        self, on_renewed: Callable[[], None], on_lost: Callable[[BaseException], None]
    ) -> AsyncIterator[None]:
        """Renew the lease inside the block whenever about half of it has passed, until the message is settled.

        Args:
            on_renewed: called after each renewal.
            on_lost: called when the lease is lost, because its renewal ended: with LeaseLost, with CancelledError if
                the task was cancelled, or with an exception that is a bug.
        """
        renewal = asyncio.create_task(self._renew_until_settled(on_renewed))
        in_block = True

        # A callback, because a task that is cancelled before its first step runs no code of its own.
        def on_ended(_: asyncio.Task[None]) -> None:
            self._renewals_ended = True
            for waiter in self._text_waiters:
                waiter.cancel("lease")
            error = asyncio.CancelledError() if renewal.cancelled() else renewal.exception()
            if in_block and not self._settled:
                self.revoke()
                on_lost(error or LeaseLost("the lease is not renewed any more"))

        renewal.add_done_callback(on_ended)
        try:
            yield
        finally:
            in_block = False
            renewal.cancel()
            await asyncio.wait({renewal})

    async def _renew_until_settled(self, on_renewed: Callable[[], None]) -> None:
        pause_s = self._renewal_interval_s()
        while not self._settled:
            remaining_s = max(0.0, self._renewal_deadline - self._clock())
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause_s, remaining_s)):
                    await self._renew_now.wait()
            self._renew_now.clear()
            pause_s = self._lease_s * RETRY_DELAY_FRACTION
            renewed = await self._renew()
            metrics.LEASE_RENEWALS.labels("renewed" if renewed else "failed").inc()
            if renewed:
                pause_s = self._renewal_interval_s()
                on_renewed()

    def _renewal_interval_s(self) -> float:
        return self._lease_s / 2 * random.uniform(0.9, 1)  # noqa: S311 - spreads the renewals of many leases

    async def _renew(self) -> bool:
        """Send one renewal, with the unsaved text if there is one; return whether the queue confirmed it.

        Raises:
            LeaseLost: another worker has the message, or may have it, because the time for renewals has passed.
        """
        async with self._lock:
            if self._settled:
                return False
            requested_at = self._clock()
            if requested_at >= self._renewal_deadline:
                raise LeaseLost("the lease could not be renewed in time")
            text, waiter_count = self._unsaved_text, len(self._text_waiters)
            try:
                async with asyncio.timeout(self._renewal_deadline - requested_at):
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
            self._confirm(requested_at)
            self._on_text_saved(text, waiter_count)
            return True

    def _on_text_saved(self, text: str | None, waiter_count: int) -> None:
        """Called when a renewal was confirmed. A text that was set during the request remains unsaved."""
        self._unsaved_text = None if self._unsaved_text is text else self._unsaved_text
        saved, self._text_waiters = self._text_waiters[:waiter_count], self._text_waiters[waiter_count:]
        for waiter in saved:
            if not waiter.done():
                waiter.set_result(None)

    async def delete(self) -> None:
        """Delete the message, once a renewal in flight has completed.

        Do nothing if the receipt is uncertain; then the message becomes visible when its lease ends.

        Raises:
            AzureError: the queue is unavailable.
        """
        async with self._lock:
            if not self._receipt_uncertain:
                await self._queue.delete(self._id, self._pop_receipt)
                self._settled = True

    async def release(self, text: str | None, after_s: int = 0) -> bool:
        """Release the message: it becomes visible after `after_s` seconds, with a new text if given.

        Return False, without a request, if the receipt is uncertain; then the message becomes visible when its lease
        ends.

        Raises:
            AzureError: the queue is unavailable, or another worker has the message.
        """
        async with self._lock:
            if not self._receipt_uncertain:
                await self._release_with_retry(text, after_s)
                self._settled = True
            return self._settled

    async def _release_with_retry(self, text: str | None, after_s: int) -> None:
        """Release the message, with retries: a message that is not released is delayed and loses an attempt."""
        for tries_left in reversed(range(MAX_RELEASE_TRIES)):
            try:
                await self._queue.update(self._id, self._pop_receipt, after_s, text)
            except AzureError as error:
                receipt_invalid = isinstance(error, HttpResponseError) and is_receipt_invalid(error)
                if receipt_invalid and tries_left < MAX_RELEASE_TRIES - 1:
                    return  # an earlier try succeeded although it reported an error
                if receipt_invalid or not tries_left:
                    raise
                await asyncio.sleep(RELEASE_RETRY_DELAY_S)
            else:
                return
