"""The consumer with a queue that is a list: when it polls, how long it pauses, and whom it tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import ServiceRequestError

from services.runtime.wakeup_client import WakeupClient
from services.worker import consumer as module
from services.worker.consumer import Consumer
from services.worker.wakeups import WakeupListener
from tests.waiting import wait_until

LONG_S = 1000.0


class FakeQueue:
    """Has messages that anybody may take."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.asked: list[int] = []
        self.during: Callable[[], None] = lambda: None
        self.away = False

    async def receive(self, count: int, _visibility_s: int) -> list[str]:
        """Take messages as a request does: some other things happen meanwhile."""
        self.asked.append(count)
        await asyncio.sleep(0)
        self.during()
        if self.away:
            raise ServiceRequestError("the queue is away")
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken


class World:
    """One consumer and all that it touches; a waker that only takes down what it owes."""

    def __init__(self, hints: WakeupListener, waker: WakeupClient, concurrency: int) -> None:
        self.queue, self.hints, self.waker = FakeQueue(), hints, waker
        self.pauses: list[float] = []
        self.running: list[asyncio.Event] = []
        reporter = SimpleNamespace(reachable=asyncio.Event())
        reporter.reachable.set()
        tools: Any = SimpleNamespace(queue=self.queue, reporter=reporter, lease_s=60)
        self.consumer = Consumer(tools, hints, concurrency, LONG_S)

    async def asleep(self, polls: int) -> None:
        """Wait until it has polled so often, and does no more."""
        await wait_until(lambda: len(self.queue.asked) >= polls and self.idle, 5)
        assert len(self.queue.asked) == polls

    @property
    def idle(self) -> bool:
        """Tell whether it sleeps, or has no room."""
        full = len(self.running) == self.consumer._concurrency
        return (full or bool(self.pauses and self.pauses[-1] > 0)) and not self.hints.received.is_set()

    def told(self) -> bool:
        """Tell whether it has passed a hint on since it was last asked."""
        owed = self.waker._pending.is_set()
        self.waker._pending.clear()
        return owed


Worlds = Callable[[int], AbstractAsyncContextManager[World]]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Worlds:
    """Return what runs a consumer, with hints that flow and deliveries that last until they are ended."""

    @asynccontextmanager
    async def consuming(concurrency: int) -> AsyncIterator[World]:
        async with WakeupClient.connect(None) as waker, WakeupListener.connect("http://127.0.0.1:1", waker) as hints:
            hints.connected = True
            world = World(hints, waker, concurrency)

            class Delivery:
                def __init__(self, _message: str, _tools: Any) -> None:
                    self.ended = asyncio.Event()
                    self.stop = self.ended.set

                async def handle(self) -> None:
                    world.running.append(self.ended)
                    await self.ended.wait()
                    world.running.remove(self.ended)

            wait = Consumer._wait

            async def noted(event: asyncio.Event, seconds: float) -> None:
                world.pauses.append(seconds)
                await wait(event, seconds)

            monkeypatch.setattr(module, "Delivery", Delivery)
            monkeypatch.setattr(module, "MIN_POLL_INTERVAL_S", 500.0)
            monkeypatch.setattr(Consumer, "_wait", staticmethod(noted))
            task = asyncio.create_task(world.consumer.run())
            yield world
            await asyncio.wait_for(world.consumer.stop(0), 5)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return consuming


@pytest.mark.parametrize(("times", "most_s"), [(1, 0.1), (2, 0.2), (5, 1.6), (8, 10), (10_000, 10)])
def test_pauses_double_up_to_the_most(times: int, most_s: float) -> None:
    """An idle queue is asked ever more rarely; chance makes pauses shorter, lest workers poll in step."""
    found = {module._backoff_s(times, 10) for _ in range(100)}
    assert 0.7 * most_s <= min(found) < max(found) <= most_s


async def test_while_no_hint_would_come_the_pause_is_short(world: Worlds) -> None:
    """A second at most, however rarely the queue may be asked otherwise."""
    async with world(1) as one:
        await one.asleep(1)
        assert one.pauses[-1] > 100
        one.hints.connected = False
        one.hints.received.set()
        await one.asleep(2)
        assert one.pauses[-1] <= 1


async def test_a_hint_ends_a_pause(world: Worlds) -> None:
    """The message is taken though the next poll was far off; one alone is nothing to tell the others."""
    async with world(2) as one:
        await one.asleep(1)
        one.queue.messages = ["a"]
        one.hints.received.set()
        await one.asleep(3)
        assert len(one.running) == 1
        assert not one.told()


async def test_a_hint_during_a_poll_is_not_lost(world: Worlds) -> None:
    """The poll may have missed what it is about, so there is another one."""
    async with world(1) as one:
        await one.asleep(1)
        one.queue.during = lambda: one.hints.received.set() if len(one.queue.asked) == 2 else None
        one.hints.received.set()
        await one.asleep(3)


async def test_a_hint_begins_the_backoff_anew(world: Worlds) -> None:
    """A message that is seen a little later than was hinted at does not wait for long."""
    async with world(1) as one:
        one.consumer._empty_polls = 1000
        one.hints.received.set()
        await one.asleep(1)
        assert one.pauses[-1] <= 500


async def test_as_much_as_was_asked_for_is_a_hint_for_the_others(world: Worlds) -> None:
    """There may be more than this worker can take; it says so once, not with every message of a long queue."""
    async with world(1) as one:
        await one.asleep(1)
        one.queue.messages = ["a", "b", "c"]
        one.hints.received.set()
        await one.asleep(2)
        assert one.told()
        one.running[0].set()
        await one.asleep(3)
        assert not one.told()
        one.hints.received.set()  # of one more message, which a worker with room may take
        one.running[0].set()
        await one.asleep(4)
        assert one.told()


async def test_a_worker_with_room_takes_what_it_can_before_it_tells_the_others(world: Worlds) -> None:
    """A full page is followed by another one at once."""
    async with world(40) as one:
        await one.asleep(1)
        one.queue.messages = ["m"] * 50
        one.hints.received.set()
        await one.asleep(3)
        assert one.queue.asked == [32, 32, 8]
        assert one.told()


async def test_a_failed_poll_forgets_no_hint(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are told once the queue answers."""
    monkeypatch.setattr(module, "MAX_ERROR_BACKOFF_S", 0.01)
    async with world(1) as one:
        await one.asleep(1)
        one.queue.away = True
        one.hints.received.set()
        await wait_until(lambda: len(one.queue.asked) > 3)
        one.queue.messages, one.queue.away = ["a"], False
        await wait_until(lambda: one.running)
        await wait_until(one.told)
