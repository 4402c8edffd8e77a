"""The poison queue: messages that could not be processed, kept until an operator redrives or discards them.

A peek returns at most 32 messages, so every operation receives all messages and releases those that it does not delete.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from azure.core.exceptions import AzureError, HttpResponseError
from msgspec import Struct
from msgspec.structs import replace

from headway.azure.job_queue import API_VERSION, MAX_PAGE, JobQueue, ReceivedMessage
from headway.contracts import JobMessage, Timestamp, decode_message, encode_message, extract_job_id

VISIBILITY_S = 300  # longer than any operation; the messages of a killed command stay hidden until it ends
MAX_CONCURRENCY = 8
TOO_LARGE = 413
T = TypeVar("T")


class CannotRedrive(ValueError):
    """Raised if a message cannot be redriven. It stays on the poison queue."""


class PoisonMessage(Struct, frozen=True):
    """A message on the poison queue. If it cannot be decoded, `message` is None and `problem` is the reason."""

    received: ReceivedMessage
    message: JobMessage | None
    job_id: UUID | None
    problem: str | None

    @classmethod
    def read(cls, received: ReceivedMessage) -> PoisonMessage:
        """Decode a received message."""
        try:
            message = decode_message(received.text)
        except msgspec.DecodeError as error:
            return cls(received, None, extract_job_id(received.text), str(error))
        return cls(received, message, message.id, None)


class PoisonedJob(Struct, frozen=True):
    """All poison messages of one job, the latest first; or one message without a job ID."""

    messages: tuple[PoisonMessage, ...]

    @property
    def latest(self) -> PoisonMessage:
        """The message of the highest generation; messages that cannot be decoded come last."""
        return self.messages[0]

    @property
    def id(self) -> str:
        """The job's ID, or the message's ID if it has no job ID."""
        return str(self.latest.job_id or self.latest.received.id)

    def matches(self, text: str) -> bool:
        """Return whether a text is the ID of the job or of one of its messages."""
        try:
            job_id = UUID(text)
        except ValueError:
            job_id = None
        is_job_id = job_id is not None and job_id == self.latest.job_id
        return is_job_id or any(message.received.id == text for message in self.messages)

    def redriven_message(self, expires_at: Timestamp) -> JobMessage:
        """Return the message to send: the same job in the next generation, with all its attempts.

        Raises:
            CannotRedrive: the latest message cannot be decoded.
        """
        message, received = self.latest.message, self.latest.received
        if message is None:
            raise CannotRedrive(
                f"poison message {self.id} cannot be redriven, because it cannot be read: {self.latest.problem}"
            )
        return replace(
            message,
            generation=message.generation + 1,
            releases=0,
            submitted_at=message.submitted_at or received.inserted_at,
            expires_at=expires_at,
        )


class PoisonQueue:
    """The operations on a poison queue.

    Call `redrive` and `discard` inside the block of `jobs`: the messages are leased only there.
    """

    def __init__(self, jobs: JobQueue, poison: JobQueue) -> None:
        self._jobs = jobs
        self._poison = poison
        self._received: dict[str, ReceivedMessage] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, account: str, name: str, api_version: str | None = None) -> AsyncIterator[PoisonQueue]:
        """Open a client; for the arguments see `JobQueue.connect`."""
        version = api_version or API_VERSION
        async with (
            JobQueue.connect(account, name, version) as jobs,
            JobQueue.connect(account, f"{name}-poison", version) as poison,
        ):
            yield cls(jobs, poison)

    @asynccontextmanager
    async def jobs(self) -> AsyncIterator[list[PoisonedJob]]:
        """Receive all messages and yield their jobs, the oldest first; release the remaining messages at the end."""
        try:
            while await _uninterruptible(self._receive_page()):
                pass
            yield group_by_job(map(PoisonMessage.read, self._received.values()))
        finally:
            await _uninterruptible(for_each_limited(list(self._received.values()), self._release))

    async def redrive(self, job: PoisonedJob, expires_at: Timestamp) -> JobMessage:
        """Send a job to its queue again, then delete its poison messages; return the sent message.

        After a crash between the two steps, the fence rejects the second redrive, because it has the same generation.

        Raises:
            CannotRedrive: the latest message cannot be decoded, or is too large.
        """
        message = job.redriven_message(expires_at)
        try:
            await self._jobs.send(encode_message(message))
        except HttpResponseError as error:
            if error.status_code != TOO_LARGE:
                raise
            raise CannotRedrive(f"poison message {job.id} is too large to be redriven") from error
        await self.discard(job)
        return message

    async def discard(self, job: PoisonedJob) -> None:
        """Delete a job's poison messages."""
        for message in job.messages:
            received = message.received
            await self._poison.delete(received.id, received.pop_receipt)
            self._received.pop(received.id, None)

    async def _receive_page(self) -> bool:
        """Receive a page and return whether it contains new messages.

        A slow operation receives a message again when its visibility timeout has ended.
        """
        page = await self._poison.receive(MAX_PAGE, VISIBILITY_S, create=False)
        has_new = any(received.id not in self._received for received in page)
        self._received.update((received.id, received) for received in page)  # only the newest pop receipt is valid
        return has_new

    async def _release(self, received: ReceivedMessage) -> None:
        with suppress(AzureError):  # the message becomes visible when its timeout ends
            await self._poison.update(received.id, received.pop_receipt, 0)


def group_by_job(messages: Iterable[PoisonMessage]) -> list[PoisonedJob]:
    """Group messages by job, the oldest first."""
    groups: dict[str, list[PoisonMessage]] = {}
    for message in messages:
        groups.setdefault(str(message.job_id or message.received.id), []).append(message)
    jobs = [PoisonedJob(tuple(sorted(group, key=_precedence, reverse=True))) for group in groups.values()]
    return sorted(jobs, key=lambda job: (job.latest.received.inserted_at, job.id))


def _precedence(poison: PoisonMessage) -> tuple[int, Timestamp]:
    generation = -1 if poison.message is None else poison.message.generation
    return generation, poison.received.inserted_at


async def for_each_limited(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Call `work` for each item, at most `MAX_CONCURRENCY` at once.

    An error ends one of the concurrent loops; the first error is raised after all loops have ended.
    """
    remaining = iter(items)

    async def process_items() -> None:
        for item in remaining:
            await work(item)

    results = await asyncio.gather(*(process_items() for _ in range(MAX_CONCURRENCY)), return_exceptions=True)
    for error in results:
        if error is not None:
            raise error


async def _uninterruptible(work: Coroutine[Any, Any, T]) -> T:
    """Complete the work even if the task is cancelled.

    Otherwise a message could be received without being recorded, and would not be released.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
