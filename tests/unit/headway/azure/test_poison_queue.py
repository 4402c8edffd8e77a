"""The poison queue: its operations, also of several operators at once, while messages are leased and released."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from azure.core.exceptions import ServiceRequestError
from msgspec.structs import replace

from headway.azure import poison_queue as module
from headway.azure.job_queue import MAX_PAGE, ReceivedMessage
from headway.azure.poison_queue import MAX_CONCURRENCY, LeaseTaken, PoisonQueue, for_each_limited
from headway.azure.poisoned_job import PoisonedJob
from headway.contracts import JobMessage
from headway.message_codec import decode_message, encode_message
from tests.unit.headway.azure.memory_queue import MemoryQueue, message_id
from tests.waiting import wait_until

TTL_S = 60


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.02)


def operator(queue: Any) -> PoisonQueue:
    """Return an operator's client, whose two queues are the same fake."""
    return PoisonQueue(queue, queue)


def new_ids(count: int) -> list[UUID]:
    """Return ids of jobs."""
    return [uuid4() for _ in range(count)]


def texts(*job_ids: UUID, generation: int = 0) -> list[str]:
    """Return a message for each job."""
    return [encode_message(JobMessage(id=job_id, generation=generation)) for job_id in job_ids]


def find(jobs: list[PoisonedJob], job_id: UUID) -> PoisonedJob:
    """Return the job with an id."""
    (job,) = [job for job in jobs if job.matches(str(job_id))]
    return job


async def redrive(queue: MemoryQueue, *job_ids: UUID) -> None:
    """Redrive jobs as one command."""
    client = operator(queue)
    async with client.jobs() as jobs:
        for job_id in job_ids:
            await client.redrive(find(jobs, job_id), TTL_S)


async def redrive_all(queue: MemoryQueue) -> int:
    """Redrive all jobs as one command; return their number."""
    client = operator(queue)
    async with client.jobs() as jobs:
        for job in jobs:
            await client.redrive(job, TTL_S)
    return len(jobs)


def sent(queue: MemoryQueue) -> dict[UUID, int]:
    """Return the generations of the redriven jobs, each of which must have been sent once."""
    messages = [decode_message(text) for text in queue.sent]
    assert len({message.id for message in messages}) == len(messages)
    return {message.id: message.generation for message in messages}


@pytest.mark.parametrize("count", [2, 3, MAX_PAGE, 2 * MAX_PAGE, 300])
async def test_commands_at_once_find_all_messages(count: int) -> None:
    """Operators who redrive, discard and list at the same time find every message, on one page or on several."""
    ids = new_ids(count)
    queue = MemoryQueue(*texts(*ids))
    listed: list[PoisonedJob] = []

    async def discard(job_id: UUID) -> None:
        client = operator(queue)
        async with client.jobs() as jobs:
            await client.discard(find(jobs, job_id))

    async def list_jobs() -> None:
        client = operator(queue)
        listed.extend(await client.peek())
        assert client.hidden == 0

    await asyncio.gather(redrive(queue, ids[-1]), discard(ids[0]), *(redrive(queue, job) for job in ids[1:-1][:3]))
    assert sent(queue) == dict.fromkeys({ids[-1], *ids[1:-1][:3]}, 1)
    remaining = set(ids[1:-1][3:])
    await asyncio.gather(list_jobs(), list_jobs())
    assert sorted(job.id for job in listed) == sorted(2 * [str(job_id) for job_id in remaining])
    assert len(queue.visible) == len(queue.messages) == len(remaining)


@pytest.mark.parametrize("count", [3, 300])
async def test_two_commands_for_all_jobs_redrive_each_job_once(count: int) -> None:
    """A job that both want to redrive is redriven by one of them, with the next generation, and none is left."""
    ids = new_ids(count)
    queue = MemoryQueue(*texts(*ids), *texts(*ids[:2], generation=4), *texts(*ids[:2], generation=4))
    redriven = await asyncio.gather(*(redrive_all(queue) for _ in range(3)))
    assert sum(redriven) == count
    assert sent(queue) == {job_id: 5 if job_id in ids[:2] else 1 for job_id in ids}
    assert not queue.messages


async def test_list_leases_nothing_on_one_page() -> None:
    """A peek shows up to 32 messages without a delivery, so that no other command is disturbed."""
    queue = MemoryQueue(*texts(*new_ids(MAX_PAGE)))
    assert len(await operator(queue).peek()) == MAX_PAGE
    assert not any(message.deliveries for message in queue.messages.values())


async def test_commands_wait_for_messages_of_a_killed_command() -> None:
    """A killed command leaves its messages leased; the next commands find them when the leases have ended."""
    ids = new_ids(3)
    queue = MemoryQueue(*texts(*ids))
    await queue.receive(2, 0.1, create=False)
    assert len(await operator(queue).peek()) == 3
    await queue.receive(2, 0.1, create=False)
    assert await redrive_all(queue) == 3
    assert sent(queue) == dict.fromkeys(ids, 1)


