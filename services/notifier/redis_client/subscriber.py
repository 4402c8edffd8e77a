"""The subscriptions on one Redis node: a set of wanted channels, and one connection that is owned by one task.

redis-py's PubSub reconnects from its reader and from its writers concurrently, which loses subscriptions and breaks the
connection. Here callers only change the set of wanted channels. The owning task subscribes to them. When the connection
ends, it opens another one and subscribes to the whole set again.

Each channel has at most one request in flight, so that a reply always belongs to the last request. If the channel was
added or removed meanwhile, the reply leads to the next request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Protocol

import structlog
from redis.crc import key_slot
from redis.exceptions import MovedError, RedisError

from headway.backoff import full_jitter_s

from .. import metrics
from .connection import Connect, RespProtocol

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CHANNELS_PER_COMMAND = 500
BACKOFF_S, BACKOFF_CAP_S = 0.05, 1.0
MESSAGE_KINDS = (b"message", b"smessage")
SUBSCRIBE_KINDS = (b"subscribe", b"ssubscribe")
PINGS_PER_TIMEOUT = 2.5


class ChannelListener(Protocol):
    """Listens to the events of a subscriber."""

    def on_message(self, channel: bytes, data: bytes) -> None:
        """Called with each published message."""

    def on_subscribed(self, channel: bytes) -> None:
        """Called when Redis confirms a subscription. Earlier messages may have been missed."""

    def on_slots_moved(self) -> None:
        """Called when channels may have moved to another node."""


class _ChannelState(Enum):
    """What was last requested for a channel on the open connection, and whether Redis has confirmed it."""

    SUBSCRIBING = auto()
    SUBSCRIBED = auto()
    UNSUBSCRIBING = auto()  # its confirmation removes the state


class Subscriber:
    """Receives the messages that are published on the wanted channels of one node.

    Args:
        connect: opens a connection to the node.
        listener: listens to the events.
        subscription_timeout_s: after how long without a reply the connection counts as lost.
        sharded: whether to subscribe with SSUBSCRIBE.
        address: returns the node's address, for logs.
    """

    def __init__(
        self,
        connect: Connect,
        listener: ChannelListener,
        subscription_timeout_s: float,
        *,
        sharded: bool,
        address: Callable[[], str],
    ) -> None:
        self._connect = connect
        self._listener = listener
        self._subscription_timeout_s = subscription_timeout_s
        self._sharded = sharded
        self._address = address
        self._wanted: set[str] = set()
        self._states: dict[str, _ChannelState] = {}
        self._changed: set[str] = set()  # the channels to synchronize in the next event-loop iteration
        self._moved_slots: set[int] = set()  # in which requests were refused in this iteration
        self._protocol: RespProtocol | None = None
        self.created_at = time.monotonic()
        self.last_activity = float("-inf")  # monotonic seconds

    def subscribe(self, channel: str) -> bool:
        """Add a wanted channel; return whether Redis has confirmed it already. If not, `on_subscribed` follows."""
        self._wanted.add(channel)
        self._schedule_sync(channel)
        return self._states.get(channel) is _ChannelState.SUBSCRIBED

    def unsubscribe(self, channel: str) -> None:
        """Remove a wanted channel."""
        self._wanted.discard(channel)
        self._schedule_sync(channel)

    async def run(self) -> None:
        """Keep a connection open and subscribed to the wanted channels, until cancelled."""
        failures = 0
        while True:
            started_at = time.monotonic()
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.warning("redis_subscription_lost", address=self._address(), error=type(error).__name__)
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
            self._schedule_sync(*self._wanted)
            while time.monotonic() - max(opened_at, self.last_activity) < self._subscription_timeout_s:
                protocol.send([("PING",)])
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._subscription_timeout_s / PINGS_PER_TIMEOUT):
                        await lost.wait()
                        raise ConnectionError
            raise TimeoutError
        finally:
            self._protocol = None
            self._states.clear()
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
        elif isinstance(reply, MovedError):
            self._on_moved(reply.slot_id)
        elif isinstance(reply, RedisError):
            self._protocol.close()

    def _on_subscription_change(self, kind: bytes, channel: bytes) -> None:
        name = channel.decode()
        state = self._states.get(name)
        if kind in SUBSCRIBE_KINDS:
            self._states[name] = _ChannelState.SUBSCRIBED
            self._listener.on_subscribed(channel)
        elif state is _ChannelState.UNSUBSCRIBING:
            del self._states[name]
        elif state is _ChannelState.SUBSCRIBED:  # Redis ended the subscription: the channel's slot has moved
            del self._states[name]
            self._listener.on_slots_moved()
            return
        # In other states it is the late reply to an UNSUBSCRIBE during which Redis ended the subscription, too.
        if (name in self._wanted) != (name in self._states):  # added or removed since the request
            self._schedule_sync(name)

    def _on_moved(self, slot: int) -> None:
        """Called when Redis refuses to subscribe or unsubscribe a channel, because the channel's slot has moved."""
        if not self._moved_slots:  # after a failover, thousands of errors arrive together
            asyncio.get_running_loop().call_soon(self._drop_refused_requests)
        self._moved_slots.add(slot)

    def _drop_refused_requests(self) -> None:
        """Forget the requests for channels in moved slots. The errors name only the slot, in which none succeeded."""
        moved, self._moved_slots = self._moved_slots, set()
        in_flight = [name for name, state in self._states.items() if state is not _ChannelState.SUBSCRIBED]
        for name in in_flight:
            if key_slot(name.encode()) in moved:
                del self._states[name]
        self._listener.on_slots_moved()

    def _schedule_sync(self, *channels: str) -> None:
        """Synchronize once for all changes of this event-loop iteration."""
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._sync_subscriptions)
        self._changed.update(channels)

    def _sync_subscriptions(self) -> None:
        """Send the requests for the changed channels. A channel with a request in flight waits for the reply."""
        changed, self._changed = self._changed, set()
        if self._protocol is None:
            return
        added = [name for name in changed & self._wanted if name not in self._states]
        removed = [name for name in changed - self._wanted if self._states.get(name) is _ChannelState.SUBSCRIBED]
        self._states.update(dict.fromkeys(added, _ChannelState.SUBSCRIBING))
        self._states.update(dict.fromkeys(removed, _ChannelState.UNSUBSCRIBING))
        try:
            self._protocol.send(self._commands("SUBSCRIBE", added) + self._commands("UNSUBSCRIBE", removed))
        except RedisError:
            self._protocol.close()

    def _commands(self, command: str, channels: list[str]) -> list[tuple[str, ...]]:
        """Return commands for channels, up to CHANNELS_PER_COMMAND each; a sharded command accepts only one slot."""
        prefix, size = ("S", 1) if self._sharded else ("", CHANNELS_PER_COMMAND)
        return [(prefix + command, *channels[start : start + size]) for start in range(0, len(channels), size)]
