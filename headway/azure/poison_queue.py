"""The poison queue: messages that could not be processed, kept until an operator redrives or discards them.

A peek returns at most 32 messages, and none that another command has leased. An operation that changes the queue
therefore leases all messages, and releases those that it does not delete. While it does so, other commands wait: each
compares the number of messages that it has found with the number that the queue reports.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from azure.core.exceptions import AzureError, HttpResponseError
from msgspec.structs import replace

from headway.azure.job_queue import API_VERSION, MAX_PAGE, JobQueue, ReceivedMessage, is_receipt_invalid
from headway.azure.poisoned_job import CannotRedrive, PoisonedJob, PoisonMessage, group_by_job
from headway.backoff import full_jitter_s
from headway.contracts import JobMessage
from headway.message_codec import decode_message

LEASE_S = 60  # the messages of a killed command stay hidden for so long
MAX_LEASE_AGE_S = LEASE_S / 2  # an older lease is renewed before its message is used
MAX_WAIT_S = LEASE_S + 10  # for other commands that make no progress; those of a killed command are visible then
MAX_BACKOFF_S = 5.0  # between two tries to find all messages
MAX_CONCURRENCY = 8
TOO_LARGE = 413
T = TypeVar("T")


class LeaseTaken(CannotRedrive):
    """Raised if a command was so slow that another one could lease its messages."""


class PoisonQueue:
    """The operations on a poison queue.

    Call `redrive` and `discard` inside the block of `jobs`: the messages are leased only there. `hidden` is the
    approximate number of messages that other commands had leased until the end of the longest wait, by default
    MAX_WAIT_S.
    """

    def __init__(self, jobs: JobQueue, poison: JobQueue, max_wait_s: float | None = None) -> None:
        self._max_wait_s = max_wait_s
        self._jobs = jobs
        self._poison = poison
        self._leased: dict[str, ReceivedMessage] = {}
        self.hidden = 0

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

    async def peek(self) -> list[PoisonedJob]:
        """Return all jobs, the oldest first. Messages are leased only if there are more than a peek returns."""
        wait = _Wait(MAX_WAIT_S if self._max_wait_s is None else self._max_wait_s)
        while True:
            messages = await self._poison.peek()
            total = await self._poison.count()
            if total > MAX_PAGE:
                async with self.jobs() as jobs:
                    return jobs
            self.hidden = max(0, total - len(messages))
            if not self.hidden or wait.is_over(self.hidden):
                return group_by_job(map(PoisonMessage.read, messages))
            await wait.pause()

    @asynccontextmanager
    async def jobs(self) -> AsyncIterator[list[PoisonedJob]]:
        """Lease all messages and yield their jobs, the oldest first; release the remaining messages at the end."""
        try:
            await self._lease_all()
            yield group_by_job(map(PoisonMessage.read, self._leased.values()))
        finally:
            await _uninterruptible(self._release_all())

    async def redrive(
        self, job: PoisonedJob, ttl_s: float, *, min_generation: int = 0, from_start: bool = False
    ) -> JobMessage:
        """Send a job to its queue again, then delete its poison messages; return the sent message.

        The job expires in `ttl_s` by the queue service's clock, which the worker compares it with. For the other
        arguments see `PoisonedJob.redriven_text`.

        After a crash between the two steps, the fence rejects the second redrive, because it has the same generation.

        Raises:
            CannotRedrive: the latest message cannot be decoded, or is too large.
            LeaseTaken: another command has leased a message of the job meanwhile; nothing is sent.
        """
        expires_at = job.latest.received.queue_time().after(ttl_s)
        text = job.redriven_text(expires_at, min_generation=min_generation, from_start=from_start)

        async def send_and_delete() -> None:
            await self._renew(job)
            try:
                await self._jobs.send(text)
            except HttpResponseError as error:
                if error.status_code != TOO_LARGE:
                    raise
                raise CannotRedrive(f"poison message {job.id} is too large to be redriven") from error
            await self._delete(job)

        await _uninterruptible(send_and_delete())
        return decode_message(text)

    async def discard(self, job: PoisonedJob) -> None:
        """Delete a job's poison messages; raise LeaseTaken if another command has leased one of them meanwhile."""
        await self._renew(job)
        await self._delete(job)

    async def _lease_all(self) -> None:
        """Lease all messages, or after a long wait those that other commands have not leased.

        If two commands have each leased a part, the one with half of the messages or less releases them: the other can
        then lease the rest and end.
        """
        wait = _Wait(MAX_WAIT_S if self._max_wait_s is None else self._max_wait_s)
        while True:
            while await _uninterruptible(self._receive_page()):
                pass
            total = await self._poison.count()
            self.hidden = max(0, total - len(self._leased))
            if not self.hidden or wait.is_over(self.hidden):
                return
            if 2 * len(self._leased) <= total or any(map(_is_old, self._leased.values())):
                await _uninterruptible(self._release_all())
            await wait.pause()

    async def _receive_page(self) -> bool:
        """Receive a page and return whether it contains new messages.

        A slow operation receives a message again when its lease has ended.
        """
        page = await self._poison.receive(MAX_PAGE, LEASE_S, create=False)
        has_new = any(received.id not in self._leased for received in page)
        self._leased.update((received.id, received) for received in page)  # only the newest pop receipt is valid
        return has_new

    async def _renew(self, job: PoisonedJob) -> None:
        """Renew the old leases of a job's messages; raise LeaseTaken if another command has leased one of them."""
        for received in self._leased_messages(job):
            if _is_old(received):
                requested_at = time.monotonic()
                try:
                    receipt = await self._poison.update(received.id, received.pop_receipt, LEASE_S)
                except HttpResponseError as error:
                    if not is_receipt_invalid(error):
                        raise
                    raise LeaseTaken(f"another command has taken the poison message {job.id}") from error
                received_at = received.received_at.after(requested_at - received.requested_at)
                self._leased[received.id] = replace(
                    received, pop_receipt=receipt, received_at=received_at, requested_at=requested_at
                )

    async def _delete(self, job: PoisonedJob) -> None:
        for received in self._leased_messages(job):
            await self._poison.delete(received.id, received.pop_receipt)
            del self._leased[received.id]

    def _leased_messages(self, job: PoisonedJob) -> list[ReceivedMessage]:
        ids = (message.received.id for message in job.messages)
        return [self._leased[message_id] for message_id in ids if message_id in self._leased]

    async def _release_all(self) -> None:
        await for_each_limited(list(self._leased.values()), self._release)

    async def _release(self, received: ReceivedMessage) -> None:
        del self._leased[received.id]
        with suppress(AzureError):  # the message becomes visible when its lease ends
            await self._poison.update(received.id, received.pop_receipt, 0)


class _Wait:
    """The wait until other commands have released their messages."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._tries = 0
        self._hidden = 0
        self._tried_at = self._changed_at = time.monotonic()

    def is_over(self, hidden: int) -> bool:
        """Return whether the number of hidden messages has been the same for the longest wait."""
        now = time.monotonic()
        if hidden != self._hidden:
            self._hidden, self._changed_at = hidden, now
        return now - self._changed_at >= self._max_wait_s

    async def pause(self) -> None:
        """Pause before the next try; the backoff grows from the duration of a try, so that two commands part."""
        self._tries += 1
        tried_s = time.monotonic() - self._tried_at
        await asyncio.sleep(full_jitter_s(self._tries, tried_s, MAX_BACKOFF_S))
        self._tried_at = time.monotonic()


def _is_old(received: ReceivedMessage) -> bool:
    return time.monotonic() - received.requested_at > MAX_LEASE_AGE_S


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
