"""The consumer: takes as many messages as there is room for, and polls an idle queue ever more rarely.

A hint ends the pause at once, and wakes one worker for each replica of the notifier. One that then gets as much as it
has asked for passes the hint on, so that the next one joins, until one finds no more.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

import structlog
from azure.core.exceptions import AzureError

from headway.azure.job_queue import MAX_PAGE

from . import metrics
from .delivery import Delivery, DeliveryDependencies
from .wakeups import WakeupListener

log: structlog.stdlib.BoundLogger = structlog.get_logger()

POLL_MIN_S = 0.1
MAX_POLL_WITHOUT_WAKEUPS_S = 1.0  # the longest pause of an idle queue while no hint would come
ERROR_CAP_S = 5.0
MAX_WAIT_S = 1.0  # the longest that the loop waits for anything but the queue
STUCK_AFTER_S = 60.0  # a loop that has not turned for so long is dead
SETTLE_TIMEOUT_S = 5.0  # what interrupted deliveries get to hand their messages back


class Consumer:
    """Receives messages and has each delivered in a task of its own."""

    def __init__(
        self, deps: DeliveryDependencies, wakeups: WakeupListener, concurrency: int, poll_max_s: float
    ) -> None:
        self._deps = deps
        self._wakeups = wakeups
        self._concurrency = concurrency
        self._poll_max_s = poll_max_s
        self._deliveries: dict[asyncio.Task[None], Delivery] = {}
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._last_iteration = time.monotonic()
        self._empty_polls = self._failed_polls = 0
        self._more_may_wait = True  # whether the other workers may not know that messages wait
        self.polled = False
        metrics.CONCURRENCY.set(concurrency)

    def is_alive(self) -> bool:
        """Tell whether the loop still turns."""
        return self._stopping.is_set() or time.monotonic() - self._last_iteration < self._poll_max_s + STUCK_AFTER_S

    async def run(self) -> None:
        """Receive for ever; the crash of a delivery, which is a fault of ours, ends it."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                self._last_iteration = time.monotonic()
                free_slots = self._concurrency - len(self._deliveries)
                if free_slots <= 0:
                    self._wakeups.pause()
                    self._slot_freed.clear()
                    await self._wait(self._slot_freed, MAX_WAIT_S)
                elif not self._deps.reporter.reachable.is_set():
                    await self._wait(self._deps.reporter.reachable, MAX_WAIT_S)
                else:
                    self._wakeups.resume()
                    pause_s = await self._poll(group, min(free_slots, MAX_PAGE))
                    await self._wait(self._wakeups.received, pause_s)
            self._stopped.set()
            await asyncio.Event().wait()  # the deliveries that go on belong to this group

    async def _poll(self, group: asyncio.TaskGroup, count: int) -> float:
        """Receive once and have deliver what came; return how long an idle or a failing queue is left alone."""
        if self._wakeups.received.is_set():
            self._wakeups.received.clear()  # now: one that comes during the request leads to another poll
            self._more_may_wait, self._empty_polls = True, 0
        try:
            received = await self._deps.queue.receive(count, self._deps.lease_s)
        except AzureError as error:
            if self._failed_polls == 0:
                log.warning("queue_unavailable", error=type(error).__name__)
            self._failed_polls += 1
            return _backoff(self._failed_polls, ERROR_CAP_S)
        self.polled, self._failed_polls = True, 0
        metrics.LAST_POLL.set_to_current_time()
        for message in received:
            self._start_delivery(group, Delivery(message, self._deps))
        if len(received) == count and self._more_may_wait:
            self._wakeups.received.set()  # there may be more: for this worker while it has room, then for the others
        self._more_may_wait = len(received) < count
        self._empty_polls = 0 if received else self._empty_polls + 1
        cap_s = self._poll_max_s if self._wakeups.connected else min(MAX_POLL_WITHOUT_WAKEUPS_S, self._poll_max_s)
        return _backoff(self._empty_polls, cap_s) if self._empty_polls else 0.0

    def _start_delivery(self, group: asyncio.TaskGroup, delivery: Delivery) -> None:
        if self._stopping.is_set():
            delivery.stop()
        task = group.create_task(delivery.handle())
        self._deliveries[task] = delivery
        task.add_done_callback(self._on_delivery_done)

    def _on_delivery_done(self, task: asyncio.Task[None]) -> None:
        del self._deliveries[task]
        self._slot_freed.set()

    async def stop(self, grace_s: float) -> None:
        """Receive nothing more, give what runs its grace, then have it handed back."""
        self._stopping.set()
        self._slot_freed.set()
        self._wakeups.pause()
        self._wakeups.received.set()  # the loop pauses no longer
        await self._stopped.wait()  # a receive in flight is awaited, and what it brought handed back
        await self._wait_for_deliveries(grace_s)
        for delivery in self._deliveries.values():
            delivery.stop()
        await self._wait_for_deliveries(SETTLE_TIMEOUT_S)

    async def _wait_for_deliveries(self, seconds: float) -> None:
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=seconds)

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


def _backoff(times: int, cap_s: float) -> float:
    doubled: float = POLL_MIN_S * 2.0 ** min(times - 1, 16)
    return min(cap_s, doubled) * random.uniform(0.7, 1)  # noqa: S311
