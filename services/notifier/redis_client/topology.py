"""The topologies of Redis: one server, a primary named by Sentinel, or the primaries of a cluster.

Callers pass the key of each command. The topology finds the node that serves the key, and the connection to that node.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import structlog
from redis.asyncio.sentinel import Sentinel
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError

from .connection import Command, MultiplexedConnection, RespProtocol
from .connector import Connector, NodeAddress

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_REDIRECTS = 5  # of one command
MIN_REFRESH_INTERVAL_S = 0.1  # between two CLUSTER SLOTS
SLOTS_TIMEOUT_S = 1.0  # per node; then the next node is tried


class SlotNotCovered(RedisError):
    """No known node serves the key's slot. The message names no secrets and may be logged."""


DEFAULT_NODE = NodeAddress("", 0)  # the only node outside a cluster; its client knows the real address


class RedisClient(ABC):
    """A client for one topology, with one multiplexed connection to each node."""

    sharded: ClassVar[bool]  # whether to publish with SPUBLISH, within the shard of the channel's slot

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._connections: dict[NodeAddress, MultiplexedConnection] = {}
        self.topology_changed = asyncio.Event()  # set when a key may have moved to another node

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    @abstractmethod
    def nodes(self) -> set[NodeAddress]:
        """Return the known nodes that serve keys."""

    @abstractmethod
    def node_for_key(self, key: str) -> NodeAddress:
        """Return the node that serves a key; raise SlotNotCovered if none is known."""

    @abstractmethod
    async def connect(self, node: NodeAddress) -> RespProtocol:
        """Open another connection to a node.

        Raises:
            RedisError, OSError: the node is unavailable, refuses the connection or is not the primary.
        """

    def address(self, node: NodeAddress) -> str:
        """Return the address of a node for logs."""
        return str(node)

    @abstractmethod
    async def refresh_slots(self) -> None:
        """Read which node serves which slot; raise SlotNotCovered if no node can be reached."""

    @abstractmethod
    def execute(self, commands: Sequence[tuple[str, Command]]) -> Awaitable[list[Any]]:
        """Run commands, each on the node of its key, and return their replies.

        An error reply is returned as an exception in the list.

        Raises:
            RedisError: a node is unavailable, or a connection was lost before all replies arrived. Any of the commands
                may have run.
            OSError: as for RedisError.
        """

    async def execute_on(self, node: NodeAddress, commands: Sequence[Command]) -> list[Any]:
        """Run commands on a node and return their replies, as `execute` does, but without following redirects."""
        return await self._connection_to(node).execute(commands)

    def _connection_to(self, node: NodeAddress) -> MultiplexedConnection:
        connection = self._connections.get(node)
        if connection is None:
            connection = self._connections[node] = MultiplexedConnection(partial(self.connect, node))
        return connection

    async def aclose(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            await connection.aclose()


class StandaloneRedis(RedisClient):
    """One server, which serves every key."""

    sharded = False

    def __init__(self, connector: Connector, address: NodeAddress) -> None:
        super().__init__(connector)
        self._address = address

    def nodes(self) -> set[NodeAddress]:
        """Return the server."""
        return {DEFAULT_NODE}

    def node_for_key(self, key: str) -> NodeAddress:  # noqa: ARG002
        """Return the server."""
        return DEFAULT_NODE

    def address(self, node: NodeAddress) -> str:  # noqa: ARG002
        """Return the address of the server for logs."""
        return str(self._address)

    async def connect(self, node: NodeAddress) -> RespProtocol:  # noqa: ARG002
        """Open another connection to the server, as `RedisClient.connect` describes."""
        return await self._connector.connect(self._address)

    async def refresh_slots(self) -> None:
        """Do nothing: a single server serves every slot."""

    def execute(self, commands: Sequence[tuple[str, Command]]) -> Awaitable[list[Any]]:
        """Run commands and return their replies, as `RedisClient.execute` describes."""
        return self._connection_to(DEFAULT_NODE).execute([command for _key, command in commands])


class SentinelRedis(StandaloneRedis):
    """The primary that Sentinel names. Each new connection asks Sentinel, so a failover is handled like a lost one."""

    def __init__(self, connector: Connector, sentinel: Sentinel, name: str) -> None:
        super().__init__(connector, DEFAULT_NODE)
        self._sentinel = sentinel
        self._name = name

    async def connect(self, node: NodeAddress) -> RespProtocol:  # noqa: ARG002
        """Open another connection to the current primary, as `RedisClient.connect` describes."""
        self._address = NodeAddress(*await self._sentinel.discover_master(self._name))
        return await self._connector.connect(self._address)

    def address(self, node: NodeAddress) -> str:
        """Return the address of the last known primary for logs, or its name if Sentinel has not answered yet."""
        return self._name if self._address == DEFAULT_NODE else super().address(node)

    async def aclose(self) -> None:
        """Close all connections."""
        await super().aclose()
        await self._sentinel.aclose()


class Target(NamedTuple):
    """The node to run a command on. With `asking`, ASKING is sent first, because the node is importing the slot."""

    node: NodeAddress
    asking: bool = False

    def redirected(self, reply: AskError) -> Target:
        """Return the target of a MOVED or ASK reply; an empty host stands for the node that replied."""
        return Target(NodeAddress(reply.host or self.node.host, reply.port), not isinstance(reply, MovedError))


class ClusterRedis(RedisClient):
    """The primaries of a Redis Cluster, each of which serves some of the 16,384 slots."""

    sharded = True

    def __init__(self, connector: Connector, seeds: Sequence[NodeAddress]) -> None:
        super().__init__(connector)
        self._seeds = seeds
        self._slots: list[tuple[int, int, NodeAddress]] = []  # sorted: first slot, last slot, node
        self._refreshing = asyncio.Lock()
        self._refreshed_at = float("-inf")
        self.slots_stale = True  # whether slots may have moved since the last refresh

    def nodes(self) -> set[NodeAddress]:
        """Return the known primaries."""
        return {node for _, _, node in self._slots}

    def node_for_key(self, key: str) -> NodeAddress:
        """Return the node that serves a key; raise SlotNotCovered if none is known."""
        slot = key_slot(key.encode())
        index = bisect_right(self._slots, slot, key=lambda entry: entry[0]) - 1
        if index < 0 or slot > self._slots[index][1]:
            raise SlotNotCovered("No known node of the cluster serves this key.")
        return self._slots[index][2]

    async def connect(self, node: NodeAddress) -> RespProtocol:
        """Open another connection to a node, as `RedisClient.connect` describes."""
        return await self._connector.connect(node)

    async def execute(self, commands: Sequence[tuple[str, Command]]) -> list[Any]:
        """Run commands, following redirects, and return their replies, as `RedisClient.execute` describes."""
        if self.slots_stale:
            await self.refresh_slots()
        targets = [Target(self.node_for_key(key)) for key, _ in commands]
        replies: list[Any] = [None] * len(commands)
        remaining: Sequence[int] = range(len(commands))
        for _ in range(MAX_REDIRECTS):
            await self._execute_remaining(commands, targets, remaining, replies)
            remaining = [index for index in remaining if isinstance(replies[index], AskError)]
            if not remaining:
                break
            for index in remaining:
                targets[index] = targets[index].redirected(replies[index])
        return replies

    async def execute_on(self, node: NodeAddress, commands: Sequence[Command]) -> list[Any]:
        """Run commands on a node and return their replies, as `RedisClient.execute_on` describes."""
        return await self._execute_on(Target(node), commands)

    async def _execute_remaining(
        self,
        commands: Sequence[tuple[str, Command]],
        targets: Sequence[Target],
        remaining: Sequence[int],
        replies: list[Any],
    ) -> None:
        """Run the remaining commands, concurrently across nodes and in order on each, and store their replies."""
        groups: dict[Target, list[int]] = {}
        for index in remaining:
            groups.setdefault(targets[index], []).append(index)

        async def execute_group(target: Target, group: list[int]) -> None:
            group_replies = await self._execute_on(target, [commands[index][1] for index in group])
            for index, reply in zip(group, group_replies, strict=True):
                replies[index] = reply

        if len(groups) == 1:  # saves a task in the usual case
            await execute_group(*groups.popitem())
            return
        running = (execute_group(*group) for group in groups.items())
        for failure in await asyncio.gather(*running, return_exceptions=True):
            if failure is not None:
                raise failure

    async def _execute_on(self, target: Target, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection_to(target.node)
        try:
            if target.asking:
                with_asking = [word for command in commands for word in (("ASKING",), command)]
                replies = (await connection.execute(with_asking))[1::2]
            else:
                replies = await connection.execute(commands)
        except (RedisError, OSError):
            self.slots_stale = True
            raise
        self.slots_stale = self.slots_stale or any(isinstance(reply, MovedError) for reply in replies)
        return replies

    async def refresh_slots(self) -> None:
        """Read which node serves which slot from the first node that answers; raise SlotNotCovered if none does."""
        async with self._refreshing:
            if time.monotonic() - self._refreshed_at < MIN_REFRESH_INTERVAL_S:
                return
            known = list(self.nodes())
            random.shuffle(known)
            failures = []
            for node in (*known, *self._seeds):
                try:
                    async with asyncio.timeout(SLOTS_TIMEOUT_S):
                        (reply,) = await self._connection_to(node).execute([("CLUSTER", "SLOTS")])
                    slots = sorted(_parse_slots(reply, node))
                    if not slots:
                        raise SlotNotCovered("A node that has left the cluster knows no slots.")
                except (RedisError, OSError, TypeError) as error:  # TypeError: the reply is an error
                    failures.append(f"{node} ({type(error).__name__})")
                    continue
                self._refreshed_at, self.slots_stale = time.monotonic(), False
                if slots != self._slots:
                    self._slots = slots
                    self.topology_changed.set()
                self._retire_unused_connections()
                return
            raise SlotNotCovered(f"No node of the cluster can be reached: {', '.join(failures)}")

    def _retire_unused_connections(self) -> None:
        """Drop the connections to seeds, and to nodes that have left or serve no slots any longer."""
        for node in self._connections.keys() - self.nodes():
            self._connections.pop(node).retire()


def _parse_slots(reply: Any, responder: NodeAddress) -> list[tuple[int, int, NodeAddress]]:
    """Parse the reply to CLUSTER SLOTS; an empty host stands for the node that replied."""
    return [
        (first, last, NodeAddress((primary[0] or b"").decode() or responder.host, primary[1]))
        for first, last, primary, *_replicas in reply
    ]
