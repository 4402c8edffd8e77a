"""A subject: a system's running worker, with its own queue or database."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from bench import meter
from bench.processes import Process, make_folder
from bench.worker.clients import Client
from bench.worker.starts import STARTS_FILE_VARIABLE, Starts
from bench.worker.stores import Stores
from bench.worker.systems import System

WARMUP_JOBS = 100
POLL_S = 0.02
STEP_TIMEOUT_S = 300.0
IDLE_CHECK_S, IDLE_CPU_SHARE = 0.3, 0.1  # a worker that uses less of a core during this time is idle


class Subject:
    """A system with a running worker."""

    def __init__(self, system: System, stores: Stores, env: dict[str, str], folder: Path, worker: Process) -> None:
        self.system = system
        self.stores = stores
        self.starts = Starts(Path(env[STARTS_FILE_VARIABLE]))
        self._env = env
        self._folder = folder
        self._worker = worker

    @classmethod
    @asynccontextmanager
    async def running(cls, system: System, stores: Stores, folder: Path) -> AsyncIterator[Subject]:
        """Run a worker and warm it up."""
        subfolder = make_folder(folder / system.name.replace(" ", "-"))
        env = {
            **stores.env,
            **system.environment(stores.env["VALKEY_PORT"]),
            STARTS_FILE_VARIABLE: str(subfolder / "starts"),
        }
        async with Process.running(system.command, env, subfolder / "worker.log") as worker:
            subject = cls(system, stores, env, subfolder, worker)
            async with subject.client() as client:
                await client.enqueue("noop", WARMUP_JOBS)
            await subject.wait_started(WARMUP_JOBS)
            await subject.wait_idle()
            yield subject

    @asynccontextmanager
    async def client(self, *, public: bool = False) -> AsyncIterator[Client]:
        """Run a client; a `public` one submits through the system's public interface."""
        command = (self.system.public_client if public else None) or self.system.client
        async with Client.running(command, self._env, self._folder / "client.log") as client:
            yield client

    async def wait_started(self, count: int) -> None:
        """Wait until this many jobs have started in total."""
        async with asyncio.timeout(STEP_TIMEOUT_S):
            while self.starts.count < count:
                self._worker.check()
                await asyncio.sleep(POLL_S)

    async def wait_idle(self) -> None:
        """Wait until the worker is idle."""
        async with asyncio.timeout(STEP_TIMEOUT_S):
            before, after = float("-inf"), self.cpu_s()
            while after - before > IDLE_CPU_SHARE * IDLE_CHECK_S:
                await asyncio.sleep(IDLE_CHECK_S)
                before, after = after, self.cpu_s()

    def cpu_s(self) -> float:
        """Return the CPU time that the worker has used."""
        return meter.cpu_s(self._worker.pid)

    def memory(self) -> meter.Memory:
        """Return the worker's resident memory."""
        return meter.memory(self._worker.pid)

    def pause(self) -> None:
        """Pause the worker (SIGSTOP)."""
        self._worker.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the worker (SIGCONT)."""
        self._worker.signal(signal.SIGCONT)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Resume the worker until the block ends."""
        self.resume()
        try:
            yield
        finally:
            self.pause()
