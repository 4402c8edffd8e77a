"""The queue of waiting workers: a wake-up is for one worker, which must still be connected; and its handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest
from redis.exceptions import RedisError

from services.notifier import wakeups as module
from services.notifier.redis_client.pubsub import PubSub
from services.notifier.wakeups import WakeupHandler, WakeupQueue
from tests.unit.services.runtime.http_app import read_problem, serve


class FakePubSub:
    """Publish and subscribe without Redis."""

    def __init__(self) -> None:
        self.ready = True
        self.published: list[tuple[str, bytes]] = []
        self.receivers: int | RedisError = 1

    async def publish(self, channel: str, data: bytes) -> int:
        """Record a message; return the number of its receivers, or fail, as a test says."""
        self.published.append((channel, data))
        if isinstance(self.receivers, RedisError):
            raise self.receivers
        return self.receivers

    def subscribe(self, channel: str, handler: WakeupHandler) -> bool:
        """Return True, as if Redis had confirmed the subscription."""
        return True


def is_connected() -> bool:
    """Return True, as for a connected worker."""
    return True


async def start_waiting(
    queue: WakeupQueue, is_connected: Callable[[], bool] = is_connected, name: str = ""
) -> asyncio.Task[bool]:
    """Start to wait for a wake-up of a queue, and return once the worker is in line."""
    count = len(queue._waiters)
    task = asyncio.create_task(queue.wait(60, is_connected, name))
    while len(queue._waiters) == count:
        await asyncio.sleep(0)
    return task


async def drain_queue(queue: WakeupQueue, *tasks: asyncio.Task[bool]) -> list[bool]:
    """Drain the queue, and return which of the workers received a wake-up."""
    queue.drain()
    return await asyncio.gather(*tasks)


async def test_a_wakeup_is_for_the_first_worker() -> None:
    """The worker that has waited longest gets a wake-up, and the others keep waiting."""
    queue = WakeupQueue()
    tasks = [await start_waiting(queue) for _ in range(3)]
    queue.wake_one()
    assert await tasks[0]
    assert not tasks[1].done()
    queue.wake_one()
    assert await drain_queue(queue, *tasks) == [True, True, False]


async def test_a_disconnected_worker_gets_no_wakeup() -> None:
    """A wake-up skips disconnected workers."""
    queue = WakeupQueue()
    tasks = [
        await start_waiting(queue, lambda: False),
        await start_waiting(queue, lambda: False),
        await start_waiting(queue),
    ]
    queue.wake_one()
    assert await asyncio.gather(*tasks) == [False, False, True]


async def test_a_worker_that_disconnects_passes_its_wakeup_on() -> None:
    """If a worker disconnects after its wake-up and before the response, the next worker gets the wake-up."""
    queue = WakeupQueue()
    connected = [True]
    first, second = await start_waiting(queue, lambda: connected[0]), await start_waiting(queue)
    queue.wake_one()
    connected[0] = False
    assert await second
    assert first.done()


async def test_a_cancelled_worker_gets_no_wakeup() -> None:
    """A handler that was cancelled, but has not run since, gets no wake-up."""
    queue = WakeupQueue()
    first, second = await start_waiting(queue), await start_waiting(queue)
    first.cancel()
    queue.wake_one()
    assert await second
    assert first.cancelled()


async def test_an_unclaimed_wakeup_is_kept_for_the_next_worker() -> None:
    """An unclaimed wake-up bridges the gap between two requests of a worker, once."""
    queue = WakeupQueue()
    queue.wake_one()
    assert await queue.wait(0, is_connected)
    assert not await queue.wait(0, is_connected)


async def test_an_unclaimed_wakeup_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unclaimed wake-up is dropped after its time to live."""
    monkeypatch.setattr(module, "UNCLAIMED_WAKEUP_TTL_S", 0)
    queue = WakeupQueue()
    queue.wake_one()
    assert not await queue.wait(0, is_connected)


async def test_a_worker_is_removed_after_its_timeout() -> None:
    """A worker whose wait has timed out takes no later wake-up."""
    queue = WakeupQueue()
    assert not await queue.wait(0.001, is_connected)
    assert not queue._waiters
    queue.wake_one()
    assert await queue.wait(0, is_connected)


async def test_a_drain_ends_all_waits() -> None:
    """A replica that stops ends the wait of every worker, without a wake-up."""
    queue = WakeupQueue()
    assert await drain_queue(queue, *[await start_waiting(queue) for _ in range(5)]) == [False] * 5


