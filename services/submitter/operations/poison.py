"""The poison queue, as the requests of operators use it.

A request that deletes messages leases all of them, so there is one at a time. Requests that only look for a job share
what they read, because an action on many jobs may look for thousands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import structlog
from msgspec import Struct

from headway.azure.job_queue import JobQueue, QueueError
from headway.azure.poison_queue import LeaseTaken, PoisonQueue
from headway.azure.poisoned_job import PoisonedJob, PoisonMessage, group_by_job
from headway.labels import Labels

from ...runtime.errors import ServiceUnavailable
from ..job_sender import RETRY_AFTER_S, queue_unavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_WAIT_S = 5.0  # for another command or replica that has leased messages
MAX_AGE_S = 30.0  # of what was read of the queue, which takes as long if it has tens of thousands of messages
MAX_OUTDATED = 10_000  # jobs whose poison messages are to be deleted; further ones keep them, which does no harm
MIN_PAUSE_S = 1.0  # between two deletions, which lease all messages
PAUSE_FACTOR = 3  # of the duration of a deletion


class PoisonPage(Struct, frozen=True):
    """The jobs that a peek found, the oldest first, and whether these are all."""

    jobs: list[PoisonedJob]
    complete: bool


class _Reading(Struct, frozen=True):
    """The jobs of the poison queue by id, and about how many messages other commands had leased."""

    began_at: float
    jobs: dict[UUID, PoisonedJob]
    hidden: int


class PoisonedJobs:
    """The jobs on the poison queue."""

    def __init__(self, jobs: JobQueue, poison: JobQueue) -> None:
        self._jobs = jobs
        self._poison = poison
        self._turn = asyncio.Lock()
        self._reading: _Reading | None = None  # the last one, for MAX_AGE_S
        self._outdated: dict[UUID, int] = {}  # the generation that is to be kept, by job
        self._has_outdated = asyncio.Event()

    async def peek(self) -> PoisonPage:
        """Return up to 32 messages' jobs, without leasing them."""
        with _http_errors():
            messages = await self._poison.peek()
            total = await self._poison.count()
        return PoisonPage(group_by_job(map(PoisonMessage.read, messages)), complete=total <= len(messages))

    async def find(self, job_id: UUID, generation: int | None = None) -> PoisonedJob | None:
        """Return a job, or None if it is not on the poison queue.

        The queue is read again, unless it was read recently and the job's message there is of the given generation: no
        other message can be. Messages are leased only if there are more than a peek returns.

        Args:
            job_id: the job.
            generation: the generation of its record, None without one.

        Raises:
            ServiceUnavailable: the queue is unavailable, or another command has leased messages, maybe the job's.
        """
        requested_at = time.monotonic()
        if (known := self._recall(job_id, generation)) is not None:
            return known
        async with self._take_turn():
            if (known := self._recall(job_id, generation)) is not None:  # another request has read it meanwhile
                return known
            reading = self._reading
            if reading is None or reading.began_at < requested_at:
                reading = await self._read()
        job = reading.jobs.get(job_id)
        if job is None and reading.hidden:
            raise queue_in_use()
        return job

    def _recall(self, job_id: UUID, generation: int | None) -> PoisonedJob | None:
        job = None if self._reading is None else self._reading.jobs.get(job_id)
        message = None if job is None else job.latest.message
        return job if message is not None and message.generation == generation else None

    async def _read(self) -> _Reading:
        began_at, client = time.monotonic(), self._client()
        with _http_errors():
            jobs = await client.peek()
        by_id = {one.latest.job_id: one for one in jobs if one.latest.job_id is not None}
        reading = self._reading = _Reading(began_at, by_id, client.hidden)
        asyncio.get_running_loop().call_later(MAX_AGE_S, self._forget, reading)
        return reading

    def _forget(self, reading: _Reading) -> None:
        if self._reading is reading:
            self._reading = None

    @asynccontextmanager
    async def lease(
        self, is_wanted: Callable[[PoisonedJob], bool]
    ) -> AsyncIterator[tuple[PoisonQueue, PoisonedJob | None]]:
        """Lease all messages, and yield the client and one job, None if it is not on the poison queue.

        Raises:
            ServiceUnavailable: the queue is unavailable, or another command has leased messages, maybe the job's.
        """
        client = self._client()
        async with self._take_turn():
            self._reading = None  # the caller may delete a job
            with _http_errors():
                if not await self._poison.count():  # then the submitter needs no permission to lease
                    yield client, None
                    return
                async with client.jobs() as jobs:
                    job = next(filter(is_wanted, jobs), None)
                    if job is None and client.hidden:
                        raise queue_in_use()
                    yield client, job

    @asynccontextmanager
    async def _take_turn(self) -> AsyncIterator[None]:
        """Wait for other requests, but not so long that the caller has given up meanwhile."""
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await self._turn.acquire()
        except TimeoutError as error:
            raise queue_in_use() from error
        try:
            yield
        finally:
            self._turn.release()

    def _client(self) -> PoisonQueue:
        return PoisonQueue(self._jobs, self._poison, MAX_WAIT_S)

    def delete_outdated(self, job_id: UUID, generation: int) -> None:
        """Schedule the deletion of a job's messages of earlier generations than one that is on the queue.

        Without it, an operator could redrive them, too; the fence would reject that.
        """
        if len(self._outdated) < MAX_OUTDATED:
            self._outdated[job_id] = generation
            self._has_outdated.set()

    async def run(self) -> None:
        """Delete outdated messages until cancelled. All that are scheduled meanwhile share a lease of the queue."""
        while True:
            await self._has_outdated.wait()
            self._has_outdated.clear()
            outdated, self._outdated = self._outdated, {}
            started_at = time.monotonic()
            try:
                await self._delete_outdated(outdated)
            except (QueueError, LeaseTaken) as error:  # the messages stay, which does no harm
                log.warning("outdated_poison_kept", error=type(error).__name__, jobs=len(outdated))
            await asyncio.sleep(max(MIN_PAUSE_S, PAUSE_FACTOR * (time.monotonic() - started_at)))

    async def _delete_outdated(self, outdated: dict[UUID, int]) -> None:
        async with self._turn:
            if not await self._poison.count():
                return
            client = self._client()
            async with client.jobs() as jobs:
                for job in jobs:
                    job_id = job.latest.job_id
                    older = None if job_id is None else job.older_than(outdated.get(job_id, 0))
                    if older is not None:
                        await client.discard(older)


def filtered_fields(job: PoisonedJob) -> tuple[UUID | None, str, Labels | None]:
    """Return what decides which operators may act on a job: its id, kind and labels, empty if it cannot be read."""
    message = job.latest.message
    return job.latest.job_id, "" if message is None else message.kind, None if message is None else message.labels


@contextmanager
def _http_errors() -> Iterator[None]:
    """Convert the errors of the queue and of its messages to those of a request."""
    try:
        yield
    except LeaseTaken as error:
        raise queue_in_use() from error
    except QueueError as error:
        raise queue_unavailable(error) from error


def queue_in_use() -> ServiceUnavailable:
    """Return the error for a request during which another command or replica has leased messages."""
    return ServiceUnavailable("Another operator uses the poison queue; try again.", retry_after_s=RETRY_AFTER_S)
