"""A queue in memory that leases messages as Azure Storage does."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from uuid import UUID

from azure.core.exceptions import HttpResponseError

from headway.azure.job_queue import MAX_PAGE, PeekedMessage, ReceivedMessage
from headway.contracts import Timestamp


def message_id(number: int) -> str:
    """Return the id of a message of a queue, from 1; as Azure's, it could be that of a job."""
    return str(UUID(int=number))


class PopReceiptMismatch(HttpResponseError):
    """The error of an invalid pop receipt."""

    error_code = "PopReceiptMismatch"


@dataclass
class StoredMessage:
    """A message on the queue."""

    text: str
    inserted_at: Timestamp
    visible_at: float = 0.0  # in monotonic time
    receipt: str = ""
    deliveries: int = 0


class MemoryQueue:
    """The operations of `JobQueue` that the poison queue uses, each with a turn of the event loop.

    An operation named in `blocking` waits for `unblock` before it does anything; one in `forbidden` is refused.
    """

    def __init__(self, *texts: str) -> None:
        self._numbers = itertools.count(1)
        self.messages: dict[str, StoredMessage] = {}
        self.sent: list[str] = []
        self.error: Exception | None = None  # raised by `send` and `update`
        self.blocking = ""
        self.forbidden = ""
        self.peeks = 0
        self.blocked, self.unblock = asyncio.Event(), asyncio.Event()
        for text in texts:
            self._insert(text)

    def _insert(self, text: str) -> None:
        number = next(self._numbers)
        self.messages[message_id(number)] = StoredMessage(text, Timestamp(number * 1000))

    @property
    def visible(self) -> list[str]:
        """The IDs of the messages that can be received, in the order in which they became visible."""
        now = time.monotonic()
        found = [name for name, message in self.messages.items() if message.visible_at <= now]
        return sorted(found, key=lambda name: self.messages[name].visible_at)

    async def _turn(self, operation: str) -> None:
        if operation == self.blocking:
            self.blocked.set()
            await self.unblock.wait()
        if operation == self.forbidden:
            raise HttpResponseError("The caller may not do this.")
        await asyncio.sleep(0)

    async def receive(self, count: int, visibility_s: float, *, create: bool) -> list[ReceivedMessage]:
        """Lease messages."""
        assert not create
        await self._turn("receive")
        page = []
        for name in self.visible[: min(count, MAX_PAGE)]:
            message = self.messages[name]
            message.visible_at = time.monotonic() + visibility_s
            message.deliveries += 1
            message.receipt = f"receipt {next(self._numbers)}"
            page.append(
                ReceivedMessage(
                    name,
                    message.receipt,
                    message.text,
                    message.deliveries,
                    message.inserted_at,
                    message.inserted_at,
                    time.monotonic(),
                )
            )
        return page

    async def peek(self) -> list[PeekedMessage]:
        """Return visible messages."""
        self.peeks += 1
        await self._turn("peek")
        found = [(name, self.messages[name]) for name in self.visible[:MAX_PAGE]]
        return [PeekedMessage(name, one.text, one.inserted_at, one.inserted_at) for name, one in found]

    async def count(self) -> int:
        """Count all messages."""
        await self._turn("count")
        return len(self.messages)

    async def update(self, message_id: str, receipt: str, visibility_s: float) -> str:
        """Release a message, or renew its lease."""
        await self._turn("update")
        if self.error is not None:
            raise self.error
        message = self._leased(message_id, receipt)
        message.visible_at = time.monotonic() + visibility_s
        message.receipt = f"receipt {next(self._numbers)}"
        return message.receipt

    async def delete(self, message_id: str, receipt: str) -> None:
        """Delete a message."""
        await self._turn("delete")
        self._leased(message_id, receipt)
        del self.messages[message_id]

    async def send(self, text: str, *, delay_s: int = 0) -> None:
        """Record a message that is sent to the jobs queue."""
        assert delay_s == 0
        await self._turn("send")
        if self.error is not None:
            raise self.error
        self.sent.append(text)

    def _leased(self, message_id: str, receipt: str) -> StoredMessage:
        message = self.messages.get(message_id)
        if message is None or message.receipt != receipt:
            raise PopReceiptMismatch("The pop receipt is invalid.")
        return message
