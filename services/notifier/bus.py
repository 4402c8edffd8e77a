"""What is published of the wanted jobs, and wake hints: one ear at each Redis server that keeps some of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog
from redis.exceptions import RedisError

from services.notifier import metrics
from services.notifier.ear import Ear
from services.notifier.records import PREFIX, channel
from services.notifier.servers import Server, Servers

log: structlog.stdlib.BoundLogger = structlog.get_logger()

WAKE = "headway:wake"  # the channel of wake hints
WAKE_NAME = WAKE.encode()
LOST = 2  # a subscription that is lost for so many times `deaf_s` makes this replica one to avoid
REFRESH_S = 0.25


class Bus:
    """Hears what is published of the wanted jobs."""

    def __init__(
        self,
        servers: Servers,
        heard: Callable[[str, bytes], None],
        confirmed: Callable[[str], None],
        hinted: Callable[[], None] = lambda: None,
        *,
        deaf_s: float = 5.0,
    ) -> None:
        self._servers = servers
        self._tell_heard = heard
        self._tell_confirmed = confirmed
        self._tell_hinted = hinted
        self._deaf_s = deaf_s
        self._placed: dict[str, Ear | None] = {WAKE: None}  # who hears each wanted channel
        self._ears: dict[Server, Ear] = {}
        self._owners: dict[Server, asyncio.Task[None]] = {}
        metrics.REDIS_UP.set_function(lambda: self.ready)

    @property
    def ready(self) -> bool:
        """Tell whether watchers hear of changes; a short loss is made good, and all replicas share one Redis."""
        since = time.monotonic() - LOST * self._deaf_s
        return bool(self._ears) and all(ear.heard_at > since for ear in self._ears.values())

    def want(self, job_id: str) -> bool:
        """Want to hear of a job; tell whether that is already so, otherwise it will be confirmed."""
        name = channel(job_id)
        ear = self._placed.get(name) or self._ear(name)
        self._placed[name] = ear
        return ear is not None and ear.want(name)

    def forget(self, job_id: str) -> None:
        """No longer want to hear of a job."""
        name = channel(job_id)
        if ear := self._placed.pop(name, None):
            ear.forget(name)

    async def hint(self) -> bool:
        """Publish a wake hint; tell whether any replica heard it. Raises RedisError or OSError when Redis is away."""
        publish = "SPUBLISH" if self._servers.sharded else "PUBLISH"
        (heard,) = await self._servers.run([(WAKE, (publish, WAKE, b""))])
        if isinstance(heard, RedisError):
            raise heard
        return bool(heard)

    def heard(self, name: bytes, data: bytes) -> None:
        """Take what an ear heard."""
        if name == WAKE_NAME:
            self._tell_hinted()
        else:
            self._tell_heard(_job_id(name), data)

    def confirmed(self, name: bytes) -> None:
        """Take that an ear hears a channel from now on: what was published before it may be lost."""
        if name == WAKE_NAME:
            self._tell_hinted()
        else:
            self._tell_confirmed(_job_id(name))

    def displaced(self) -> None:
        """Take that channels may be another server's by now."""
        self._servers.changed.set()

    async def run(self) -> None:
        """Keep an ear at every server, and every wanted channel with the ear of its server, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._servers.changed.clear()
                try:
                    await self._servers.refresh()
                except (RedisError, OSError) as error:
                    log.warning("servers_unknown", error=type(error).__name__)
                    self._servers.changed.set()
                self._place(group)
                await asyncio.sleep(REFRESH_S)  # an ear that fails says so each time
                await self._servers.changed.wait()

    def _place(self, group: asyncio.TaskGroup) -> None:
        servers = self._servers.all()
        for server in servers - self._ears.keys():
            make = partial(self._servers.connection, server)
            self._ears[server] = Ear(make, self, self._deaf_s, sharded=self._servers.sharded)
            self._owners[server] = group.create_task(self._ears[server].run())
        for name, before in self._placed.items():
            now = self._ear(name)
            if before is not None and now is not before:
                before.forget(name)
            if now is not None:
                now.want(name)  # again, if it has lost that
            self._placed[name] = now
        for server in self._ears.keys() - servers:
            del self._ears[server]
            self._owners.pop(server).cancel()

    def _ear(self, name: str) -> Ear | None:
        """Return the ear at the server that keeps a channel, None while nobody knows which."""
        try:
            return self._ears.get(self._servers.keeper(name))
        except RedisError:
            return None


def _job_id(name: bytes) -> str:
    return name[len(PREFIX) : -1].decode()
