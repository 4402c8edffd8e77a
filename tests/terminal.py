"""A terminal, in which a test types the commands of a page of the documentation."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.waiting import PATIENCE_S

END_OF_OUTPUT = b"\f"
MAX_OUTPUT_BYTES = 1 << 20


class Terminal:
    """A shell whose errors, and those of its background jobs, go to a log."""

    def __init__(self, shell: Process, log: Path) -> None:
        self.shell = shell
        self.log = log

    async def run(self, commands: str, timeout_s: float = PATIENCE_S) -> str:
        """Run commands, each of which must succeed, and return their output."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{commands}\nprintf '\\f'\n".encode())
        try:
            output = await asyncio.wait_for(self.shell.stdout.readuntil(END_OF_OUTPUT), timeout_s)
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            raise AssertionError(f"{commands}\n{self.log.read_text()}") from error
        return output.removesuffix(END_OF_OUTPUT).decode()


@asynccontextmanager
async def open_terminal(folder: Path, log: Path, **env: str) -> AsyncIterator[Terminal]:
    """Open a terminal in a folder; at the end, kill the shell and the processes that it has started."""
    with log.open("ab") as errors:
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail"),
            cwd=folder,
            env={**os.environ, **env},
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            limit=MAX_OUTPUT_BYTES,
            start_new_session=True,
        )
    try:
        yield Terminal(shell, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        await shell.wait()
