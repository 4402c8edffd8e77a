"""The subscription to Redis: one connection, one owner, and a desired set of channels, besides that of wake hints.

redis-py's PubSub reconnects by itself, from its reader and from its writers at once, which loses subscriptions and
breaks the connection. So this speaks over a bare connection: callers only change the desired set; the owner subscribes,
and on any error closes the connection and subscribes to the whole set anew. (A writer that meets a connection which its
reader has just closed fails with an AttributeError or RuntimeError.) Every confirmation is told: what was published
before it may be lost, so that the job must be read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headway.backoff import full_jitter_s
from services.notifier import metrics
from services.notifier.records import PREFIX, channel

log: structlog.stdlib.BoundLogger = structlog.get_logger()

WAKE = b"headway:wake"  # the channel of wake hints
LOST_S = 10.0  # a subscription that is lost for so long makes this replica one to avoid
CANARY_S = 2.0  # how often the connection is asked for an answer
DEAF_S = 5.0  # a connection that says nothing for so long is dead, though nobody has closed it
GROUP = 500  # channels in one command
BROKEN = (RedisError, OSError, TimeoutError)
BACKOFF_S, BACKOFF_CAP_S = 0.05, 1.0


class Bus:
    """Hears what is published of the wanted jobs."""

    def __init__(self, pool: ConnectionPool, heard: Callable[[str, bytes], None], confirmed: Callable[[str], None],
                 hinted: Callable[[], None]) -> None:  # fmt: skip
        self._pool = pool
        self._redis = Redis(connection_pool=pool)
        self._heard = heard
        self._tell_confirmed = confirmed
        self._tell_hinted = hinted
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()
        self._changed = asyncio.Event()
        self.connected = False
        self._lost_at = float("-inf")

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, heard: Callable[[str, bytes], None], confirmed: Callable[[str], None],
        hinted: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[Bus]:  # fmt: skip
        """Make a bus with a connection of its own; `run` opens it."""
        retry = Retry(NoBackoff(), 0)
        pool = ConnectionPool.from_url(url, protocol=2, retry=retry, socket_timeout=DEAF_S, health_check_interval=0)
        try:
            yield cls(pool, heard, confirmed, hinted)
        finally:
            await pool.aclose()

    @property
    def ready(self) -> bool:
        """Tell whether watchers hear of changes; a short loss is made good, and all replicas share one Redis."""
        return self.connected or time.monotonic() - self._lost_at < LOST_S

    def want(self, job_id: str) -> bool:
        """Want to hear of a job; tell whether that is already so, otherwise it will be confirmed."""
        self._wanted.add(job_id)
        self._changed.set()
        return job_id in self._confirmed and job_id in self._asked

    def forget(self, job_id: str) -> None:
        """No longer want to hear of a job."""
        self._wanted.discard(job_id)
        self._changed.set()

    async def hint(self) -> bool:
        """Publish a wake hint; tell whether any replica heard it. Raises RedisError or OSError when Redis is away."""
        return bool(await self._redis.publish(WAKE, b""))

    async def run(self) -> None:
        """Own the connection for ever: whatever breaks it, subscribe to everything wanted anew."""
        failures = 0
        while True:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._use(connection)
            except (*BROKEN, AttributeError, RuntimeError) as error:  # the last two: see the top
                log.warning("subscription_lost", error=type(error).__name__)
            finally:
                failures = 0 if self.connected else failures + 1
                self._lost_at = time.monotonic() if self.connected else self._lost_at
                self.connected = False
                self._asked.clear()
                self._confirmed.clear()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, BACKOFF_CAP_S))

    async def _use(self, connection: AbstractConnection) -> None:
        """Do all that there is to do on a connection, until something fails."""
        # No task group: one whose part fails in the moment of its cancellation forgets that it was cancelled.
        parts = [asyncio.create_task(part(connection)) for part in (self._listen, self._follow, self._ask)]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        done.pop().result()

    async def _listen(self, connection: AbstractConnection) -> None:
        while True:
            response: Any = await connection.read_response(disable_decoding=True)
            if not self.connected and self._lost_at > 0:
                metrics.RECONNECTS.inc()
            self.connected = True
            if isinstance(response, list) and response[0] != b"pong":
                self._take(*response)

    def _take(self, kind: bytes, name: bytes, data: Any) -> None:
        if name == WAKE:
            self._tell_hinted()  # at the confirmation, too: what was published before it may be lost
            return
        job_id = name[len(PREFIX) : -1].decode()
        if kind == b"message":
            self._heard(job_id, data)
        elif kind == b"subscribe":
            self._confirmed.add(job_id)
            self._tell_confirmed(job_id)
        elif kind == b"unsubscribe":
            self._confirmed.discard(job_id)

    async def _follow(self, connection: AbstractConnection) -> None:
        """Ask for what is wanted and has not been asked for, and leave what no longer is."""
        await connection.send_command("SUBSCRIBE", WAKE)
        while True:
            self._changed.clear()
            new, old = self._wanted - self._asked, self._asked - self._wanted
            self._asked = (self._asked | new) - old  # now, since callers change what is wanted while this waits
            for names, command in ((new, "SUBSCRIBE"), (old, "UNSUBSCRIBE")):
                channels = [channel(job_id) for job_id in names]
                for start in range(0, len(channels), GROUP):
                    await connection.send_command(command, *channels[start : start + GROUP])
            await self._changed.wait()

    async def _ask(self, connection: AbstractConnection) -> None:
        """Make the other side speak: a peer behind a dead network never says that it is gone."""
        while True:
            await connection.send_command("PING")
            await asyncio.sleep(CANARY_S)
