"""A supervised process: in a session of its own, started again when it dies, ended with all its children."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from dev.environment import ROOT
from dev.guard import send

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from dev.console import Console
    from dev.programs import Program

DELAYS_S = (0, 0.5, 1, 2, 4, 5)  # before a restart; from the first again for what has lived SETTLED_S
SETTLED_S = 10
DEATHS, WINDOW_S = 3, 10
LAST_LINES = 20
CHUNK = 65_536


class Hopeless(Exception):  # noqa: N818 - reads as what it is
    """A process died three times in ten seconds; the message has its last lines."""


class Process:
    """Keeps a program running from `start` to `stop`, its current process id in `pid/<name>`."""

    def __init__(self, program: Program, env: Mapping[str, str], state: Path, console: Console) -> None:
        self.program = program
        self._env = env
        self._pid_file = state / "pid" / program.name
        self._console = console
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, ended: Callable[[], None]) -> None:
        """Start the program and keep it running; `ended` is called when nobody keeps it any more."""

        def forget(_: object) -> None:
            self._pid_file.unlink(missing_ok=True)
            ended()

        self._task = asyncio.create_task(self._keep_running())
        self._task.add_done_callback(forget)

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end, and kill it after the grace."""
        self._stopping.set()
        if self._task is None:
            return
        self._terminate()
        _, late = await asyncio.wait({self._task}, timeout=grace_s)
        if late:
            self._console.say(f"{self.program.name} did not end within {grace_s:g} s and is killed")
            self.kill()
            await asyncio.wait({self._task})

    def kill(self) -> None:
        """End the process and its children at once and for good."""
        self._stopping.set()
        if self._process and self._process.returncode is None:
            send(self._process.pid, signal.SIGKILL)

    def check(self) -> None:
        """Raise what has ended the supervision, Hopeless above all."""
        if self._task:
            self._task.result()

    async def _keep_running(self) -> None:
        clock = asyncio.get_running_loop().time
        deaths: deque[float] = deque(maxlen=DEATHS)
        restarts = 0
        while True:
            born = clock()
            end = await self._run()
            if self._stopping.is_set():
                return
            deaths.append(clock())
            if len(deaths) == DEATHS and deaths[-1] - deaths[0] <= WINDOW_S:
                raise Hopeless(self._last_words())
            restarts = 0 if deaths[-1] - born >= SETTLED_S else restarts
            delay_s = DELAYS_S[min(restarts, len(DELAYS_S) - 1)]
            restarts += 1
            await self._pause(end, delay_s)

    async def _pause(self, end: str, delay_s: float) -> None:
        when = f"in {delay_s:g} s" if delay_s else "at once"
        self._console.say(f"{self.program.name} {end} and is started again {when}")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _run(self) -> str:
        """Run the program once; return how it ended."""
        # A pipe of our own: with asyncio's, wait() would wait for every grandchild that holds the other end.
        read, write = os.pipe()
        showing = asyncio.create_task(self._show(os.fdopen(read, "rb", buffering=0)))
        try:
            process = await self._spawn(write)
        except OSError as error:
            return f"could not be started ({error})"
        finally:
            os.close(write)
        try:
            self._write_pid(process.pid)
            if self._stopping.is_set():  # it was asked to while being started
                self._terminate()
            code = await process.wait()
        finally:
            send(process.pid, signal.SIGKILL)  # with what it has left behind
        with suppress(TimeoutError):
            await asyncio.wait_for(showing, timeout=1)
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    async def _spawn(self, output: int) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *self.program.command,
            cwd=ROOT,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        return self._process

    async def _show(self, pipe: BinaryIO) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        rest = b""
        try:
            while chunk := await reader.read(CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._show_line(line)
            if rest:
                self._show_line(rest)
        finally:
            transport.close()

    def _show_line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self._last_lines.append(self._console.line(self.program.name, text))

    def _last_words(self) -> str:
        told = "".join(f"\n  {line}" for line in self._last_lines)
        return f"{self.program.name} died {DEATHS} times within {WINDOW_S} seconds; its last lines:{told}"

    def _write_pid(self, pid: int) -> None:
        draft = self._pid_file.with_name(f".{self.program.name}")
        draft.write_text(f"{pid}\n")
        draft.replace(self._pid_file)  # whoever reads sees the old one or the new one

    def _terminate(self) -> None:
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
