"""The consumer: receives a message for each free slot, and polls an idle queue with exponential backoff.

A wake-up ends the wait immediately. Each replica of the notifier wakes only one worker. If that worker receives as many
messages as it requested, more may be left, so it sends another wake-up, which another worker receives.
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

MIN_POLL_INTERVAL_S = 0.1
MAX_POLL_INTERVAL_WITHOUT_WAKEUPS_S = 1.0  # while the notifier cannot send wake-ups
MAX_ERROR_BACKOFF_S = 5.0
MAX_WAIT_S = 1.0  # for a free slot or the notifier
REFILL_PAUSE_S = 0.005  # after all slots were taken: those that become free meanwhile share a request
STALLED_AFTER_S = 60.0  # without an iteration, beyond the longest poll interval; then liveness fails
SETTLE_TIMEOUT_S = 5.0  # for interrupted deliveries to release their messages


class Consumer:
    """Receives messages and runs the delivery of each in a task."""

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
        self._drained = False
        self._crash: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # of a delivery
        self._last_iteration = time.monotonic()
        self._empty_polls = self._failed_polls = 0
        self._more_may_wait = True  # messages may be left for which no other worker was woken
        self.has_polled = False
        metrics.CONCURRENCY.set(concurrency)

    def is_alive(self) -> bool:
        """Return whether the receive loop makes progress."""
        return self._stopping.is_set() or time.monotonic() - self._last_iteration < self._poll_max_s + STALLED_AFTER_S

    async def run(self) -> None:
        """Receive messages until `stop`, then keep running the deliveries until cancelled.

        An unexpected exception in a delivery is a bug of the worker and is raised here, which ends the worker. Then,
        and if another part has crashed and this is cancelled without `stop`, the messages of all other jobs are
        released first, so that the jobs lose no attempt.
        """
        try:
            while not self._stopping.is_set():
                self._last_iteration = time.monotonic()
                free_slots = self._concurrency - len(self._deliveries) - len(self._deps.runner.abandoned)
                if free_slots <= 0:
                    self._wakeups.pause()
                    self._slot_freed.clear()
                    await self._wait(self._slot_freed, MAX_WAIT_S)
                    await self._wait(self._stopping, REFILL_PAUSE_S)
                elif not self._deps.reporter.reachable.is_set():
                    await self._wait(self._deps.reporter.reachable, MAX_WAIT_S)
                else:
                    self._wakeups.resume()
                    pause_s = await self._poll(min(free_slots, MAX_PAGE))
                    await self._wait(self._wakeups.received, pause_s)
            self._stopped.set()
            await self._crash
        finally:
            self._stopped.set()
            if not self._drained:
                self._release_all()
                await self._wait_for_deliveries(SETTLE_TIMEOUT_S)
            for task in self._deliveries:
                task.cancel()
            await self._wait_for_deliveries(SETTLE_TIMEOUT_S)

    async def _poll(self, count: int) -> float:
        """Receive once, start the deliveries, and return the seconds to wait before the next poll."""
        if self._wakeups.received.is_set():
            self._wakeups.received.clear()  # before the request: a wake-up during it leads to another poll
            self._more_may_wait, self._empty_polls = True, 0
        try:
            received = await self._deps.queue.receive(count, self._deps.settings.lease_s)
        except AzureError as error:
            if self._failed_polls == 0:
                log.warning("queue_unavailable", error=type(error).__name__)
            self._failed_polls += 1
            return _backoff_s(self._failed_polls, MAX_ERROR_BACKOFF_S)
        self.has_polled, self._failed_polls = True, 0
        metrics.LAST_POLL.set_to_current_time()
        for message in received:
            self._start_delivery(Delivery(message, self._deps))
        if len(received) == count and self._more_may_wait:
            self._wakeups.received.set()  # poll again; with all slots taken, `pause` passes the wake-up on
        self._more_may_wait = len(received) < count
        self._empty_polls = 0 if received else self._empty_polls + 1
        cap_s = (
            self._poll_max_s if self._wakeups.connected else min(MAX_POLL_INTERVAL_WITHOUT_WAKEUPS_S, self._poll_max_s)
        )
        return _backoff_s(self._empty_polls, cap_s) if self._empty_polls else 0.0

    def _start_delivery(self, delivery: Delivery) -> None:
        if self._stopping.is_set():
            delivery.stop()
        task = asyncio.create_task(delivery.handle())
        self._deliveries[task] = delivery
        task.add_done_callback(self._on_delivery_done)

    def _on_delivery_done(self, task: asyncio.Task[None]) -> None:
        del self._deliveries[task]
        self._slot_freed.set()
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._crash.done():
            self._crash.set_exception(error)
            self._stop_receiving()
            self._release_all()

    async def stop(self, grace_s: float) -> None:
        """Stop receiving, wait up to `grace_s` for running jobs, then release the messages of the rest."""
        self._stop_receiving()
        await self._stopped.wait()  # after a receive in flight, whose messages are released immediately
        await self._wait_for_deliveries(grace_s)
        self._release_all()
        await self._wait_for_deliveries(SETTLE_TIMEOUT_S)
        self._drained = True

    def _stop_receiving(self) -> None:
        self._stopping.set()
        self._slot_freed.set()
        self._wakeups.pause()
        self._wakeups.received.set()  # ends the wait between two polls

    def _release_all(self) -> None:
        for delivery in self._deliveries.values():
            delivery.stop()

    async def _wait_for_deliveries(self, seconds: float) -> None:
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=seconds)

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


def _backoff_s(count: int, cap_s: float) -> float:
    doubled: float = MIN_POLL_INTERVAL_S * 2.0 ** min(count - 1, 16)
    return min(cap_s, doubled) * random.uniform(0.7, 1)  # noqa: S311
