"""The jobs queue on Azure Storage. Only requests that are safe to repeat are retried."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from aiohttp import ClientConnectorError
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ServiceRequestError
from azure.storage.queue.aio import QueueClient, QueueServiceClient
from msgspec import Struct

from headway.azure.sdk_requests import RequestPolicy, Transport
from headway.contracts import Timestamp

API_VERSION = "2025-11-05"  # Azurite does not support the newest version, which is the SDK's default
FOREVER = -1
MAX_CONCURRENT_UPDATES = 32  # without a limit, a thousand simultaneous renewals would time out
MAX_PAGE = 32  # messages per receive
_NO_RETRY = {"retry_total": 0}
QueueError = AzureError  # raised by every request; for code that must not import the SDK itself
T = TypeVar("T")

# For a response of 500 with an empty body the SDK logs a traceback.
logging.getLogger("azure.core.pipeline.policies").setLevel(logging.ERROR)


class ReceivedMessage(Struct, frozen=True):
    """A message that is leased to this worker until its visibility timeout ends."""

    id: str
    pop_receipt: str
    text: str
    delivery: int
    inserted_at: Timestamp
    received_at: Timestamp  # like `inserted_at` by the queue service's clock; see `service_time`
    requested_at: float  # monotonic time before the request, in s; the visibility timeout started later

    def queue_time(self) -> Timestamp:
        """Return the current time by the queue service's clock; if this machine's clock is wrong, to a second."""
        return self.received_at.after(time.monotonic() - self.requested_at)


class PeekedMessage(Struct, frozen=True):
    """A message that can be received now."""

    id: str
    text: str
    inserted_at: Timestamp
    peeked_at: Timestamp  # like `inserted_at` by the queue service's clock; see `service_time`

    def queue_time(self) -> Timestamp:
        """Return the time of the peek by the queue service's clock."""
        return self.peeked_at


class QueueDepth(Struct, frozen=True):
    """The approximate number of messages."""

    messages: int  # including leased and delayed ones
    poison_messages: int
    oldest_age_s: float  # of the next message that can be received, by the queue service's clock; 0 without one


def service_time(seconds: float, local_time: Timestamp) -> Timestamp:
    """Return the queue service's time of a request.

    The service answers with whole seconds. Within that second this machine's clock is right and more precise.

    Args:
        seconds: the time in the answer, since the epoch.
        local_time: the time by this machine's clock.
    """
    earliest = Timestamp.at(seconds)
    return max(earliest, min(local_time, earliest.after(1)))


