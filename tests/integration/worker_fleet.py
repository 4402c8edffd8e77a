"""Worker processes beside a running stack, which a test starts, stops, freezes and kills."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from dev.environment import ROOT, programs, wait_until_ready
from tests.integration.handler_log import LOG_VARIABLE, HandlerLog
from tests.stack import Stack
from tests.waiting import PATIENCE_S, free_ports, metric

IDLE_WORKER = {"WORKER_QUEUE_NAME": "unused", "WORKER_POLL_MAX_S": "10"}  # the stack's own worker reads another queue
LEASE_S, HEARTBEAT_S = 3, 1.0


class WorkerProcess:
    """A worker that can be restarted; its ports and its log stay the same."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self._env = env
        command = (sys.executable, "-m", "services.worker")  # as in production: without --reload
        self._program = programs(env, folder)[1][-1]._replace(command=command)
        self._log = folder / f"worker-{env['WORKER_INTERNAL_PORT']}.log"
        self._process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """The current process id."""
        return self._process.pid

    @property
    def internal(self) -> str:
        """The base URL of the internal listener."""
        return f"http://{self._program.host}:{self._program.port}"

    @property
    def log(self) -> str:
        """The log since the first start."""
        return self._log.read_text()

    async def launch(self) -> None:
        """Start the worker, whose handlers may kill it before it is ready."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._program.command, cwd=ROOT, env=self._env, stdout=log, stderr=log, start_new_session=True
            )

    async def start(self) -> None:
        """Start the worker and wait until it is ready."""
        await self.launch()
        ready = asyncio.create_task(wait_until_ready([self._program]))
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
            assert ready.done(), f"the worker did not become ready:\n{self.log[-2000:]}"
        finally:
            ready.cancel()
            ended.cancel()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker, which may have exited already."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill the worker and its children, as the end of a container does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> float:
        """Stop the worker with SIGTERM and return the monotonic time of its exit; the exit code must be 0."""
        self.signal(signal.SIGTERM)
        code = await asyncio.wait_for(self._process.wait(), PATIENCE_S)
        exited_at = time.monotonic()
        assert code == 0, f"the worker exited with {code}:\n{self.log[-2000:]}"
        return exited_at


class WorkerFleet:
    """Some workers and the log of their handlers."""

    def __init__(self, stack: Stack, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.workers: list[WorkerProcess] = []
        self._stack = stack
        self._log = folder / "handlers.log"
        self._env = {
            **os.environ,
            **stack.env,
            "WORKER_JOBS": "tests.integration.chaos_jobs",
            LOG_VARIABLE: str(self._log),
            "LEASE_S": str(LEASE_S),
            "HEARTBEAT_S": str(HEARTBEAT_S),
            "POLL_MAX_S": "0.2",
            "GRACE_S": "0",
            **env,
        }

    @property
    def handler_log(self) -> HandlerLog:
        """The log of the handlers so far."""
        return HandlerLog.read(self._log)

    async def add(self, count: int = 1, **env: str) -> list[WorkerProcess]:
        """Start more workers and return them; `env` is added to their environment."""
        ports = map(str, free_ports(count))
        added = [WorkerProcess({**self._env, **env, "WORKER_INTERNAL_PORT": port}, self.folder) for port in ports]
        self.workers += added
        await asyncio.gather(*(worker.start() for worker in added))
        return added

    def by_pid(self, pid: int) -> WorkerProcess:
        """Return the worker that currently has this process id."""
        return next(worker for worker in self.workers if worker.pid == pid)

    async def metric(self, name: str) -> float:
        """Return the value of a metric, summed over the workers and its labels."""
        return sum([await metric(self._stack.session, worker.internal, name) for worker in self.workers])


@asynccontextmanager
async def run_workers(stack: Stack, folder: Path, count: int, **env: str) -> AsyncIterator[WorkerFleet]:
    """Run workers until the block ends."""
    folder.mkdir(exist_ok=True)
    workers = WorkerFleet(stack, folder, env)
    try:
        await workers.add(count)
        yield workers
    finally:
        await asyncio.gather(*(worker.kill() for worker in workers.workers))
