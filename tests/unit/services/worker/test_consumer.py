"""The consumer with a fake queue: when it polls, how long it waits, and when it passes a wake-up on."""

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
from services.worker.consumer import REFILL_PAUSE_S, Consumer
from services.worker.wakeups import WakeupListener
from tests.waiting import PATIENCE_S, wait_until

POLL_MAX_S = 1000.0


class FakeQueue:
    """A queue that records how many messages each poll requests."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.requested_counts: list[int] = []
        self.on_receive: Callable[[], None] = lambda: None  # called during each request
        self.unavailable = False

    async def receive(self, count: int, _visibility_s: int) -> list[str]:
        """Return up to `count` messages and remove them."""
        self.requested_counts.append(count)
        await asyncio.sleep(0)
        self.on_receive()
        if self.unavailable:
            raise ServiceRequestError("the queue is unavailable")
        received, self.messages = self.messages[:count], self.messages[count:]
        return received


class RunningConsumer:
    """A consumer with its fake queue and its wake-ups; wake-ups that it passes on are never sent, only noted."""

    def __init__(self, wakeups: WakeupListener, wakeup_client: WakeupClient, concurrency: int) -> None:
        self.queue, self.wakeups, self._wakeup_client = FakeQueue(), wakeups, wakeup_client
        self.waits_s: list[float] = []
        self.in_wait = False
        self.refill = asyncio.Event()  # ends the pause before slots are refilled
        self.refill.set()
        self.deliveries: list[asyncio.Event] = []  # one for each running delivery; setting it ends the delivery
        self.crash: BaseException | None = None  # raised by the delivery that ends next
        self.task: asyncio.Task[None]
        reporter = SimpleNamespace(reachable=asyncio.Event())
        reporter.reachable.set()
        self.runner = SimpleNamespace(abandoned=set())
        settings = SimpleNamespace(lease_s=60)
        deps: Any = SimpleNamespace(settings=settings, queue=self.queue, reporter=reporter, runner=self.runner)
        self.consumer = Consumer(deps, wakeups, concurrency, POLL_MAX_S)

    async def wait_for_polls(self, count: int) -> None:
        """Wait until the consumer has polled exactly this often and waits."""
        await wait_until(lambda: len(self.queue.requested_counts) >= count and self.is_waiting, 5)
        assert len(self.queue.requested_counts) == count

    @property
    def is_waiting(self) -> bool:
        """Whether the consumer waits between two polls or for a free slot."""
        full = len(self.deliveries) == self.consumer._concurrency
        return (full or (self.in_wait and self.waits_s[-1] > 0)) and not self.wakeups.received.is_set()

    def passed_on(self) -> bool:
        """Return whether the consumer has passed a wake-up on since the last call."""
        pending = self._wakeup_client._pending.is_set()
        self._wakeup_client._pending.clear()
        return pending


RunConsumer = Callable[[int], AbstractAsyncContextManager[RunningConsumer]]


@pytest.fixture
def run_consumer(monkeypatch: pytest.MonkeyPatch) -> RunConsumer:
    """Return a context manager that runs a consumer; wake-ups are connected, deliveries run until a test ends them."""

    @asynccontextmanager
    async def run(concurrency: int) -> AsyncIterator[RunningConsumer]:
        async with (
            WakeupClient.connect(None, "jobs") as client,
            WakeupListener.connect("http://127.0.0.1:1", "jobs", client, lambda: None) as wakeups,
        ):
            wakeups.connected = True
            running = RunningConsumer(wakeups, client, concurrency)

            class FakeDelivery:
                def __init__(self, _message: str, _deps: Any) -> None:
                    self.ended = asyncio.Event()
                    self.stop = self.ended.set

                async def handle(self) -> None:
                    running.deliveries.append(self.ended)
                    await self.ended.wait()
                    running.deliveries.remove(self.ended)
                    error, running.crash = running.crash, None
                    if error is not None:
                        raise error

            wait = Consumer._wait

            async def recorded_wait(event: asyncio.Event, seconds: float) -> None:
                running.waits_s.append(seconds)
                running.in_wait = True
                if seconds == REFILL_PAUSE_S:
                    await running.refill.wait()
                else:
                    await wait(event, seconds)
                running.in_wait = False

            monkeypatch.setattr(module, "Delivery", FakeDelivery)
            monkeypatch.setattr(module, "MIN_POLL_INTERVAL_S", 500.0)
            monkeypatch.setattr(Consumer, "_wait", staticmethod(recorded_wait))
            running.task = asyncio.create_task(running.consumer.run())
            yield running
            await asyncio.wait_for(running.consumer.stop(0), PATIENCE_S)
            running.task.cancel()
            with suppress(asyncio.CancelledError):
                await running.task

    return run


@pytest.mark.parametrize(("count", "cap_s"), [(1, 0.1), (2, 0.2), (5, 1.6), (8, 10), (10_000, 10)])
def test_backoff_doubles_up_to_the_cap(count: int, cap_s: float) -> None:
    """The interval is shortened at random, so that workers do not poll in step."""
    intervals_s = {module._backoff_s(count, 10) for _ in range(100)}
    assert 0.7 * cap_s <= min(intervals_s) < max(intervals_s) <= cap_s


async def test_poll_interval_is_short_without_wakeups(run_consumer: RunConsumer) -> None:
    """While the notifier cannot send wake-ups, the consumer polls at least once per second."""
    async with run_consumer(1) as running:
        await running.wait_for_polls(1)
        assert running.waits_s[-1] > 100
        running.wakeups.connected = False
        running.wakeups.received.set()
        await running.wait_for_polls(2)
        assert running.waits_s[-1] <= 1


async def test_wakeup_leads_to_a_poll(run_consumer: RunConsumer) -> None:
    """The consumer polls at once; it passes no wake-up on if it received less than it requested."""
    async with run_consumer(2) as running:
        await running.wait_for_polls(1)
        running.queue.messages = ["a"]
        running.wakeups.received.set()
        await running.wait_for_polls(3)
        assert len(running.deliveries) == 1
        assert not running.passed_on()


async def test_wakeup_during_a_poll_leads_to_another_poll(run_consumer: RunConsumer) -> None:
    """The first poll may have been too early for the message that the wake-up announces."""
    async with run_consumer(1) as running:
        await running.wait_for_polls(1)
        running.queue.on_receive = lambda: (
            running.wakeups.received.set() if len(running.queue.requested_counts) == 2 else None
        )
        running.wakeups.received.set()
        await running.wait_for_polls(3)


async def test_wakeup_resets_the_backoff(run_consumer: RunConsumer) -> None:
    """A message that becomes visible shortly after its wake-up is received soon."""
    async with run_consumer(1) as running:
        running.consumer._empty_polls = 1000
        running.wakeups.received.set()
        await running.wait_for_polls(1)
        assert running.waits_s[-1] <= 500


async def test_consumer_without_free_slots_passes_one_wakeup_on(run_consumer: RunConsumer) -> None:
    """If more messages may be left, the consumer wakes another worker, but only once per wake-up."""
    async with run_consumer(1) as running:
        await running.wait_for_polls(1)
        running.queue.messages = ["a", "b", "c"]
        running.wakeups.received.set()
        await running.wait_for_polls(2)
        assert running.passed_on()
        running.deliveries[0].set()
        await running.wait_for_polls(3)
        assert not running.passed_on()
        running.wakeups.received.set()
        running.deliveries[0].set()
        await running.wait_for_polls(4)
        assert running.passed_on()


async def test_consumer_fills_its_slots_before_it_passes_a_wakeup_on(run_consumer: RunConsumer) -> None:
    """After a full page the consumer polls again at once, as long as it has a free slot."""
    async with run_consumer(40) as running:
        await running.wait_for_polls(1)
        running.queue.messages = ["m"] * 50
        running.wakeups.received.set()
        await running.wait_for_polls(3)
        assert running.queue.requested_counts == [32, 32, 8]
        assert running.passed_on()


async def test_slots_that_become_free_together_share_a_request(run_consumer: RunConsumer) -> None:
    """After all slots were taken, the consumer waits a moment before it receives messages for the free ones."""
    async with run_consumer(2) as running:
        running.queue.messages = ["a", "b", "c", "d"]
        running.wakeups.received.set()
        await wait_until(lambda: len(running.deliveries) == 2)
        running.refill.clear()
        for delivery in list(running.deliveries):
            delivery.set()
            await wait_until(lambda: running.waits_s[-1] == REFILL_PAUSE_S)
        await wait_until(lambda: not running.deliveries)
        running.refill.set()
        await wait_until(lambda: len(running.deliveries) == 2)
        assert running.queue.requested_counts[-1] == 2


async def test_failed_poll_does_not_lose_a_wakeup(run_consumer: RunConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wake-up is passed on when the queue is available again."""
    monkeypatch.setattr(module, "MAX_ERROR_BACKOFF_S", 0.01)
    async with run_consumer(1) as running:
        await running.wait_for_polls(1)
        running.queue.unavailable = True
        running.wakeups.received.set()
        await wait_until(lambda: len(running.queue.requested_counts) > 3)
        running.queue.messages, running.queue.unavailable = ["a"], False
        await wait_until(lambda: running.deliveries)
        await wait_until(running.passed_on)


