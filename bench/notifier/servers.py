"""The processes under test: one Redis for all systems, and one or two servers per system, all on the same core."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis

from bench import meter
from bench.notifier import reports
from bench.notifier.systems import NCHAN, NCHAN_CONFIG, System, nchan_module
from bench.processes import Process, make_folder
from dev.environment import (
    LOCAL,
    PORTS,
    Program,
    locked_state_dir,
    service,
    service_environment,
    valkey,
    wait_until_ready,
)
from headway.tokens import TokenSigner

FIRST_PORT = 21_720
REDIS_PORT = FIRST_PORT + len(PORTS)
SERVER_CORE, CLIENT_CORE = 0, 1  # Redis runs on the client's core
ORIGIN = f"http://{LOCAL}:{FIRST_PORT}"  # the Origin header of the watchers
START_S = 30.0
PAUSE_S = 0.5
PORTS_EACH = 4  # per system: two replicas with two ports each
# While a system waits for its turn, Headway's default timeouts would close connections that have not subscribed yet and
# slow consumers, and would read silent jobs again during the turns of the other systems.
LONG_TIMEOUTS = {"FIRST_MESSAGE_S": "600", "STUCK_S": "600", "SILENCE_S": "600"}


class SharedSetup(NamedTuple):
    """The environment, Redis and keys that all systems share."""

    env: dict[str, str]
    redis: Process
    signer: TokenSigner
    key: str  # the report key of Headway's notifier

    @property
    def redis_url(self) -> str:
        """The URL of Redis."""
        return self.env["REDIS_URL"]

    async def clear(self) -> None:
        """Remove all data from Redis."""
        async with Redis.from_url(self.redis_url) as redis:
            await redis.flushall()

    def jobs(self, system: System, count: int, folder: Path) -> tuple[str, Path, Path]:
        """Write the jobs and the filler job of a system's load client; return the first token and both paths."""
        jobs = reports.headway_jobs(self.signer, count) if system.is_headway else reports.peer_jobs(count)
        filler = reports.filler_job(jobs[0])
        return jobs[0].token, reports.write_jobs(jobs, folder / "jobs"), reports.write_jobs([filler], folder / "filler")


class Server(NamedTuple):
    """A running replica."""

    process: Process
    folder: Path
    watch_port: int
    report_port: int

    def processes(self) -> list[int]:
        """Return the process ids of the replica."""
        return meter.process_tree(self.process.pid)


def pinned_to_core(core: int, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command, prefixed to run on one core."""
    return ("taskset", "--cpu-list", str(core), *command)


@asynccontextmanager
async def shared_setup(folder: Path) -> AsyncIterator[SharedSetup]:
    """Create keys and run Redis until the block ends."""
    ports = {name: str(FIRST_PORT + number) for number, name in enumerate(PORTS)}
    overrides = {**ports, "ALLOWED_ORIGINS": ORIGIN, "VALKEY_PORT": str(REDIS_PORT)}
    env = {**os.environ, **service_environment(folder, overrides), "LOG_FORMAT": "json"}
    with locked_state_dir(folder, env):
        signer = TokenSigner((folder / "keys/token.pem").read_text())
        key = (folder / "keys/report.key").read_text().split()[0]
        program = valkey(env, folder)
        command = pinned_to_core(CLIENT_CORE, program.command)
        async with Process.running(command, env, folder / "logs/valkey.log") as redis:
            await _wait_until_ready(redis, program)
            yield SharedSetup(env, redis, signer, key)


@asynccontextmanager
async def running_servers(
    system: System, number: int, replicas: int, setup: SharedSetup, folder: Path
) -> AsyncIterator[list[Server]]:
    """Run the replicas of a system until the block ends; `number`, its index among the systems, selects the ports."""
    start = _headway if system.is_headway else _peer
    first_port = REDIS_PORT + 1 + PORTS_EACH * number
    async with AsyncExitStack() as stack:
        slots = [(first_port + 2 * replica, make_folder(folder / str(replica))) for replica in range(replicas)]
        servers = [await start(stack, system, port, setup, subfolder) for port, subfolder in slots]
        await asyncio.sleep(PAUSE_S)
        yield servers


async def _headway(stack: AsyncExitStack, system: System, port: int, setup: SharedSetup, folder: Path) -> Server:
    ports = {"NOTIFIER_PORT": str(port), "NOTIFIER_INTERNAL_PORT": str(port + 1)}
    env = {**setup.env, **ports, **LONG_TIMEOUTS}
    running = Process.running(pinned_to_core(SERVER_CORE, system.command), env, folder / "notifier.log")
    process = await stack.enter_async_context(running)
    await _wait_until_ready(process, service("notifier", env))
    return Server(process, folder, port, port + 1)


async def _peer(stack: AsyncExitStack, system: System, port: int, setup: SharedSetup, folder: Path) -> Server:
    if system.name == NCHAN:
        words = {
            "port": port,
            "folder": folder,
            "redis_url": setup.redis_url.removesuffix("/0"),
            "module": nchan_module(),
        }
        config = NCHAN_CONFIG.read_text()
        for word, value in words.items():
            config = config.replace(f"@{word}@", str(value))
        (folder / "nchan.conf").write_text(config)
    command = tuple(part.format(port=port, folder=folder) for part in system.command)
    production = {"BENCH_PORT": str(port), "BENCH_REDIS_URL": setup.redis_url, "NODE_ENV": "production"}
    env = {**setup.env, **production}
    running = Process.running(pinned_to_core(SERVER_CORE, command), env, folder / "server.log")
    process = await stack.enter_async_context(running)
    await _wait_until_ready(process, Program(system.name, command, 0, LOCAL, str(port)))
    return Server(process, folder, port, port)


async def _wait_until_ready(process: Process, program: Program) -> None:
    """Wait until a program is ready; raise ProcessEnded if it ends before."""
    waiting = asyncio.ensure_future(wait_until_ready([program]))
    try:
        async with asyncio.timeout(START_S):
            while not waiting.done():
                process.check()
                await asyncio.wait([waiting], timeout=0.1)
    finally:
        waiting.cancel()
