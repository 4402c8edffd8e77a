"""Redis servers as processes of a test: a cluster, and a primary with a replica under Sentinel."""

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

from dev.environment import valkey_binary
from tests.waiting import free_ports, wait_until

HOST = "127.0.0.1"
SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000  # after which the cluster or Sentinel considers a server dead
# Without fsync, every write reaches the operating system before its reply, so that a killed server loses none. With the
# default, "everysec", a busy disk delays writes until after their replies.
PERSISTENT = (
    "--appendonly",
    "yes",
    "--appendfsync",
    "no",
    "--save",
    "",
    "--loglevel",
    "warning",
    "--bind",
    HOST,
    "--repl-diskless-sync-delay",
    "0",
)


def server_binary() -> str:
    """Return the path of redis-server if it is installed, otherwise of the bundled Valkey."""
    return shutil.which("redis-server") or str(valkey_binary())


class RedisServer:
    """A server that can be killed and restarted."""

    def __init__(self, folder: Path, *settings: str, port: int = 0) -> None:
        self.port = port or free_ports(1)[0]
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        self._command = (server_binary(), *settings, "--port", str(self.port), "--dir", str(self._folder))
        self._process: subprocess.Popen[bytes]
        self.admin = Redis(host=HOST, port=self.port, decode_responses=True)

    @property
    def address(self) -> str:
        """The server's host and port."""
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
        """Start the server and wait until it responds."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        await wait_until(self.is_up)

    def kill(self) -> None:
        """Kill the server."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    async def execute(self, *command: str | int) -> Any:
        """Execute a command and return its reply."""
        return await self.admin.execute_command(*command)  # type: ignore[no-untyped-call]

    async def is_up(self) -> bool:
        """Return whether the server responds."""
        with suppress(RedisError, OSError):
            return bool(await self.admin.ping())
        return False


class RedisCluster:
    """Three primaries that share the slots, and a replica of the first primary."""

    def __init__(self, servers: Sequence[RedisServer], bus_ports: Sequence[int]) -> None:
        *self.primaries, self.replica = servers
        self._bus_ports = bus_ports

    @property
    def url(self) -> str:
        """A `REDIS_URL` with two addresses; nothing listens at the first one."""
        return f"redis+cluster://{HOST}:1,{self.primaries[1].address}"

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Self]:
        """Run a cluster until the block ends."""
        settings = (*PERSISTENT, "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS))
        bus_ports = free_ports(4)  # the default, port + 10,000, may be in use
        async with AsyncExitStack() as stack:
            running = [RedisServer.running(folder, *settings, "--cluster-port", str(port)) for port in bus_ports]
            cluster = cls([await stack.enter_async_context(server) for server in running], bus_ports)
            await cluster._join()
            yield cluster

    async def _join(self) -> None:
        share = SLOTS // 3 + 1
        for number, server in enumerate(self.primaries):
            last = min(SLOTS, (number + 1) * share) - 1
            await server.execute("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            await server.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        servers = (*self.primaries, self.replica)
        for number, server in enumerate(servers):  # introduce every pair: gossip would take seconds
            for peer, bus_port in zip(servers[:number], self._bus_ports, strict=False):
                await server.execute("CLUSTER", "MEET", HOST, peer.port, bus_port)
        await wait_until(self._is_complete)
        first = await self.primaries[0].execute("CLUSTER", "MYID")
        await self.replica.execute("CLUSTER", "REPLICATE", first)
        await wait_until(self._is_replicating)

    async def _is_complete(self) -> bool:
        states = [await server.execute("CLUSTER INFO") for server in (*self.primaries, self.replica)]
        return all(state["cluster_state"] == "ok" and state["cluster_known_nodes"] == "4" for state in states)

    async def _is_replicating(self) -> bool:
        return (await self.replica.admin.info("replication")).get("master_link_status") == "up"

    async def move_slot(self, slot: int) -> None:
        """Move a slot from the second primary to the third, key by key as `redis-cli --cluster` does."""
        source, target = self.primaries[1:]
        source_id, target_id = [await server.execute("CLUSTER", "MYID") for server in (source, target)]
        await target.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := await source.execute("CLUSTER", "GETKEYSINSLOT", slot, 100):
            await source.execute("MIGRATE", HOST, self.primaries[2].port, "", 0, 5_000, "KEYS", *keys)
            await asyncio.sleep(0)
        for server in (target, source, self.primaries[0]):
            await server.execute("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    async def fail_over(self) -> None:
        """Kill the first primary and wait until its replica has taken over."""
        self.primaries[0].kill()

        async def promoted() -> bool:
            return (await self.replica.admin.info("replication"))["role"] == "master" and await self._is_ok()

        await wait_until(promoted)

    async def _is_ok(self) -> bool:
        return bool((await self.replica.execute("CLUSTER INFO"))["cluster_state"] == "ok")


class SentinelGroup:
    """A primary and its replica, monitored by three sentinels."""

    NAME = "headway"

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinels: Sequence[RedisServer]) -> None:
        self.primary = primary
        self.replica = replica
        self._sentinels = sentinels

    @property
    def url(self) -> str:
        """A `REDIS_URL` with four sentinels; nothing listens at the first one's address."""
        addresses = ",".join([f"{HOST}:1", *(server.address for server in self._sentinels)])
        return f"redis+sentinel://{addresses}/0?sentinel_name={self.NAME}"

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Self]:
        """Run the servers until the block ends."""
        async with AsyncExitStack() as stack:
            primary = await stack.enter_async_context(RedisServer.running(folder, *PERSISTENT))
            follow = ("--replicaof", f"{HOST} {primary.port}")
            replica = await stack.enter_async_context(RedisServer.running(folder, *PERSISTENT, *follow))
            sentinels = []
            for number in range(3):
                file = folder / f"sentinel-{number}.conf"
                file.write_text(
                    f"sentinel monitor {cls.NAME} {HOST} {primary.port} 2\n"
                    f"sentinel down-after-milliseconds {cls.NAME} {NODE_TIMEOUT_MS}\n"
                    f"sentinel failover-timeout {cls.NAME} 1000\n"
                )
                settings = (str(file), "--sentinel", "--bind", HOST)
                sentinels.append(await stack.enter_async_context(RedisServer.running(folder, *settings)))
            group = cls(primary, replica, sentinels)
            await wait_until(group._is_discovered)
            yield group

    async def _is_discovered(self) -> bool:
        states = [await server.execute("SENTINEL", "MASTER", self.NAME) for server in self._sentinels]
        return all((state["num-slaves"], state["num-other-sentinels"]) == ("1", "2") for state in states)

    async def fail_over(self) -> None:
        """Kill the primary and wait until its replica has taken over."""
        self.primary.kill()

        async def promoted() -> bool:
            return bool((await self.replica.admin.info("replication"))["role"] == "master")

        await wait_until(promoted)