async def test_wait_for_other_commands_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After MAX_WAIT_S a command goes on with the messages that it can have, and knows that some are hidden."""
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.05)
    ids = new_ids(3)
    queue = MemoryQueue(*texts(*ids))
    await queue.receive(2, 60, create=False)
    client = operator(queue)
    assert ([job.id for job in await client.peek()], client.hidden) == ([str(ids[2])], 2)
    client = operator(queue)
    async with client.jobs() as jobs:
        assert ([job.id for job in jobs], client.hidden) == ([str(ids[2])], 2)
    assert queue.visible == [message_id(3)]


async def test_old_leases_are_released_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that waits for others does not let its own leases end unnoticed: it leases the messages again."""
    monkeypatch.setattr(module, "MAX_LEASE_AGE_S", 0.01)
    queue = MemoryQueue(*texts(*new_ids(3)))
    await queue.receive(1, 60, create=False)

    async def lease_all() -> int:
        async with operator(queue).jobs() as jobs:
            return len(jobs)

    task = asyncio.create_task(lease_all())
    await wait_until(lambda: queue.messages[message_id(2)].deliveries > 1)
    queue.messages[message_id(1)].visible_at = 0
    assert await task == 3


async def test_slow_command_renews_its_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose lease is old is renewed before its job is sent."""
    monkeypatch.setattr(module, "MAX_LEASE_AGE_S", -1)
    (job_id,) = new_ids(1)
    queue = MemoryQueue(*texts(job_id))
    client = operator(queue)
    async with client.jobs() as (job,):
        receipt = queue.messages[message_id(1)].receipt
        queue.blocking = "send"
        task = asyncio.create_task(client.redrive(job, TTL_S))
        await queue.blocked.wait()
        assert queue.messages[message_id(1)].receipt != receipt
        queue.unblock.set()
        await task
    assert (sent(queue), queue.messages) == ({job_id: 1}, {})


@pytest.mark.parametrize("operation", ["redrive", "discard"])
async def test_slow_command_does_not_touch_a_taken_message(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another command has leased a message of the job meanwhile, nothing is sent or deleted."""
    queue = MemoryQueue(*texts(*new_ids(1)))
    client = operator(queue)
    async with client.jobs() as (job,):
        monkeypatch.setattr(module, "MAX_LEASE_AGE_S", -1)
        queue.messages[message_id(1)].visible_at = 0
        await queue.receive(1, 60, create=False)
        with pytest.raises(LeaseTaken):
            await (client.redrive(job, TTL_S) if operation == "redrive" else client.discard(job))
    assert (queue.sent, list(queue.messages), queue.visible) == ([], [message_id(1)], [])


@pytest.mark.parametrize("operation", ["receive", "update", "count"])
async def test_cancelled_command_releases_its_messages(operation: str) -> None:
    """Ctrl-C while messages are received, counted or released leaves none of them leased."""
    queue = MemoryQueue(*texts(*new_ids(MAX_PAGE)))
    queue.blocking = operation

    async def lease_all() -> None:
        async with operator(queue).jobs():
            assert operation == "update"

    task = asyncio.create_task(lease_all())
    await queue.blocked.wait()
    task.cancel()
    queue.unblock.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(queue.visible) == MAX_PAGE


@pytest.mark.parametrize("operation", ["send", "delete"])
async def test_cancelled_redrive_is_completed(operation: str) -> None:
    """Ctrl-C between the two steps of a redrive does not leave the job on both queues."""
    ids = new_ids(2)
    queue = MemoryQueue(*texts(*ids))
    queue.blocking = operation
    task = asyncio.create_task(redrive(queue, *ids))
    await queue.blocked.wait()
    task.cancel()
    queue.unblock.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (sent(queue), queue.visible) == ({ids[0]: 1}, [message_id(2)])


@pytest.mark.parametrize("max_lease_age_s", [30, -1], ids=["new lease", "renewed lease"])
async def test_redriven_job_expires_by_the_clock_of_the_queue(
    max_lease_age_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's clock may be wrong by any amount: that of this queue shows the year 1970."""
    monkeypatch.setattr(module, "MAX_LEASE_AGE_S", max_lease_age_s)
    queue = MemoryQueue(*texts(*new_ids(1)))
    inserted_at = queue.messages[message_id(1)].inserted_at
    await redrive_all(queue)
    expires_at = decode_message(queue.sent[0]).expires_at
    assert expires_at is not None
    assert 0 <= expires_at - inserted_at - TTL_S * 1000 < 10_000


async def test_renewed_message_has_the_time_of_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewal of a lease does not set the clock back."""
    monkeypatch.setattr(module, "MAX_LEASE_AGE_S", -1)
    queue = MemoryQueue(*texts(*new_ids(2)))
    client = operator(queue)
    async with client.jobs() as jobs:
        (message,) = jobs[0].messages
        assert isinstance(message.received, ReceivedMessage)
        leased = client._leased[message.received.id] = replace(
            message.received, requested_at=message.received.requested_at - 50
        )
        await client._renew(jobs[0])
        renewed = client._leased[leased.id]
        assert renewed.pop_receipt != leased.pop_receipt
        assert 0 <= renewed.queue_time() - leased.queue_time() < 10_000
        assert renewed.requested_at > leased.requested_at + 49


async def test_failed_redrive_keeps_the_poison_messages() -> None:
    """If a job cannot be sent, its poison message stays, and an error of the release is ignored."""
    (job_id,) = new_ids(1)
    queue = MemoryQueue(*texts(job_id))
    queue.error = ServiceRequestError("unavailable")
    with pytest.raises(ServiceRequestError):
        await redrive(queue, job_id)
    assert list(queue.messages) == [message_id(1)]


async def test_limited_calls_stop_when_all_fail() -> None:
    """At most MAX_CONCURRENCY items are processed at once; if all calls fail, no other item is started."""
    started: list[int] = []

    async def work(number: int) -> None:
        started.append(number)
        await asyncio.sleep(0)
        raise OSError(number)

    with pytest.raises(OSError, match="0"):
        await for_each_limited(range(100), work)
    assert started == list(range(MAX_CONCURRENCY))