async def test_crash_of_a_delivery_releases_the_others(run_consumer: RunConsumer) -> None:
    """The consumer stops receiving, releases all messages at once, and raises the exception of the delivery."""
    async with run_consumer(3) as running:
        running.queue.messages = ["a", "b", "c"]
        running.wakeups.received.set()
        await wait_until(lambda: len(running.deliveries) == 3)
        running.crash = error = RuntimeError("a bug")
        running.deliveries[0].set()
        await asyncio.wait({running.task}, timeout=PATIENCE_S)
        assert running.deliveries == []
        assert running.task.exception() is error
        running.task = asyncio.create_task(asyncio.sleep(0))


async def test_crash_of_another_part_releases_all_messages(run_consumer: RunConsumer) -> None:
    """When the service cancels the consumer without a drain, it releases the messages of its jobs first."""
    async with run_consumer(2) as running:
        running.queue.messages = ["a", "b"]
        running.wakeups.received.set()
        await wait_until(lambda: len(running.deliveries) == 2)
        running.task.cancel()
        await asyncio.wait({running.task}, timeout=PATIENCE_S)
        assert running.deliveries == []
        assert running.task.cancelled()


async def test_abandoned_handler_keeps_its_slot(run_consumer: RunConsumer) -> None:
    """The consumer does not use the slot of an abandoned handler until it ends."""
    async with run_consumer(3) as running:
        running.runner.abandoned.add("a task")
        running.queue.messages = ["a", "b", "c"]
        running.wakeups.received.set()
        await wait_until(lambda: len(running.deliveries) == 2)
        assert running.queue.messages == ["c"]
        running.runner.abandoned.clear()
        await wait_until(lambda: len(running.deliveries) == 3)


async def test_a_stalled_consumer_is_not_alive(run_consumer: RunConsumer) -> None:
    """An unavailable queue, or one without messages, is no reason to restart the worker; a loop that hangs is."""
    async with run_consumer(1) as running:
        running.queue.unavailable = True
        await running.wait_for_polls(1)
        assert running.consumer.is_alive()
        running.consumer._last_iteration -= POLL_MAX_S
        assert running.consumer.is_alive()
        running.consumer._last_iteration -= module.STALLED_AFTER_S
        assert not running.consumer.is_alive()
