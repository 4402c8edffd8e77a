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

from headway.azure_queue import MAX_PAGE
from services.worker import metrics
from services.worker.delivery import Delivery, Tools
from services.worker.hints import Hints

log: structlog.stdlib.BoundLogger = structlog.get_logger()

POLL_MIN_S = 0.1
UNHINTED_S = 1.0  # the longest pause of an idle queue while no hint would come
ERROR_CAP_S = 5.0
BEAT_S = 1.0  # the longest that the loop waits for anything but the queue
STILL_S = 60.0  # a loop that has not turned for so long is dead
SETTLE_S = 5.0  # what interrupted deliveries get to hand their messages back


class Consumer:
    """Receives messages and has each delivered in a task of its own."""

    def __init__(self, tools: Tools, hints: Hints, concurrency: int, poll_max_s: float) -> None:
        self._tools = tools
        self._hints = hints
        self._concurrency = concurrency
        self._poll_max_s = poll_max_s
        self._deliveries: dict[asyncio.Task[None], Delivery] = {}
        self._freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._turned_at = time.monotonic()
        self._empty = self._failures = 0
        self._news = True  # whether the other workers may not know that messages wait
        self.polled = False
        metrics.CONCURRENCY.set(concurrency)

    def alive(self) -> bool:
        """Tell whether the loop still turns."""
        return self._stopping.is_set() or time.monotonic() - self._turned_at < self._poll_max_s + STILL_S

    async def run(self) -> None:
        """Receive for ever; the crash of a delivery, which is a fault of ours, ends it."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                self._turned_at = time.monotonic()
                free = self._concurrency - len(self._deliveries)
                if free <= 0:
                    self._hints.decline()
                    self._freed.clear()
                    await self._pause(self._freed, BEAT_S)
                elif not self._tools.reporter.reachable.is_set():
                    await self._pause(self._tools.reporter.reachable, BEAT_S)
                else:
                    self._hints.want()
                    pause_s = await self._poll(group, min(free, MAX_PAGE))
                    await self._pause(self._hints.came, pause_s)
            self._stopped.set()
            await asyncio.Event().wait()  # the deliveries that go on belong to this group

    async def _poll(self, group: asyncio.TaskGroup, count: int) -> float:
        """Receive once and have deliver what came; return how long an idle or a failing queue is left alone."""
        if self._hints.came.is_set():
            self._hints.came.clear()  # now: one that comes during the request leads to another poll
            self._news, self._empty = True, 0
        try:
            received = await self._tools.queue.receive(count, self._tools.lease_s)
        except AzureError as error:
            if self._failures == 0:
                log.warning("queue_unavailable", error=type(error).__name__)
            self._failures += 1
            return _backoff(self._failures, ERROR_CAP_S)
        self.polled, self._failures = True, 0
        metrics.LAST_POLL.set_to_current_time()
        for message in received:
            self._deliver(group, Delivery(message, self._tools))
        if len(received) == count and self._news:
            self._hints.came.set()  # there may be more: for this worker while it has room, then for the others
        self._news = len(received) < count
        self._empty = 0 if received else self._empty + 1
        cap_s = self._poll_max_s if self._hints.flowing else min(UNHINTED_S, self._poll_max_s)
        return _backoff(self._empty, cap_s) if self._empty else 0.0

    def _deliver(self, group: asyncio.TaskGroup, delivery: Delivery) -> None:
        if self._stopping.is_set():
            delivery.stop()
        task = group.create_task(delivery.handle())
        self._deliveries[task] = delivery
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._deliveries[task]
        self._freed.set()

    async def stop(self, grace_s: float) -> None:
        """Receive nothing more, give what runs its grace, then have it handed back."""
        self._stopping.set()
        self._freed.set()
        self._hints.decline()
        self._hints.came.set()  # the loop pauses no longer
        await self._stopped.wait()  # a receive in flight is awaited, and what it brought handed back
        await self._finish(grace_s)
        for delivery in self._deliveries.values():
            delivery.stop()
        await self._finish(SETTLE_S)

    async def _finish(self, seconds: float) -> None:
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=seconds)

    @staticmethod
    async def _pause(event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


def _backoff(times: int, cap_s: float) -> float:
    doubled: float = POLL_MIN_S * 2.0 ** min(times - 1, 16)
    return min(cap_s, doubled) * random.uniform(0.7, 1)  # noqa: S311
