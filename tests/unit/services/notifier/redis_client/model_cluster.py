"""A model of publish/subscribe in Redis: its nodes process commands, and deliver replies, only when a test says so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError

from services.notifier.redis_client.connection import Command, RespProtocol
from services.notifier.redis_client.connector import ConnectionOptions, Connector, NodeAddress
from services.notifier.redis_client.topology import RedisClient

NODES = (NodeAddress("a.example", 6_379), NodeAddress("b.example", 6_379))


class ModelConnection(RespProtocol):
    """A subscriber's connection: the commands that the node has not processed, and the replies not yet delivered."""

    def __init__(self, cluster: ModelCluster, node: NodeAddress) -> None:
        super().__init__()
        self.node = node
        self.is_open = True
        self.subscribed: set[str] = set()  # the channels, according to the node
        self.commands: deque[Command] = deque()
        self.replies: deque[Any] = deque()
        self._cluster = cluster

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands; the node processes them later."""
        if not self.is_open:
            raise RedisConnectionError
        self._cluster.sent.extend(commands)
        self.commands.extend(commands)

    def close(self) -> None:
        """Close the connection. The node drops its subscriptions."""
        if self.is_open:
            self.is_open = False
            self.subscribed.clear()
            asyncio.get_running_loop().call_soon(self.connection_lost, None)

    def process(self) -> None:
        """Process the oldest command."""
        name, *channels = self.commands.popleft()
        if name == "PING":
            self.replies.append([b"pong", b""])
        for channel in channels:
            self.replies.append(self._reply(name, channel))

    def _reply(self, command: str, channel: str) -> Any:
        if self._cluster.owners[channel] != self.node:
            return MovedError(f"{key_slot(channel.encode())} {self._cluster.owners[channel]}")
        if command.endswith("UNSUBSCRIBE"):
            self.subscribed.discard(channel)
        else:
            self.subscribed.add(channel)
        return [command.lower().encode(), channel.encode(), len(self.subscribed)]

    def deliver(self) -> None:
        """Deliver the oldest reply."""
        self._on_reply(self.replies.popleft())

    def end_subscription(self, channel: str) -> None:
        """End a subscription, as a node does whose slots have moved."""
        if channel in self.subscribed:
            self.subscribed.remove(channel)
            self.replies.append([b"sunsubscribe", channel.encode(), len(self.subscribed)])


class ModelCluster(RedisClient):
    """A client of a modelled cluster, or of a single server if it is not sharded.

    Attributes:
        owners: the node that serves each channel. The client has an older copy until it refreshes the slots.
        connections: all connections so far.
        sent: all commands so far.
        may_refresh: lets the client refresh the slots once.
    """

    sharded = True

    def __init__(self, channels: Sequence[str], *, sharded: bool) -> None:
        super().__init__(Connector(ConnectionOptions(), None, primary_only=False))
        self.sharded = sharded  # type: ignore[misc]
        self._nodes = NODES if sharded else NODES[:1]
        self.owners = {name: self._nodes[key_slot(name.encode()) % len(self._nodes)] for name in channels}
        self._known_owners = dict(self.owners)
        self.connections: list[ModelConnection] = []
        self.sent: list[Command] = []
        self.may_refresh = asyncio.Event()

    def nodes(self) -> set[NodeAddress]:
        """Return all nodes."""
        return set(self._nodes)

    def node_for_key(self, key: str) -> NodeAddress:
        """Return the node that served a channel when the slots were last refreshed."""
        return self._known_owners[key]

    async def connect(self, node: NodeAddress) -> RespProtocol:
        """Open a connection."""
        self.connections.append(ModelConnection(self, node))
        return self.connections[-1]

    async def refresh_slots(self) -> None:
        """Wait until the test allows it, and copy the owners."""
        await self.may_refresh.wait()
        self.may_refresh.clear()
        self._known_owners = dict(self.owners)

    def execute(self, commands: Sequence[tuple[str, Command]]) -> Awaitable[list[Any]]:
        """Raise NotImplementedError: the model knows only subscriptions."""
        raise NotImplementedError

    def move(self, channel: str) -> None:
        """Move a channel, and with it the others of its slot, to the next node."""
        slot = key_slot(channel.encode())
        for name in [name for name in self.owners if key_slot(name.encode()) == slot]:
            self.owners[name] = self._nodes[(self._nodes.index(self.owners[name]) + 1) % len(self._nodes)]
            for connection in self.open_connections():
                if connection.node != self.owners[name]:
                    connection.end_subscription(name)

    def open_connections(self, *, where: Callable[[ModelConnection], object] = lambda _: True) -> list[ModelConnection]:
        """Return the open connections that fulfil a condition, the oldest first."""
        return [connection for connection in self.connections if connection.is_open and where(connection)]

    def subscriptions(self) -> dict[str, NodeAddress]:
        """Return the nodes at which channels are subscribed, by channel; fail if a channel is at two nodes."""
        pairs = [(name, connection.node) for connection in self.open_connections() for name in connection.subscribed]
        assert len(pairs) == len(dict(pairs)), pairs
        return dict(pairs)

    async def settle(self) -> None:
        """Process all commands and deliver all replies, until there are no more."""
        idle_iterations = 0
        while idle_iterations < 10:  # the tasks of a PubSub need a few iterations of the event loop
            idle_iterations += 1
            self.may_refresh.set()
            for connection in self.open_connections(where=lambda connection: connection.commands or connection.replies):
                while connection.commands:
                    connection.process()
                while connection.is_open and connection.replies:
                    connection.deliver()
                idle_iterations = 0
            await asyncio.sleep(0)