class JobQueue:
    """One queue and its poison queue, both created if they do not exist."""

    def __init__(self, service: QueueServiceClient, name: str) -> None:
        self.name = name
        self._updating = asyncio.Semaphore(MAX_CONCURRENT_UPDATES)
        self._jobs = service.get_queue_client(name)
        self._poison = service.get_queue_client(f"{name}-poison")

    @classmethod
    @asynccontextmanager
    async def connect(cls, account: str, name: str, api_version: str = API_VERSION) -> AsyncIterator[JobQueue]:
        """Open a client; no request is sent.

        Args:
            account: a connection string, or the URL of an account, such as https://<account>.queue.core.windows.net.
                With a URL, the client authenticates with the identity of its environment (workload identity or managed
                identity).
            name: the name of the queue.
            api_version: the version of the Azure Storage API.
        """
        policy = RequestPolicy(transport := Transport())
        options: dict[str, Any] = {
            "api_version": api_version,
            "transport": transport,
            "retry_policy": policy,
            "permit_redirects": False,  # the target of a redirect would get the signature
        }
        async with AsyncExitStack() as stack:
            if account.startswith("https://"):
                from azure.identity.aio import DefaultAzureCredential

                identity = await stack.enter_async_context(DefaultAzureCredential())
                service = QueueServiceClient(account, identity, **options)
            else:
                service = QueueServiceClient.from_connection_string(account, **options)
            policy.credential = service.credential
            yield cls(await stack.enter_async_context(service), name)

    async def send(self, text: str, *, delay_s: int = 0) -> None:
        """Send a message that becomes visible after `delay_s`."""
        await _with_queue_created(
            self._jobs, lambda: self._jobs.send_message(text, visibility_timeout=delay_s, time_to_live=FOREVER)
        )

    async def receive(self, count: int, visibility_s: int, *, create: bool = True) -> list[ReceivedMessage]:
        """Receive up to `count` messages (at most 32) in one request.

        A missing queue is created, or treated as empty if `create` is false.
        """
        requested_at, local_time = time.monotonic(), Timestamp.now()

        async def receive_page() -> list[Any]:
            pages = self._jobs.receive_messages(
                messages_per_page=min(count, MAX_PAGE),
                visibility_timeout=visibility_s,
                **_NO_RETRY,
            ).by_page()
            async for messages in pages:
                return [message async for message in messages]
            return []

        return [
            ReceivedMessage(
                message.id,
                message.pop_receipt,
                message.content,
                message.dequeue_count,
                Timestamp.at(message.inserted_on.timestamp()),
                service_time(message.next_visible_on.timestamp() - visibility_s, local_time),
                requested_at,
            )
            for message in await (
                _with_queue_created(self._jobs, receive_page) if create else _unless_missing(receive_page, [])
            )
        ]

    async def update(self, message_id: str, pop_receipt: str, visibility_s: int, text: str | None = None) -> str:
        """Set a message's visibility timeout, and its text if given; return the new pop receipt."""
        async with self._updating:
            updated = await self._jobs.update_message(
                message_id, pop_receipt, text, visibility_timeout=visibility_s, **_NO_RETRY
            )
        return str(updated.pop_receipt)

    async def delete(self, message_id: str, pop_receipt: str) -> None:
        """Delete a message; do nothing if it does not exist or its pop receipt is outdated."""
        try:
            await self._jobs.delete_message(message_id, pop_receipt)
        except HttpResponseError as error:
            if not is_receipt_invalid(error):
                raise

    async def peek(self, count: int = MAX_PAGE) -> list[PeekedMessage]:
        """Return up to `count` messages (at most 32) that can be received now, without leasing them.

        A missing queue is treated as empty.
        """
        peeked_at = Timestamp.now()

        def on_response(response: Any) -> None:
            nonlocal peeked_at
            peeked_at = _response_time(response.http_response.headers.get("Date"))

        peeked: list[Any] = await _unless_missing(
            lambda: self._jobs.peek_messages(count, raw_response_hook=on_response), []
        )
        return [
            PeekedMessage(message.id, message.content, Timestamp.at(message.inserted_on.timestamp()), peeked_at)
            for message in peeked
        ]

    async def count(self) -> int:
        """Return the approximate number of messages, including leased and delayed ones."""
        return await _count(self._jobs)

    async def depth(self) -> QueueDepth:
        """Return the number of messages on the queue and on the poison queue."""
        messages, poison = await self.count(), await _count(self._poison)
        peeked = await self.peek(1) if messages else []
        age_ms = peeked[0].queue_time() - peeked[0].inserted_at if peeked else 0
        return QueueDepth(messages, poison, max(0, age_ms) / 1000)

    async def poison(self, text: str) -> None:
        """Send a message to the poison queue."""
        await _with_queue_created(self._poison, lambda: self._poison.send_message(text, time_to_live=FOREVER))


def _response_time(date: str | None) -> Timestamp:
    """Return the queue service's time of a response, from its header `Date`."""
    local_time = Timestamp.now()
    try:
        return service_time(parsedate_to_datetime(date or "").timestamp(), local_time)
    except ValueError:  # a proxy has removed or changed the header
        return local_time


def is_receipt_invalid(error: HttpResponseError) -> bool:
    """Return whether the service reports that the pop receipt is not valid any more."""
    return _error_code(error) in ("MessageNotFound", "PopReceiptMismatch")


def was_never_sent(error: AzureError) -> bool:
    """Return whether a request never reached the service; the SDK raises the same error for lost responses."""
    return isinstance(error, ServiceRequestError) and isinstance(error.inner_exception, ClientConnectorError)


def _is_queue_missing(error: HttpResponseError) -> bool:
    return _error_code(error) == "QueueNotFound"


def _error_code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None)  # an enum member or a string
    return str(getattr(code, "value", code))


async def _count(queue: QueueClient) -> int:
    async def count() -> int:
        return int((await queue.get_queue_properties()).approximate_message_count or 0)

    return await _unless_missing(count, 0)


async def _unless_missing(call: Callable[[], Awaitable[T]], default: T) -> T:
    """Return the result of a call, or `default` if the queue does not exist."""
    try:
        return await call()
    except HttpResponseError as error:
        if not _is_queue_missing(error):
            raise
    return default


async def _with_queue_created(queue: QueueClient, call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of a call; if the queue does not exist, create it and repeat the call."""
    try:
        return await call()
    except HttpResponseError as error:
        if not _is_queue_missing(error):
            raise
    with suppress(ResourceExistsError):  # another process created it first
        await queue.create_queue()
    return await call()
