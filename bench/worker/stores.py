"""The stores and services that all systems use: Valkey, Azurite, and Headway's notifier and submitter."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from azure.core.exceptions import ResourceExistsError
from azure.storage.queue.aio import QueueServiceClient
from redis.asyncio import Redis

from bench import meter
from bench.processes import Process
from dev.environment import PORTS, locked_state_dir, programs, service_environment, wait_until_ready
from headway.azure.job_queue import API_VERSION

FIRST_PORT = 21_700
QUEUES = ("jobs", "bare")  # of Headway and of the bare loop


class Stores:
    """The running stores and services."""

    def __init__(self, env: dict[str, str], processes: dict[str, Process]) -> None:
        self.env = env
        self._processes = processes

    def cpu_s(self, *names: str) -> float:
        """Return the CPU time that those with these names, or all, have used."""
        return sum(meter.cpu_s(self._processes[name].pid) for name in names or self._processes)

    def resident_mb(self, name: str) -> float:
        """Return the resident memory of one of them."""
        return meter.memory(self._processes[name].pid).resident

    async def clear(self) -> None:
        """Remove all jobs and records."""
        async with Redis.from_url(self.env["REDIS_URL"]) as redis:
            await redis.flushall()
        connection = self.env["QUEUE_CONNECTION_STRING"]
        async with QueueServiceClient.from_connection_string(connection, api_version=API_VERSION) as service:
            for name in QUEUES:
                queue = service.get_queue_client(name)
                with suppress(ResourceExistsError):
                    await queue.create_queue()
                await queue.clear_messages()


@asynccontextmanager
async def stores(folder: Path) -> AsyncIterator[Stores]:
    """Run the stores and services until the block ends."""
    ports = {name: str(FIRST_PORT + number) for number, name in enumerate(PORTS)}
    env = {**os.environ, **service_environment(folder, ports), "LOG_FORMAT": "json"}
    processes = {}
    with locked_state_dir(folder, env):
        async with AsyncExitStack() as stack:
            for group in programs(env, folder):
                wanted = [program for program in group if program.name != "worker"]
                for program in wanted:
                    log = folder / "logs" / f"{program.name}.log"
                    running = Process.running(program.command, env, log)
                    processes[program.name] = await stack.enter_async_context(running)
                await wait_until_ready(wanted)
            yield Stores(env, processes)
