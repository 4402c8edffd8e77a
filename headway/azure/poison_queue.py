"""The poison queue: what no worker could handle, kept until an operator redrives or discards it.

A peek sees 32 messages at most, so whoever looks takes them all, and gives back those that are to stay.
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

# Longer than any walk and what follows it. What a killed command held comes back only then.
VISIBILITY_S = 300
MAX_CONCURRENCY = 8  # requests
TOO_LARGE = 413
T = TypeVar("T")


class CannotRedrive(ValueError):
    """The message cannot go back on the queue; it stays where it is."""


class PoisonMessage(Struct, frozen=True):
    """A message on the poison queue; `message` is None when it cannot be read, and `problem` says why."""

    received: ReceivedMessage
    message: JobMessage | None
    job_id: UUID | None
    problem: str | None

    @classmethod
    def read(cls, received: ReceivedMessage) -> PoisonMessage:
        """Find out what a message says."""
        try:
            message = decode_message(received.text)
        except msgspec.DecodeError as error:
            return cls(received, None, extract_job_id(received.text), str(error))
        return cls(received, message, message.id, None)


class PoisonedJob(Struct, frozen=True):
    """All poison messages of one job, the one that counts first; or one that names no job."""

    messages: tuple[PoisonMessage, ...]

    @property
    def latest(self) -> PoisonMessage:
        """The message that counts: of those that can be read, the one of the highest generation."""
        return self.messages[0]

    @property
    def id(self) -> str:
        """The job's id, or where there is none the message's."""
        return str(self.latest.job_id or self.latest.received.id)

    def matches(self, text: str) -> bool:
        """Tell whether a text is the job's id, or that of one of its messages."""
        try:
            job_id = UUID(text)
        except ValueError:
            job_id = None
        mine = job_id is not None and job_id == self.latest.job_id
        return mine or any(poisoned.received.id == text for poisoned in self.messages)

    def redriven_message(self, expires_at: Timestamp) -> JobMessage:
        """Return the job as it goes back on the queue: the same one, a generation later, with all its attempts."""
        message, received = self.latest.message, self.latest.received
        if message is None:
            raise CannotRedrive(
                f"poison message {self.id} cannot be read and so not be redriven: {self.latest.problem}"
            )
        return replace(
            message,
            generation=message.generation + 1,
            releases=0,
            submitted_at=message.submitted_at or received.inserted_at,
            expires_at=expires_at,
        )


class PoisonQueue:
    """A queue's poison queue, as its operator sees it."""

    def __init__(self, jobs: JobQueue, poisoned: JobQueue) -> None:
        self._jobs = jobs
        self._poison = poisoned
        self._received: dict[str, ReceivedMessage] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, account: str, name: str, api_version: str | None = None) -> AsyncIterator[PoisonQueue]:
        """Open a client, as `JobQueue.connect` does."""
        version = api_version or API_VERSION
        async with (
            JobQueue.connect(account, name, version) as jobs,
            JobQueue.connect(account, f"{name}-poison", version) as poisoned,
        ):
            yield cls(jobs, poisoned)

    @asynccontextmanager
    async def jobs(self) -> AsyncIterator[list[PoisonedJob]]:
        """Take everything for as long as the block lasts, the oldest first; what is not removed is given back."""
        try:
            while await _uninterruptible(self._receive_page()):
                pass
            yield group_by_job(map(PoisonMessage.read, self._received.values()))
        finally:
            await _uninterruptible(for_each_limited(list(self._received.values()), self._release))

    async def redrive(self, job: PoisonedJob, expires_at: Timestamp) -> JobMessage:
        """Put a job back on its queue and remove its poison messages, in this order.

        A crash in between leaves a double, which the fence answers: it has the generation of the one that ran.
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
        """Remove a case's messages."""
        for poisoned in job.messages:
            received = poisoned.received
            await self._poison.delete(received.id, received.pop_receipt)
            self._received.pop(received.id, None)

    async def _receive_page(self) -> bool:
        """Receive a page; tell whether it brought anything new, since a long walk meets its own messages again."""
        page = await self._poison.receive(MAX_PAGE, VISIBILITY_S, create=False)
        new = any(received.id not in self._received for received in page)
        self._received.update((received.id, received) for received in page)  # the newest receipt is the one alive
        return new

    async def _release(self, received: ReceivedMessage) -> None:
        with suppress(AzureError):  # then it comes back by itself
            await self._poison.update(received.id, received.pop_receipt, 0)


def group_by_job(messages: Iterable[PoisonMessage]) -> list[PoisonedJob]:
    """Put the messages of a job together; the oldest come first."""
    jobs: dict[str, list[PoisonMessage]] = {}
    for poisoned in messages:
        jobs.setdefault(str(poisoned.job_id or poisoned.received.id), []).append(poisoned)
    cases = [PoisonedJob(tuple(sorted(doubles, key=_precedence, reverse=True))) for doubles in jobs.values()]
    return sorted(cases, key=lambda case: (case.latest.received.inserted_at, case.id))


def _precedence(poisoned: PoisonMessage) -> tuple[int, Timestamp]:
    generation = -1 if poisoned.message is None else poisoned.message.generation
    return generation, poisoned.received.inserted_at


async def for_each_limited(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for all items, a few at once; an error is raised when what had begun is done."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    ended = await asyncio.gather(*(worker() for _ in range(MAX_CONCURRENCY)), return_exceptions=True)
    for error in ended:
        if error is not None:
            raise error


async def _uninterruptible(work: Coroutine[Any, Any, T]) -> T:
    """Do what Ctrl-C must not cut short: what is received must be known, or it could not be given back."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