async def test_a_replica_without_redis_sends_workers_away() -> None:
    """It would never receive a wake-up; the response closes the connection, and the next may reach another replica."""
    pubsub = FakePubSub()
    handler = WakeupHandler(cast(PubSub, pubsub), WakeupQueue())
    async with serve(*handler.routes()) as client:
        assert (await client.get("/wake?timeout_s=0")).status == 204
        pubsub.ready = False
        response = await client.get("/wake?timeout_s=30")
        assert (response.status, (await read_problem(response))["code"]) == (503, "unavailable")
        assert response.headers["Connection"] == "close"
        assert int(response.headers["Retry-After"]) > 0
        pubsub.ready = True
        assert (await client.get("/wake?timeout_s=0")).status == 204


async def test_a_wakeup_is_for_a_worker_of_its_queue() -> None:
    """A worker of another queue keeps waiting, although it has waited longer."""
    queue = WakeupQueue()
    mail, videos = await start_waiting(queue, name="mail"), await start_waiting(queue, name="videos")
    queue.wake_one("videos")
    assert await videos
    assert not mail.done()
    assert await drain_queue(queue, mail) == [False]


@pytest.mark.parametrize(("wakeup", "worker"), [("", "mail"), ("mail", ""), ("", "")])
async def test_an_unnamed_queue_matches_any(wakeup: str, worker: str) -> None:
    """A submitter or a worker of version 0.1 names no queue; its wake-ups are for the first worker, as before."""
    queue = WakeupQueue()
    waiting = [await start_waiting(queue, name=worker) for _ in range(2)]
    queue.wake_one(wakeup)
    assert await waiting[0]
    assert await drain_queue(queue, waiting[1]) == [False]
    queue.wake_one(wakeup)
    assert await queue.wait(0, is_connected, worker)


async def test_an_unclaimed_wakeup_is_kept_for_its_queue() -> None:
    """A worker of another queue does not claim it, and each queue has its own."""
    queue = WakeupQueue()
    queue.wake_one("mail")
    queue.wake_one("videos")
    assert not await queue.wait(0, is_connected, "thumbnails")
    assert await queue.wait(0, is_connected, "videos")
    assert await queue.wait(0, is_connected, "mail")
    assert not await queue.wait(0, is_connected)


async def test_a_worker_that_disconnects_passes_its_wakeup_on_within_its_queue() -> None:
    """The next worker of the same queue gets the wake-up, not that of another queue."""
    queue = WakeupQueue()
    connected = [True]
    first = await start_waiting(queue, lambda: connected[0], "mail")
    other, second = await start_waiting(queue, name="videos"), await start_waiting(queue, name="mail")
    queue.wake_one("mail")
    connected[0] = False
    assert await second
    assert first.done()
    assert await drain_queue(queue, other) == [False]


async def test_missed_wakeups_may_be_of_any_queue() -> None:
    """After a lost subscription, one worker of each queue looks at it."""
    queue = WakeupQueue()
    workers = [await start_waiting(queue, name=name) for name in ("mail", "mail", "videos")]
    queue.wake_each()
    assert await drain_queue(queue, *workers) == [True, False, True]


async def test_expired_wakeups_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wake-ups of many queues that no worker claims do not pile up."""
    monkeypatch.setattr(module, "UNCLAIMED_WAKEUP_TTL_S", 0)
    queue = WakeupQueue()
    for number in range(100):
        queue.wake_one(f"queue-{number}")
    assert len(queue._unclaimed) == 1


@pytest.mark.parametrize("receivers", [1, 0, RedisError()], ids=["published", "not subscribed", "Redis is away"])
async def test_each_of_several_wakeups_wakes_a_worker(receivers: int | RedisError) -> None:
    """All are published; those that reach no replica wake workers of this one."""
    pubsub, queue = FakePubSub(), WakeupQueue()
    pubsub.receivers = receivers
    handler = WakeupHandler(cast(PubSub, pubsub), queue)
    tasks = [await start_waiting(queue, name="letters") for _ in range(3)]
    assert await handler.wake("letters", 2) == (not isinstance(receivers, RedisError))
    assert set(pubsub.published) == {("headway:wake", b"letters")}
    if receivers == 1:
        for channel, data in pubsub.published:
            handler.on_publication(channel, data)
    assert await drain_queue(queue, *tasks) == [True, True, False]
