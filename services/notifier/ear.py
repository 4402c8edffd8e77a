"""A subscription to one Redis server: one connection, one owner, and the set of channels that are wanted there.

redis-py's PubSub reconnects by itself, from its reader and from its writers at once, which loses subscriptions and
breaks the connection. So this speaks over a bare connection: callers only change the desired set; the owner subscribes,
and on any error closes the connection and subscribes to the whole set anew. (A writer that meets a connection which its
reader has just closed fails with an AttributeError or RuntimeError.) Every confirmation is told: what was published
before it may be lost.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from headway.backoff import full_jitter_s
from services.notifier import metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

GROUP = 500  # channels in one command
BROKEN = (RedisError, OSError, TimeoutError)
BACKOFF_S, BACKOFF_CAP_S = 0.05, 1.0


class Listener(Protocol):
    """Who is told what an ear hears."""

    def heard(self, channel: bytes, data: bytes) -> None:
        """Take what was published."""

    def confirmed(self, channel: bytes) -> None:
        """Take that a channel is heard from now on."""

    def displaced(self) -> None:
        """Take that channels may be another server's by now."""


class Deaf(ConnectionError):  # noqa: N818 - reads as what it is
    """The other side has said nothing for too long, not even that it is gone."""


class Ear:
    """Hears what is published in the wanted channels of one server."""

    def __init__(
        self, make: Callable[[], AbstractConnection], listener: Listener, deaf_s: float, *, sharded: bool
    ) -> None:
        self._make = make
        self._listener = listener
        self._deaf_s = deaf_s
        self._sharded = sharded
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()
        self._changed = asyncio.Event()
        self._connected = False
        self.heard_at = float("-inf")  # monotonic seconds

    def want(self, channel: str) -> bool:
        """Want a channel; tell whether it is heard already, otherwise it will be confirmed."""
        self._wanted.add(channel)
        self._changed.set()
        return channel in self._confirmed and channel in self._asked

    def forget(self, channel: str) -> None:
        """No longer want a channel."""
        self._wanted.discard(channel)
        self._changed.set()

    async def run(self) -> None:
        """Own the connection for ever: whatever breaks it, subscribe to everything wanted anew."""
        failures = 0
        while True:
            connection = self._make()
            try:
                async with asyncio.timeout(self._deaf_s):
                    await connection.connect()  # type: ignore[no-untyped-call]
                await self._use(connection)
            except (*BROKEN, AttributeError, RuntimeError) as error:  # the last two: see the top
                log.warning("subscription_lost", error=type(error).__name__)
            finally:
                failures = 0 if self._connected else failures + 1
                self._connected = False
                self._asked.clear()
                self._confirmed.clear()
                await connection.disconnect(nowait=True)
            self._listener.displaced()
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
            response: Any = await connection.read_response(disable_decoding=True, timeout=math.inf)
            if not self._connected and self.heard_at > 0:
                metrics.RECONNECTS.inc()
            self._connected = True
            self.heard_at = time.monotonic()
            if isinstance(response, list) and response[0] != b"pong":
                self._take(*response)

    def _take(self, kind: bytes, channel: bytes, data: Any) -> None:
        if kind in (b"message", b"smessage"):
            self._listener.heard(channel, data)
            return
        name = channel.decode()
        if kind in (b"subscribe", b"ssubscribe"):
            self._confirmed.add(name)
            self._listener.confirmed(channel)
        else:
            self._confirmed.discard(name)
            if name in self._asked:  # nobody here has left it: its slot is another server's now
                self._asked.discard(name)
                self._listener.displaced()

    async def _follow(self, connection: AbstractConnection) -> None:
        """Ask for what is wanted and has not been asked for, and leave what no longer is."""
        while True:
            self._changed.clear()
            new, old = self._wanted - self._asked, self._asked - self._wanted
            self._asked = (self._asked | new) - old  # now, since callers change what is wanted while this waits
            for channels, command in ((new, "SUBSCRIBE"), (old, "UNSUBSCRIBE")):
                if channels:
                    await connection.send_packed_command(self._spell(command, list(channels)), check_health=False)
            await self._changed.wait()

    def _spell(self, command: str, channels: list[str]) -> list[bytes]:
        """Spell a command about channels, as few times as may be: a sharded one takes those of one slot only."""
        prefix, size = ("S", 1) if self._sharded else ("", GROUP)
        groups = [channels[start : start + size] for start in range(0, len(channels), size)]
        return [hiredis.pack_command((prefix + command, *group)) for group in groups]  # type: ignore[arg-type]

    async def _ask(self, connection: AbstractConnection) -> None:
        """Make the other side speak: a peer behind a dead network never says that it is gone."""
        asked_at = time.monotonic()
        while True:
            await connection.send_command("PING")
            await asyncio.sleep(self._deaf_s / 2.5)
            if time.monotonic() - max(asked_at, self.heard_at) > self._deaf_s:
                raise Deaf
