"""The poison queue: messages that no attempt could handle, kept until an operator redrives or discards them.

A peek returns 32 messages at most, so every operation receives all messages and releases those that stay.
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

# Longer than any operation. The messages of a killed command become visible again only then.
VISIBILITY_S = 300
MAX_CONCURRENCY = 8  # requests at once
TOO_LARGE = 413
T = TypeVar("T")


class CannotRedrive(ValueError):
    """The message cannot be redriven; it stays on the poison queue."""


class PoisonMessage(Struct, frozen=True):
    """A message on the poison queue; `message` is None if it cannot be decoded, and `problem` says why."""

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
    """All poison messages of one job, the latest first; or one message without a job id."""

    messages: tuple[PoisonMessage, ...]

    @property
    def latest(self) -> PoisonMessage:
        """The message of the highest generation among those that can be decoded."""
        return self.messages[0]

    @property
    def id(self) -> str:
        """The job's id, or the message's id without one."""
        return str(self.latest.job_id or self.latest.received.id)

    def matches(self, text: str) -> bool:
        """Return whether a text is the id of the job or of one of its messages."""
        try:
            job_id = UUID(text)
        except ValueError:
            job_id = None
        mine = job_id is not None and job_id == self.latest.job_id
        return mine or any(poisoned.received.id == text for poisoned in self.messages)

    def redriven_message(self, expires_at: Timestamp) -> JobMessage:
        """Return the message to send: the same job in the next generation, with all its attempts."""
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
    """An operator's access to a poison queue."""

    def __init__(self, jobs: JobQueue, poisoned: JobQueue) -> None:
        self._jobs = jobs
        self._poison = poisoned
        self._received: dict[str, ReceivedMessage] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, account: str, name: str, api_version: str | None = None) -> AsyncIterator[PoisonQueue]:
        """Open a client; the arguments are those of `JobQueue.connect`."""
        version = api_version or API_VERSION
        async with (
            JobQueue.connect(account, name, version) as jobs,
            JobQueue.connect(account, f"{name}-poison", version) as poisoned,
        ):
            yield cls(jobs, poisoned)

    @asynccontextmanager
    async def jobs(self) -> AsyncIterator[list[PoisonedJob]]:
        """Receive all messages for the length of the block, the oldest job first; release those that remain."""
        try:
            while await _uninterruptible(self._receive_page()):
                pass
            yield group_by_job(map(PoisonMessage.read, self._received.values()))
        finally:
            await _uninterruptible(for_each_limited(list(self._received.values()), self._release))

    async def redrive(self, job: PoisonedJob, expires_at: Timestamp) -> JobMessage:
        """Send a job to its queue again, then delete its poison messages.

        After a crash in between, the fence rejects the second redrive, because it has the same generation.
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
        for poisoned in job.messages:
            received = poisoned.received
            await self._poison.delete(received.id, received.pop_receipt)
            self._received.pop(received.id, None)

    async def _receive_page(self) -> bool:
        """Receive a page; return whether it has new messages (long operations receive their own again)."""
        page = await self._poison.receive(MAX_PAGE, VISIBILITY_S, create=False)
        new = any(received.id not in self._received for received in page)
        self._received.update((received.id, received) for received in page)  # only the newest pop receipt is valid
        return new

    async def _release(self, received: ReceivedMessage) -> None:
        with suppress(AzureError):  # it becomes visible when its timeout ends
            await self._poison.update(received.id, received.pop_receipt, 0)


def group_by_job(messages: Iterable[PoisonMessage]) -> list[PoisonedJob]:
    """Group messages by job, the oldest first."""
    jobs: dict[str, list[PoisonMessage]] = {}
    for poisoned in messages:
        jobs.setdefault(str(poisoned.job_id or poisoned.received.id), []).append(poisoned)
    cases = [PoisonedJob(tuple(sorted(doubles, key=_precedence, reverse=True))) for doubles in jobs.values()]
    return sorted(cases, key=lambda case: (case.latest.received.inserted_at, case.id))


def _precedence(poisoned: PoisonMessage) -> tuple[int, Timestamp]:
    generation = -1 if poisoned.message is None else poisoned.message.generation
    return generation, poisoned.received.inserted_at


async def for_each_limited(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Run `work` for all items, a few at once; raise an error after the running ones have finished."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    ended = await asyncio.gather(*(worker() for _ in range(MAX_CONCURRENCY)), return_exceptions=True)
    for error in ended:
        if error is not None:
            raise error


async def _uninterruptible(work: Coroutine[Any, Any, T]) -> T:
    """Finish work although the task is cancelled: a received message that is not recorded could not be released."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
