"""The Redis servers that keep the records: one, the one that Sentinel names, or the primaries of a cluster.

Whoever has a command says which key it is about; here is known which server keeps that, and how to reach it.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_right
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple, Self

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError

from services.notifier.link import Link
from services.notifier.wire import Command

log: structlog.stdlib.BoundLogger = structlog.get_logger()

ROUNDS = 5  # how often a command follows its key to another server
REFRESH_S = 0.1  # how often, at most, a cluster is asked who keeps what
ASK_S = 1.0  # for one server to answer that: the next one may know


class Unplaced(RedisError):
    """Nobody is known to keep a key."""


class Server(NamedTuple):
    """A server's address; that of a lone one, and of Sentinel's, is for its connections to know."""

    host: str = ""
    port: int = 0


LONE = Server()


class Servers:
    """One server: it keeps every key."""

    sharded = False  # whether publications stay within the servers of their slot

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._links: dict[Server, Link] = {}
        self.changed = asyncio.Event()  # whenever somebody else keeps a key

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    def all(self) -> set[Server]:
        """Name the servers that keep any key, as far as they are known."""
        return {LONE}

    def keeper(self, key: str) -> Server:  # noqa: ARG002
        """Name the server that keeps a key. Raises Unplaced when none is known to."""
        return LONE

    def connection(self, server: Server) -> AbstractConnection:  # noqa: ARG002
        """Make a connection to a server, still to be opened."""
        return self._pool.make_connection()  # type: ignore[no-any-return, no-untyped-call]

    async def refresh(self) -> None:
        """Learn who keeps what."""

    def run(self, commands: Sequence[tuple[str, Command]]) -> Awaitable[list[Any]]:
        """Run commands where their keys are kept; their answers will come, an exception for one that was refused.

        Raises:
            RedisError: a server is away, or nobody knows which of the commands were run.
            OSError: the same.
        """
        return self._link(LONE).call([command for _key, command in commands])

    def _link(self, server: Server) -> Link:
        link = self._links.get(server)
        if link is None:
            link = self._links[server] = Link(lambda: self.connection(server))
        return link

    async def aclose(self) -> None:
        """Close all connections."""
        for link in self._links.values():
            await link.aclose()
        await self._pool.aclose()


class Place(NamedTuple):
    """Where a command is run: at a server, which may be only about to take the key over."""

    server: Server
    moving: bool = False

    def instead(self, answer: AskError) -> Place:
        """Return where a server sends the command; one that does not know its own name means itself."""
        return Place(Server(answer.host or self.server.host, answer.port), not isinstance(answer, MovedError))


class Guarded(Servers):
    """The one server that sentinels name: each connection asks them, so that a failover is a lost connection."""

    def __init__(self, pool: SentinelConnectionPool, sentinel: Sentinel) -> None:
        super().__init__(pool)
        self._sentinel = sentinel

    async def aclose(self) -> None:
        """Close all connections."""
        await super().aclose()
        await self._sentinel.aclose()


class Cluster(Servers):
    """The primaries of a cluster, each of which keeps some of the 16,384 slots that keys fall into."""

    sharded = True

    def __init__(self, pool: ConnectionPool, seeds: Sequence[Server]) -> None:
        super().__init__(pool)
        self._seeds = seeds
        self._slots: list[tuple[int, int, Server]] = []  # first, last, and who keeps them; in order
        self._refreshing = asyncio.Lock()
        self._refreshed_at = float("-inf")
        self.in_doubt = True  # whether somebody else may keep a key by now

    def all(self) -> set[Server]:
        """Name the servers that keep any key, as far as they are known."""
        return {server for _, _, server in self._slots}

    def keeper(self, key: str) -> Server:
        """Name the server that keeps a key. Raises Unplaced when none is known to."""
        slot = key_slot(key.encode())
        index = bisect_right(self._slots, slot, key=lambda one: one[0]) - 1
        if index < 0 or slot > self._slots[index][1]:
            raise Unplaced("No server of the cluster is known to keep this.")
        return self._slots[index][2]

    def connection(self, server: Server) -> AbstractConnection:
        """Make a connection to a server, still to be opened."""
        settings = {**self._pool.connection_kwargs, **server._asdict()}
        return self._pool.connection_class(**settings)

    async def run(self, commands: Sequence[tuple[str, Command]]) -> list[Any]:
        """Run commands as any servers do; one that was not run, since its key has moved, follows the key."""
        if self.in_doubt:
            await self.refresh()
        places = [Place(self.keeper(key)) for key, _ in commands]
        answers: list[Any] = [None] * len(commands)
        due: Sequence[int] = range(len(commands))
        for _ in range(ROUNDS):
            await self._run(commands, places, due, answers)
            due = [index for index in due if isinstance(answers[index], AskError)]
            if not due:
                break
            for index in due:
                places[index] = places[index].instead(answers[index])
        return answers

    async def _run(
        self, commands: Sequence[tuple[str, Command]], places: Sequence[Place], due: Sequence[int], answers: list[Any]
    ) -> None:
        """Run what is due, all servers side by side and each in order, and put the answers in their places."""
        groups: dict[Place, list[int]] = {}
        for index in due:
            groups.setdefault(places[index], []).append(index)

        async def ask(place: Place, group: list[int]) -> None:
            its = await self._ask(place, [commands[index][1] for index in group])
            for index, answer in zip(group, its, strict=True):
                answers[index] = answer

        if len(groups) == 1:  # as nearly always: without a further task
            await ask(*groups.popitem())
            return
        for failure in await asyncio.gather(*(ask(*group) for group in groups.items()), return_exceptions=True):
            if failure is not None:
                raise failure

    async def _ask(self, place: Place, commands: list[Command]) -> list[Any]:
        try:
            if place.moving:
                asked = [word for command in commands for word in (("ASKING",), command)]
                answers = (await self._link(place.server).call(asked))[1::2]
            else:
                answers = await self._link(place.server).call(commands)
        except (RedisError, OSError):
            self.in_doubt = True
            raise
        self.in_doubt = self.in_doubt or any(isinstance(answer, MovedError) for answer in answers)
        return answers

    async def refresh(self) -> None:
        """Learn who keeps what from the first server that tells."""
        async with self._refreshing:
            if time.monotonic() - self._refreshed_at < REFRESH_S:
                return
            known = list(self.all())
            random.shuffle(known)
            for server in (*known, *self._seeds):
                try:
                    async with asyncio.timeout(ASK_S):
                        (answer,) = await self._link(server).call([("CLUSTER", "SLOTS")])
                    slots = sorted(_keepers(answer, server))
                except (RedisError, OSError, TypeError) as error:  # one that is no cluster answers an error
                    log.debug("cluster_node_unusable", error=type(error).__name__)
                    continue
                self._refreshed_at, self.in_doubt = time.monotonic(), False
                if slots != self._slots:
                    self._slots = slots
                    self.changed.set()
                return
            raise Unplaced("No server of the cluster can be reached.")


def _keepers(answer: Any, asked: Server) -> list[tuple[int, int, Server]]:
    """Read the answer to CLUSTER SLOTS; a node without a name is the one that was asked."""
    return [
        (first, last, Server((primary[0] or b"").decode() or asked.host, primary[1]))
        for first, last, primary, *_replicas in answer
    ]
