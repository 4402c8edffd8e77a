"""The processes of the bench: started in groups of their own, logging into files, and ended with the bench."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from dev.environment import ROOT

GRACE_S = 5.0
ANSWER_S = 300.0  # the longest that a process may take to do as it is told


class Ended(Exception):
    """A process of the bench has ended by itself; the message has its last lines."""


def made(folder: Path) -> Path:
    """Make a folder."""
    folder.mkdir(parents=True)
    return folder


class Process:
    """A running process and its children."""

    answers = False  # whether it is told what to do, line by line, and answers with lines, which are not logged

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    @classmethod
    @asynccontextmanager
    async def running(cls, command: Sequence[str], env: Mapping[str, str], log: Path) -> AsyncIterator[Self]:
        """Run a command until the block ends; what it says goes to `log`."""
        with log.open("wb") as file:
            running = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env=env,
                start_new_session=True,
                stderr=file,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if cls.answers else file,
            )
        process = cls(running, log)
        try:
            yield process
        finally:
            await process._end()

    def check(self) -> None:
        """Raise Ended unless it still runs."""
        if self._process.returncode is not None:
            last = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise Ended(f"{self._log.stem} ended with {self._process.returncode}:\n{last}")

    async def ask(self, command: str) -> bytes:
        """Tell what to do, and return the answer; raise Ended when there is none, TimeoutError when it takes long."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(f"{command}\n".encode())
        answer = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_S)
        if not answer:
            await self._process.wait()
            self.check()
        return answer.strip()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def _end(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), GRACE_S)
        self.signal(signal.SIGKILL)
        await self._process.wait()
