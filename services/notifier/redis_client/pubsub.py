"""Publish and subscribe, with one subscriber for each Redis node."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from .. import metrics
from .connector import NodeAddress
from .subscriber import Subscriber
from .topology import RedisClient, SlotNotCovered

log: structlog.stdlib.BoundLogger = structlog.get_logger()

UNREADY_AFTER_TIMEOUTS = 2  # a subscription without activity for this many timeouts makes the replica unready
MIN_REFRESH_INTERVAL_S = 0.25  # between two updates of the routes


class ChannelHandler(Protocol):
    """Handles the events of a channel."""

    def on_publication(self, channel: str, data: bytes) -> None:
        """Called with each published message."""

    def on_subscribed(self, channel: str) -> None:
        """Called when Redis confirms a subscription. Earlier messages may have been missed."""


class PubSub:
    """The subscriptions of this replica."""

    def __init__(self, redis: RedisClient, *, subscription_timeout_s: float = 5.0) -> None:
        self._redis = redis
        self._subscription_timeout_s = subscription_timeout_s
        self._handlers: dict[str, ChannelHandler] = {}
        self._routes: dict[str, Subscriber | None] = {}  # by channel; None while its node is unknown
        self._subscribers: dict[NodeAddress, Subscriber] = {}
        self._subscriber_tasks: dict[NodeAddress, asyncio.Task[None]] = {}
        self._created_at = time.monotonic()
        metrics.REDIS_UP.set_function(lambda: self.ready)

    @property
    def ready(self) -> bool:
        """Whether all subscriptions are healthy. A short interruption does not make the replica unready."""
        since = time.monotonic() - UNREADY_AFTER_TIMEOUTS * self._subscription_timeout_s
        subscribers = self._subscribers.values()
        return bool(subscribers) and all(subscriber.last_activity > since for subscriber in subscribers)

    def is_lost_for(self, seconds: float) -> bool:
        """Return whether the replica is unready, and a node has sent nothing for longer than some seconds."""
        last = [max(subscriber.created_at, subscriber.last_activity) for subscriber in self._subscribers.values()]
        return not self.ready and time.monotonic() - min(last, default=self._created_at) > seconds

    def subscribe(self, channel: str, handler: ChannelHandler) -> bool:
        """Subscribe to a channel; return whether Redis has confirmed it already. If not, `on_subscribed` follows."""
        self._handlers[channel] = handler
        subscriber = self._routes.get(channel) or self._subscriber_for(channel)
        self._routes[channel] = subscriber
        return subscriber is not None and subscriber.subscribe(channel)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel."""
        self._handlers.pop(channel, None)
        if subscriber := self._routes.pop(channel, None):
            subscriber.unsubscribe(channel)

    async def publish(self, channel: str, data: bytes) -> int:
        """Publish a message and return the number of receivers.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        command = "SPUBLISH" if self._redis.sharded else "PUBLISH"
        (receivers,) = await self._redis.execute([(channel, (command, channel, data))])
        if isinstance(receivers, RedisError):
            raise receivers
        return int(receivers)

    def on_message(self, channel: bytes, data: bytes) -> None:
        """Called by a subscriber with each message."""
        name = channel.decode()
        if (handler := self._handlers.get(name)) is not None:
            handler.on_publication(name, data)

    def on_subscribed(self, channel: bytes) -> None:
        """Called by a subscriber when Redis confirms a subscription."""
        name = channel.decode()
        if (handler := self._handlers.get(name)) is not None:
            handler.on_subscribed(name)

    def on_slots_moved(self) -> None:
        """Called by a subscriber when channels may have moved to another node."""
        self._redis.topology_changed.set()

    async def run(self) -> None:
        """Run one subscriber per node and keep each channel with the subscriber of its node, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._redis.topology_changed.clear()
                try:
                    await self._redis.refresh_slots()
                except SlotNotCovered as error:
                    log.warning("redis_topology_refresh_failed", reason=str(error))
                    self._redis.topology_changed.set()
                self._update_routes(group)
                await asyncio.sleep(MIN_REFRESH_INTERVAL_S)  # a failing subscriber signals a change each time
                await self._redis.topology_changed.wait()

    def _update_routes(self, group: asyncio.TaskGroup) -> None:
        nodes = self._redis.nodes()
        for node in nodes - self._subscribers.keys():
            connect = partial(self._redis.connect, node)
            address = partial(self._redis.address, node)
            subscriber = Subscriber(
                connect, self, self._subscription_timeout_s, sharded=self._redis.sharded, address=address
            )
            self._subscribers[node] = subscriber
            self._subscriber_tasks[node] = group.create_task(subscriber.run())
        for channel, previous in self._routes.items():
            current = self._subscriber_for(channel)
            if previous is not None and current is not previous:
                previous.unsubscribe(channel)
            if current is not None:
                current.subscribe(channel)  # even if unchanged: Redis may have ended the subscription
            self._routes[channel] = current
        for node in self._subscribers.keys() - nodes:
            del self._subscribers[node]
            self._subscriber_tasks.pop(node).cancel()

    def _subscriber_for(self, channel: str) -> Subscriber | None:
        """Return the subscriber of the channel's node, or None if the node is unknown."""
        try:
            return self._subscribers.get(self._redis.node_for_key(channel))
        except RedisError:
            return None
