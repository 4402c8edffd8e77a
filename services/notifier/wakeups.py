"""Wake hints: `POST /wake` says that a message waits, and of the workers that hold `GET /wake` one is answered.

A hint carries nothing and promises nothing: without it workers find the message by polling, only later. It goes over
Redis, so that each replica answers one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import structlog
from aiohttp import web
from msgspec import Meta, Struct
from redis.exceptions import RedisError

from ..runtime.errors import ServiceUnavailable, problem_response
from ..runtime.middleware import LONG_POLL
from ..runtime.request import read_query
from . import metrics
from .redis_client.pubsub import PubSub

log: structlog.stdlib.BoundLogger = structlog.get_logger()

WAKEUP_CHANNEL = "headway:wake"
KEEP_WAKEUP_S = 1.0  # how long a hint that nobody waits for is kept: workers ask again at once
PUBLISH_TIMEOUT_S = 2.0
RETRY_AFTER_S = 1


class WakeupQuery(Struct, frozen=True):
    """The query of `GET /wake`."""

    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30


class WakeupQueue:
    """Those who wait for a hint, first come, first served; one hint is for one of them."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[bool], Callable[[], bool]] = {}
        self._kept_until = float("-inf")
        self.draining = False

    def wake_one(self) -> None:
        """Tell the first one who is still there; keep the hint for a moment when nobody is."""
        while self._waiters:
            waiter = next(iter(self._waiters))
            connected = not waiter.done() and self._waiters[waiter]()
            self._resolve(waiter, woken=connected)
            if connected:
                metrics.WAKES.labels("answered").inc()
                return
        metrics.WAKES.labels("kept").inc()
        self._kept_until = asyncio.get_running_loop().time() + KEEP_WAKEUP_S

    async def wait(self, timeout_s: float, is_connected: Callable[[], bool]) -> bool:
        """Wait for a hint; tell whether one came in time. `here` tells whether who waits has not left."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._kept_until:
            self._kept_until = float("-inf")
            return True
        # Time, hint, drain and leaving meet in this one future, so that no hint is lost between two of them.
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters[waiter] = is_connected
        timer = loop.call_later(timeout_s, self._resolve, waiter)
        try:
            with metrics.WAITING.track_inprogress():
                return await waiter
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)
            if not waiter.cancelled() and waiter.result() and not is_connected():
                self.wake_one()  # who got it has left before it could be said

    def drain(self) -> None:
        """Send everyone to another replica."""
        self.draining = True
        for waiter in list(self._waiters):
            self._resolve(waiter)

    def _resolve(self, waiter: asyncio.Future[bool], *, woken: bool = False) -> None:
        self._waiters.pop(waiter, None)
        if not waiter.done():
            waiter.set_result(woken)


class WakeupHandler:
    """Takes hints, and holds the requests of those who wait for one."""

    def __init__(self, pubsub: PubSub, queue: WakeupQueue) -> None:
        self._pubsub = pubsub
        self._queue = queue
        pubsub.subscribe(WAKEUP_CHANNEL, self)

    def on_publication(self, channel: str, data: bytes) -> None:  # noqa: ARG002
        """Called with each wake-up that is published."""
        self._queue.wake_one()

    def on_subscribed(self, channel: str) -> None:  # noqa: ARG002
        """Called when the subscription is confirmed. Earlier wake-ups may have been missed."""
        self._queue.wake_one()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/wake", self.notify), web.get("/wake", self.wait)]

    async def notify(self, _request: web.Request) -> web.Response:
        """Pass a hint to every replica; what Redis does not carry is still told here."""
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                receivers = await self._pubsub.publish(WAKEUP_CHANNEL, b"")
        except (RedisError, OSError) as error:
            self._queue.wake_one()
            log.debug("hint_unpublished", error=type(error).__name__)
            raise ServiceUnavailable("Only this replica's workers were told.", retry_after_s=RETRY_AFTER_S) from error
        if not receivers:  # not even this replica
            self._queue.wake_one()
        return web.Response(status=204)

    async def wait(self, request: web.Request) -> web.Response:
        """Answer 200 when a hint comes, 204 when the time is over."""
        request[LONG_POLL] = True
        query = read_query(request, WakeupQuery)
        if self._queue.draining:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            response = problem_response(
                503, ServiceUnavailable.code, "This replica stops; ask another.", headers=headers
            )
        else:
            woken = await self._queue.wait(query.timeout_s, lambda: not _has_disconnected(request))
            response = web.Response(status=200 if woken else 204)
        if self._queue.draining:
            response.force_close()  # a new connection finds another replica
        return response


def _has_disconnected(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
