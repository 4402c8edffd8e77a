"""The processes of a benchmark. Each has its own process group and log file, and ends with the benchmark."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from dev.environment import ROOT

STOP_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 300.0  # covers the whole step that a command starts


class ProcessEnded(Exception):
    """A process of the benchmark ended unexpectedly; the message has the last lines of its log."""


def make_folder(folder: Path) -> Path:
    """Create a folder and return it."""
    folder.mkdir(parents=True)
    return folder


class Process:
    """A running process and its descendants."""

    has_replies = False  # whether standard output has a reply to each command, instead of log lines

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    @classmethod
    @asynccontextmanager
    async def running(cls, command: Sequence[str], env: Mapping[str, str], log: Path) -> AsyncIterator[Self]:
        """Run a command until the block ends, with its output in `log`."""
        with log.open("wb") as file:
            running = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env=env,
                start_new_session=True,
                stderr=file,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if cls.has_replies else file,
            )
        process = cls(running, log)
        try:
            yield process
        finally:
            await process._stop()

    def check(self) -> None:
        """Raise ProcessEnded if the process has ended."""
        if self._process.returncode is not None:
            last = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise ProcessEnded(f"{self._log.stem} ended with {self._process.returncode}:\n{last}")

    async def request(self, command: str) -> bytes:
        """Send a command and return its reply, each of them a line.

        Raises:
            ProcessEnded: the process ended without a reply.
            TimeoutError: there was no reply within REPLY_TIMEOUT_S.
        """
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(f"{command}\n".encode())
        reply = await asyncio.wait_for(self._process.stdout.readline(), REPLY_TIMEOUT_S)
        if not reply:
            await self._process.wait()
            self.check()
        return reply.strip()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def _stop(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        self.signal(signal.SIGKILL)
        await self._process.wait()
