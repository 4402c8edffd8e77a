"""Wake-ups: `POST /wake` announces a queue message, and one of the workers that wait in `GET /wake` is answered.

`POST /submissions` wakes workers, too. A wake-up names only its queue and may be lost: without it, workers find the
message later, by polling. It is published on Redis, so that each replica answers one of its workers that wait for this
queue. An empty name, as from version 0.1, stands for any queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import structlog
from aiohttp import web
from msgspec import Meta, Struct
from redis.exceptions import RedisError

from ..runtime.aiohttp_adapter import is_disconnected
from ..runtime.errors import ServiceUnavailable
from ..runtime.middleware import LONG_POLL
from ..runtime.request import read_query
from . import metrics
from .redis_client.pubsub import PubSub

log: structlog.stdlib.BoundLogger = structlog.get_logger()

WAKEUP_CHANNEL = "headway:wake"
UNCLAIMED_WAKEUP_TTL_S = 1.0  # bridges the gap between two requests of a worker
PUBLISH_TIMEOUT_S = 2.0
RETRY_AFTER_S = 1
MAX_QUEUE_NAME_LENGTH = 63  # Azure's limit


class QueueQuery(Struct, frozen=True):
    """The query of `POST /wake`: the queue that has a message."""

    queue: Annotated[str, Meta(max_length=MAX_QUEUE_NAME_LENGTH)] = ""


class WakeupQuery(QueueQuery, frozen=True):
    """The query of `GET /wake`."""

    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30


class Waiter(Struct, frozen=True):
    """A worker that waits."""

    queue: str
    is_connected: Callable[[], bool]


class WakeupQueue:
    """The workers that wait for a wake-up on this replica, in FIFO order."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[bool], Waiter] = {}
        self._unclaimed: dict[str, float] = {}  # until when the wake-up of a queue is kept, in the loop's time
        self.draining = False

    def wake_one(self, queue: str = "") -> None:
        """Wake the first connected worker of a queue; if there is none, keep the wake-up for UNCLAIMED_WAKEUP_TTL_S."""
        for waiter, worker in list(self._waiters.items()):
            if not _match(worker.queue, queue):
                continue
            connected = not waiter.done() and worker.is_connected()
            self._resolve(waiter, woken=connected)
            if connected:
                metrics.WAKEUPS.labels("answered").inc()
                return
        metrics.WAKEUPS.labels("kept").inc()
        now = asyncio.get_running_loop().time()
        self._drop_expired(now)
        self._unclaimed[queue] = now + UNCLAIMED_WAKEUP_TTL_S

    def wake_each(self) -> None:
        """Wake one worker of each queue."""
        for queue in dict.fromkeys(worker.queue for worker in self._waiters.values()) or [""]:
            self.wake_one(queue)

    async def wait(self, timeout_s: float, is_connected: Callable[[], bool], queue: str = "") -> bool:
        """Wait for a wake-up.

        Args:
            timeout_s: the time to wait.
            is_connected: returns whether the worker that waits is still connected.
            queue: the worker's queue.

        Returns:
            Whether a wake-up arrived in time.
        """
        loop = asyncio.get_running_loop()
        self._drop_expired(loop.time())
        if (unclaimed := next((kept for kept in self._unclaimed if _match(kept, queue)), None)) is not None:
            del self._unclaimed[unclaimed]
            return True
        # Timeout, wake-up, drain and disconnect all resolve this one future, so that no wake-up is lost in a race.
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters[waiter] = Waiter(queue, is_connected)
        timer = loop.call_later(timeout_s, self._resolve, waiter)
        try:
            with metrics.WAITING_WORKERS.track_inprogress():
                return await waiter
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)
            if not waiter.cancelled() and waiter.result() and not is_connected():
                self.wake_one(queue)  # the worker disconnected before it was answered

    def drain(self) -> None:
        """Answer all waiting workers without a wake-up, because this replica stops."""
        self.draining = True
        for waiter in list(self._waiters):
            self._resolve(waiter)

    def _resolve(self, waiter: asyncio.Future[bool], *, woken: bool = False) -> None:
        self._waiters.pop(waiter, None)
        if not waiter.done():
            waiter.set_result(woken)

    def _drop_expired(self, now: float) -> None:
        self._unclaimed = {queue: until for queue, until in self._unclaimed.items() if now < until}


def _match(one: str, other: str) -> bool:
    """Return whether a wake-up and a worker have the same queue, or one of them any queue."""
    return one == other or not one or not other


class WakeupHandler:
    """Handles `POST /wake` and `GET /wake`."""

    def __init__(self, pubsub: PubSub, queue: WakeupQueue) -> None:
        self._pubsub = pubsub
        self._queue = queue
        pubsub.subscribe(WAKEUP_CHANNEL, self)

    def on_publication(self, channel: str, data: bytes) -> None:  # noqa: ARG002
        """Called with each wake-up that is published."""
        self._queue.wake_one(data.decode(errors="replace"))

    def on_subscribed(self, channel: str) -> None:  # noqa: ARG002
        """Called when the subscription is confirmed. Earlier wake-ups of any queue may have been missed."""
        self._queue.wake_each()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/wake", self.notify), web.get("/wake", self.wait)]

    async def notify(self, request: web.Request) -> web.Response:
        """Publish a wake-up to all replicas."""
        if not await self.wake(read_query(request, QueueQuery).queue):
            raise ServiceUnavailable(
                "The wake-up reached only the workers of this replica.", retry_after_s=RETRY_AFTER_S
            )
        return web.Response(status=204)

    async def wake(self, queue: str, count: int = 1) -> bool:
        """Publish wake-ups to all replicas; if that fails, wake workers of this replica, and return False."""
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                publications = (self._pubsub.publish(WAKEUP_CHANNEL, queue.encode()) for _ in range(count))
                receivers = await asyncio.gather(*publications)
        except (RedisError, OSError) as error:
            log.debug("wakeup_publish_failed", error=type(error).__name__)
            published, receivers = False, [0] * count
        else:
            published = True
        for _ in range(receivers.count(0)):  # not even this replica is subscribed
            self._queue.wake_one(queue)
        return published

    async def wait(self, request: web.Request) -> web.Response:
        """Answer 200 when a wake-up arrives, or 204 after the timeout."""
        request[LONG_POLL] = True
        query = read_query(request, WakeupQuery)
        if self._sends_away():
            message = "This replica is stopping, or has lost Redis; try another."
            raise ServiceUnavailable(message, retry_after_s=RETRY_AFTER_S)
        woken = await self._queue.wait(query.timeout_s, lambda: not is_disconnected(request), query.queue)
        response = web.Response(status=200 if woken else 204)
        if self._sends_away():
            response.force_close()  # a new connection finds another replica
        return response

    def _sends_away(self) -> bool:
        """Return whether workers should wait at another replica, because this one stops or has lost Redis."""
        return self._queue.draining or not self._pubsub.ready
