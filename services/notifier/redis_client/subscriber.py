"""The subscriptions on one Redis node: a set of wanted channels, and one connection that is owned by one task.

redis-py's PubSub reconnects from its reader and from its writers concurrently, which loses subscriptions and breaks the
connection. Here callers only change the set of wanted channels. The owning task subscribes to them. When the connection
ends, it opens another one and subscribes to the whole set again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Protocol

import structlog
from redis.exceptions import RedisError

from headway.backoff import full_jitter_s

from .. import metrics
from .connection import Connect, RespProtocol

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CHANNELS_PER_COMMAND = 500
BACKOFF_S, BACKOFF_CAP_S = 0.05, 1.0
MESSAGE_KINDS = (b"message", b"smessage")
PINGS_PER_TIMEOUT = 2.5


class ChannelListener(Protocol):
    """Listens to the events of a subscriber."""

    def on_message(self, channel: bytes, data: bytes) -> None:
        """Called with each published message."""

    def on_subscribed(self, channel: bytes) -> None:
        """Called when Redis confirms a subscription. Earlier messages may have been missed."""

    def on_slots_moved(self) -> None:
        """Called when channels may have moved to another node."""


class Subscriber:
    """Receives the messages that are published on the wanted channels of one node."""

    def __init__(
        self,
        connect: Connect,
        listener: ChannelListener,
        subscription_timeout_s: float,
        *,
        sharded: bool,
    ) -> None:
        self._connect = connect
        self._listener = listener
        self._subscription_timeout_s = subscription_timeout_s
        self._sharded = sharded
        self._wanted: set[str] = set()
        self._requested: set[str] = set()
        self._confirmed: set[str] = set()
        self._protocol: RespProtocol | None = None
        self._sync_scheduled = False
        self.created_at = time.monotonic()
        self.last_activity = float("-inf")  # monotonic seconds

    def subscribe(self, channel: str) -> bool:
        """Add a wanted channel; return whether Redis has confirmed it already. If not, `on_subscribed` follows."""
        self._wanted.add(channel)
        self._schedule_sync()
        return channel in self._confirmed and channel in self._requested

    def unsubscribe(self, channel: str) -> None:
        """Remove a wanted channel."""
        self._wanted.discard(channel)
        self._schedule_sync()

    async def run(self) -> None:
        """Keep a connection open and subscribed to the wanted channels, until cancelled."""
        failures = 0
        while True:
            started_at = time.monotonic()
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.warning("redis_subscription_lost", error=type(error).__name__)
            failures = 0 if self.last_activity > started_at else failures + 1
            self._listener.on_slots_moved()
            await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, BACKOFF_CAP_S))

    async def _listen(self) -> None:
        """Receive messages on one connection.

        Raises:
            RedisError, OSError: the connection ended, or the server was silent for too long.
        """
        lost = asyncio.Event()
        async with asyncio.timeout(self._subscription_timeout_s):
            self._protocol = protocol = await self._connect()
        protocol.listen(self._on_reply, lost.set)
        if self.last_activity > 0:
            metrics.RECONNECTS.inc()
        try:
            opened_at = time.monotonic()
            self._schedule_sync()
            while time.monotonic() - max(opened_at, self.last_activity) < self._subscription_timeout_s:
                protocol.send([("PING",)])
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._subscription_timeout_s / PINGS_PER_TIMEOUT):
                        await lost.wait()
                        raise ConnectionError
            raise TimeoutError
        finally:
            self._protocol = None
            self._requested.clear()
            self._confirmed.clear()
            protocol.close()

    def _on_reply(self, reply: Any) -> None:
        if self._protocol is None:
            return  # the connection is being closed
        self.last_activity = time.monotonic()
        if isinstance(reply, list) and len(reply) == 3:
            kind, channel, data = reply
            if kind in MESSAGE_KINDS:
                self._listener.on_message(channel, data)
            else:
                self._on_subscription_change(kind, channel)
        elif isinstance(reply, RedisError):  # SSUBSCRIBE to a channel whose slot has moved
            self._protocol.close()

    def _on_subscription_change(self, kind: bytes, channel: bytes) -> None:
        name = channel.decode()
        if kind in (b"subscribe", b"ssubscribe"):
            self._confirmed.add(name)
            self._listener.on_subscribed(channel)
        else:
            self._confirmed.discard(name)
            if name in self._requested:  # Redis ended the subscription: the channel's slot has moved
                self._requested.discard(name)
                self._listener.on_slots_moved()

    def _schedule_sync(self) -> None:
        """Synchronize once for all changes of this event-loop iteration."""
        if not self._sync_scheduled:
            self._sync_scheduled = True
            asyncio.get_running_loop().call_soon(self._sync_subscriptions)

    def _sync_subscriptions(self) -> None:
        """Subscribe to the wanted channels that were not requested yet; unsubscribe from those no longer wanted."""
        self._sync_scheduled = False
        if self._protocol is None:
            return
        added, removed = self._wanted - self._requested, self._requested - self._wanted
        self._requested = (self._requested | added) - removed
        try:
            self._protocol.send(
                self._commands("SUBSCRIBE", list(added)) + self._commands("UNSUBSCRIBE", list(removed)),
            )
        except RedisError:
            self._protocol.close()

    def _commands(self, command: str, channels: list[str]) -> list[tuple[str, ...]]:
        """Return commands for channels, up to CHANNELS_PER_COMMAND each; a sharded command accepts only one slot."""
        prefix, size = ("S", 1) if self._sharded else ("", CHANNELS_PER_COMMAND)
        return [(prefix + command, *channels[start : start + size]) for start in range(0, len(channels), size)]
