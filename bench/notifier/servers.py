"""What runs: Redis for all, and of each system a server or two, on ports of their own, and all on one core."""

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
from bench.processes import Process, made
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
SERVER_CORE, CLIENT_CORE = 0, 1  # Redis shares the client's
ORIGIN = f"http://{LOCAL}:{FIRST_PORT}"  # of the page that watches
START_S = 30.0
PAUSE_S = 0.5
PORTS_EACH = 4  # for a system: two replicas with two each
# Headway's defaults are too short for who waits for a turn: connections before they watch, those that read nothing, and
# jobs, which are silent only then; reading them again would be work in the others' turns.
PATIENCE = {"FIRST_MESSAGE_S": "600", "STUCK_S": "600", "SILENCE_S": "600"}


class Bed(NamedTuple):
    """What is the same for all systems."""

    env: dict[str, str]
    redis: Process
    signer: TokenSigner
    key: str  # that Headway's reports are let in with

    @property
    def redis_url(self) -> str:
        """Where Redis is."""
        return self.env["REDIS_URL"]

    async def clear(self) -> None:
        """Empty Redis."""
        async with Redis.from_url(self.redis_url) as redis:
            await redis.flushall()

    def jobs(self, system: System, count: int, folder: Path) -> tuple[Path, Path]:
        """Write a system's own jobs, and the first one's filler, for its load client."""
        jobs = reports.headway(self.signer, count) if system.ours else reports.plain(count)
        filler = reports.filler(jobs[0])
        return reports.write(jobs, folder / "jobs"), reports.write([filler], folder / "filler")


class Server(NamedTuple):
    """A running replica."""

    process: Process
    folder: Path
    watch_port: int
    report_port: int

    def processes(self) -> list[int]:
        """Return the ids of its processes."""
        return meter.tree(self.process.pid)


def pinned(core: int, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command that runs on one core."""
    return ("taskset", "--cpu-list", str(core), *command)


@asynccontextmanager
async def bed(folder: Path) -> AsyncIterator[Bed]:
    """Run Redis, and make keys and jobs, until the block ends."""
    ports = {name: str(FIRST_PORT + number) for number, name in enumerate(PORTS)}
    given = {**ports, "ALLOWED_ORIGINS": ORIGIN, "VALKEY_PORT": str(REDIS_PORT)}
    env = {**os.environ, **service_environment(folder, given), "LOG_FORMAT": "json"}
    with locked_state_dir(folder, env):
        signer = TokenSigner((folder / "keys/token.pem").read_text())
        key = (folder / "keys/report.key").read_text().split()[0]
        program = valkey(env, folder)
        command = pinned(CLIENT_CORE, program.command)
        async with Process.running(command, env, folder / "logs/valkey.log") as redis:
            await _answers(redis, program)
            yield Bed(env, redis, signer, key)


@asynccontextmanager
async def serving(system: System, number: int, replicas: int, bed: Bed, folder: Path) -> AsyncIterator[list[Server]]:
    """Run a system's server, or several, until the block ends; its number among the systems chooses its ports."""
    start = _headway if system.ours else _peer
    first = REDIS_PORT + 1 + PORTS_EACH * number
    async with AsyncExitStack() as stack:
        places = [(first + 2 * replica, made(folder / str(replica))) for replica in range(replicas)]
        servers = [await start(stack, system, port, bed, place) for port, place in places]
        await asyncio.sleep(PAUSE_S)
        yield servers


async def _headway(stack: AsyncExitStack, system: System, port: int, bed: Bed, folder: Path) -> Server:
    ports = {"NOTIFIER_PORT": str(port), "NOTIFIER_INTERNAL_PORT": str(port + 1)}
    env = {**bed.env, **ports, **PATIENCE}
    running = Process.running(pinned(SERVER_CORE, system.command), env, folder / "notifier.log")
    process = await stack.enter_async_context(running)
    await _answers(process, service("notifier", env))
    return Server(process, folder, port, port + 1)


async def _peer(stack: AsyncExitStack, system: System, port: int, bed: Bed, folder: Path) -> Server:
    if system.name == NCHAN:
        words = {
            "port": port,
            "folder": folder,
            "redis_url": bed.redis_url.removesuffix("/0"),
            "module": nchan_module(),
        }
        config = NCHAN_CONFIG.read_text()
        for word, value in words.items():
            config = config.replace(f"@{word}@", str(value))
        (folder / "nchan.conf").write_text(config)
    command = tuple(part.format(port=port, folder=folder) for part in system.command)
    production = {"BENCH_PORT": str(port), "BENCH_REDIS_URL": bed.redis_url, "NODE_ENV": "production"}
    env = {**bed.env, **production}
    running = Process.running(pinned(SERVER_CORE, command), env, folder / "server.log")
    process = await stack.enter_async_context(running)
    await _answers(process, Program(system.name, command, 0, LOCAL, str(port)))
    return Server(process, folder, port, port)


async def _answers(process: Process, program: Program) -> None:
    """Wait until a program answers, or has ended."""
    waiting = asyncio.ensure_future(wait_until_ready([program]))
    try:
        async with asyncio.timeout(START_S):
            while not waiting.done():
                process.check()
                await asyncio.wait([waiting], timeout=0.1)
    finally:
        waiting.cancel()
