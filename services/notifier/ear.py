"""A subscription to one Redis server: one connection, one owner, and the set of channels that are wanted there.

redis-py's PubSub reconnects by itself, from its reader and from its writers at once, which loses subscriptions and
breaks the connection. Here callers only change the desired set; the owner subscribes, and when the connection ends it
subscribes to the whole set anew. Every confirmation is told: what was published before it may be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from headway.backoff import full_jitter_s
from services.notifier import metrics
from services.notifier.wire import Wire

log: structlog.stdlib.BoundLogger = structlog.get_logger()

GROUP = 500  # channels in one command
BACKOFF_S, BACKOFF_CAP_S = 0.05, 1.0
PUBLISHED = (b"message", b"smessage")
CANARIES = 2.5  # how often, while it would count as deaf, a connection is asked for an answer


class Listener(Protocol):
    """Who is told what an ear hears."""

    def heard(self, channel: bytes, data: bytes) -> None:
        """Take what was published."""

    def confirmed(self, channel: bytes) -> None:
        """Take that a channel is heard from now on."""

    def displaced(self) -> None:
        """Take that channels may be another server's by now."""


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
        self._wire: Wire | None = None
        self._due = False  # whether what is asked for will be looked at in this turn of the loop
        self.heard_at = float("-inf")  # monotonic seconds

    def want(self, channel: str) -> bool:
        """Want a channel; tell whether it is heard already, otherwise it will be confirmed."""
        self._wanted.add(channel)
        self._change()
        return channel in self._confirmed and channel in self._asked

    def forget(self, channel: str) -> None:
        """No longer want a channel."""
        self._wanted.discard(channel)
        self._change()

    async def run(self) -> None:
        """Own the connection for ever: whatever breaks it, subscribe to everything wanted anew."""
        failures = 0
        while True:
            began_at = time.monotonic()
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.warning("subscription_lost", error=type(error).__name__)
            failures = 0 if self.heard_at > began_at else failures + 1
            self._listener.displaced()
            await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, BACKOFF_CAP_S))

    async def _listen(self) -> None:
        """Hear what there is on one connection, until it ends or says nothing any more: not every peer says goodbye."""
        lost = asyncio.Event()
        async with asyncio.timeout(self._deaf_s):
            wire = await Wire.open(self._make(), self._take, lost.set)
        self._wire = wire
        if self.heard_at > 0:
            metrics.RECONNECTS.inc()
        try:
            opened_at = time.monotonic()
            self._change()
            while time.monotonic() - max(opened_at, self.heard_at) < self._deaf_s:
                wire.send([("PING",)])
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._deaf_s / CANARIES):
                        await lost.wait()
                        raise ConnectionError
            raise TimeoutError
        finally:
            self._wire = None
            self._asked.clear()
            self._confirmed.clear()
            wire.close()

    def _take(self, answer: Any) -> None:
        if self._wire is None:
            return  # what a connection says that is given up
        self.heard_at = time.monotonic()
        if isinstance(answer, list) and len(answer) == 3:
            kind, channel, data = answer
            if kind in PUBLISHED:
                self._listener.heard(channel, data)
            else:
                self._changed(kind, channel)
        elif isinstance(answer, ResponseError):  # a channel whose slot is another server's by now
            self._wire.close()

    def _changed(self, kind: bytes, channel: bytes) -> None:
        name = channel.decode()
        if kind in (b"subscribe", b"ssubscribe"):
            self._confirmed.add(name)
            self._listener.confirmed(channel)
        else:
            self._confirmed.discard(name)
            if name in self._asked:  # nobody here has left it: its slot is another server's now
                self._asked.discard(name)
                self._listener.displaced()

    def _change(self) -> None:
        """Look at what is wanted once this turn of the loop has changed it."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._follow)

    def _follow(self) -> None:
        """Ask for what is wanted and has not been asked for, and leave what no longer is."""
        self._due = False
        if self._wire is None:
            return
        new, old = self._wanted - self._asked, self._asked - self._wanted
        self._asked = (self._asked | new) - old
        try:
            self._wire.send(self._spelt("SUBSCRIBE", list(new)) + self._spelt("UNSUBSCRIBE", list(old)))
        except RedisError:
            self._wire.close()

    def _spelt(self, command: str, channels: list[str]) -> list[tuple[str, ...]]:
        """Spell commands about channels, as few as may be: a sharded one takes those of one slot only."""
        prefix, size = ("S", 1) if self._sharded else ("", GROUP)
        return [(prefix + command, *channels[start : start + size]) for start in range(0, len(channels), size)]
