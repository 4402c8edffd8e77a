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

from services.notifier import metrics
from services.notifier.bus import Bus
from services.runtime.errors import ServiceUnavailable, problem_response
from services.runtime.middleware import LONG_POLL
from services.runtime.request import read_query

log: structlog.stdlib.BoundLogger = structlog.get_logger()

KEEP_S = 1.0  # how long a hint that nobody waits for is kept: workers ask again at once
PUBLISH_S = 2.0
RETRY_AFTER_S = 1


class Wish(Struct, frozen=True):
    """The query of `GET /wake`."""

    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30


class Waiters:
    """Those who wait for a hint, first come, first served; one hint is for one of them."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[bool], Callable[[], bool]] = {}
        self._kept_until = float("-inf")
        self.draining = False

    def hint(self) -> None:
        """Tell the first one who is still there; keep the hint for a moment when nobody is."""
        while self._waiting:
            answer = next(iter(self._waiting))
            here = not answer.done() and self._waiting[answer]()
            self._end(answer, hinted=here)
            if here:
                metrics.WAKES.labels("answered").inc()
                return
        metrics.WAKES.labels("kept").inc()
        self._kept_until = asyncio.get_running_loop().time() + KEEP_S

    async def wait(self, timeout_s: float, here: Callable[[], bool]) -> bool:
        """Wait for a hint; tell whether one came in time. `here` tells whether who waits has not left."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._kept_until:
            self._kept_until = float("-inf")
            return True
        # Time, hint, drain and leaving meet in this one future, so that no hint is lost between two of them.
        answer: asyncio.Future[bool] = loop.create_future()
        self._waiting[answer] = here
        timer = loop.call_later(timeout_s, self._end, answer)
        try:
            with metrics.WAITING.track_inprogress():
                return await answer
        finally:
            timer.cancel()
            self._waiting.pop(answer, None)
            if not answer.cancelled() and answer.result() and not here():
                self.hint()  # who got it has left before it could be said

    def drain(self) -> None:
        """Send everyone to another replica."""
        self.draining = True
        for answer in list(self._waiting):
            self._end(answer)

    def _end(self, answer: asyncio.Future[bool], *, hinted: bool = False) -> None:
        self._waiting.pop(answer, None)
        if not answer.done():
            answer.set_result(hinted)


class Wake:
    """Takes hints, and holds the requests of those who wait for one."""

    def __init__(self, bus: Bus, waiters: Waiters) -> None:
        self._bus = bus
        self._waiters = waiters

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/wake", self.hint), web.get("/wake", self.wait)]

    async def hint(self, _request: web.Request) -> web.Response:
        """Pass a hint to every replica; what Redis does not carry is still told here."""
        try:
            async with asyncio.timeout(PUBLISH_S):
                heard = await self._bus.hint()
        except (RedisError, OSError) as error:
            self._waiters.hint()
            log.debug("hint_unpublished", error=type(error).__name__)
            raise ServiceUnavailable("Only this replica's workers were told.", retry_after_s=RETRY_AFTER_S) from error
        if not heard:  # not even by this replica
            self._waiters.hint()
        return web.Response(status=204)

    async def wait(self, request: web.Request) -> web.Response:
        """Answer 200 when a hint comes, 204 when the time is over."""
        request[LONG_POLL] = True
        wish = read_query(request, Wish)
        if self._waiters.draining:
            again = {"Retry-After": str(RETRY_AFTER_S)}
            response = problem_response(503, ServiceUnavailable.code, "This replica stops; ask another.", headers=again)
        else:
            hinted = await self._waiters.wait(wish.timeout_s, lambda: not _left(request))
            response = web.Response(status=200 if hinted else 204)
        if self._waiters.draining:
            response.force_close()  # a new connection finds another replica
        return response


def _left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
