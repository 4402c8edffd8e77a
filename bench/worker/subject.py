"""A subject: one system's worker, running, with its own queue or database, and what can be asked of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from bench import meter
from bench.processes import Process, made
from bench.worker.clients import Client
from bench.worker.starts import VARIABLE, Starts
from bench.worker.stores import Stores
from bench.worker.systems import System

WARM = 100  # jobs before anything is measured
POLL_S = 0.02
STEP_S = 300.0  # the longest that jobs may take to start
SETTLE_S, SETTLED = 0.3, 0.1  # a worker that uses less of a core for so long has done all there is


class Subject:
    """A system whose worker runs."""

    def __init__(self, system: System, stores: Stores, env: dict[str, str], folder: Path, worker: Process) -> None:
        self.system = system
        self.stores = stores
        self.starts = Starts(Path(env[VARIABLE]))
        self._env = env
        self._folder = folder
        self._worker = worker

    @classmethod
    @asynccontextmanager
    async def running(cls, system: System, stores: Stores, folder: Path) -> AsyncIterator[Subject]:
        """Run a worker and warm it up."""
        place = made(folder / system.name.replace(" ", "-"))
        env = {**stores.env, **system.environment(stores.env["VALKEY_PORT"]), VARIABLE: str(place / "starts")}
        async with Process.running(system.command, env, place / "worker.log") as worker:
            subject = cls(system, stores, env, place, worker)
            async with subject.client() as client:
                await client.enqueue("noop", WARM)
            await subject.started(WARM)
            await subject.settled()
            yield subject

    @asynccontextmanager
    async def client(self, *, public: bool = False) -> AsyncIterator[Client]:
        """Run a client, which submits as everybody does if it is to be the `public` one."""
        command = (self.system.public_client if public else None) or self.system.client
        async with Client.running(command, self._env, self._folder / "client.log") as client:
            yield client

    async def started(self, count: int) -> None:
        """Wait until so many jobs have started in all."""
        async with asyncio.timeout(STEP_S):
            while self.starts.count < count:
                self._worker.check()
                await asyncio.sleep(POLL_S)

    async def settled(self) -> None:
        """Wait until the worker has little to do."""
        async with asyncio.timeout(STEP_S):
            before, after = float("-inf"), self.cpu_s()
            while after - before > SETTLED * SETTLE_S:
                await asyncio.sleep(SETTLE_S)
                before, after = after, self.cpu_s()

    def cpu_s(self) -> float:
        """Return the CPU time that the worker has used so far."""
        return meter.cpu_s(self._worker.pid)

    def memory(self) -> meter.Memory:
        """Return what the worker has resident."""
        return meter.memory(self._worker.pid)

    def halt(self) -> None:
        """Stop the worker where it is."""
        self._worker.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the worker go on."""
        self._worker.signal(signal.SIGCONT)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let the worker go on until the end of the block."""
        self.go_on()
        try:
            yield
        finally:
            self.halt()
