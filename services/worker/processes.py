"""Handlers that run in processes of their own: kept for the next job while they are well, ended with their job if not.

A process is told until when its job is ours, and ends itself when it does not hear more in time: a worker that is
frozen, killed or cut off from the queue leaves no handler behind that works on what another worker does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from headway import Job
from headway.context import Attempt, Host
from headway.contracts import JobError, Json
from services.worker.frames import (
    LENGTH,
    Ended,
    FromProcess,
    Logged,
    Run,
    Save,
    Saved,
    Shown,
    Stop,
    ToProcess,
    Until,
    frame,
    reader,
)
from services.worker.outcomes import Again

BEAT_S = 1.0
UNWIND_S = 1.0  # what a handler gets to close what is open
IDLE = os.cpu_count() or 1  # processes that wait for the next job
_read = reader(FromProcess)


class Keeper(Host, Protocol):
    """A host that knows for how long the job is ours."""

    @property
    def until(self) -> float:
        """Until when the job is ours, by the monotonic clock."""


class Processes:
    """The processes of handlers."""

    def __init__(self) -> None:
        self._idle: list[Process] = []

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Processes]:
        """Start with none; at the end nobody is left."""
        processes = cls()
        try:
            yield processes
        finally:
            for process in processes._idle:
                await process.end()

    async def run(self, job: Job[..., Any], attempt: Attempt, payload: Json, host: Keeper) -> Ended:
        """Run an attempt in a process; when this is cancelled, the process is ended with all that it has started."""
        process = await self._take()
        try:
            ended = await process.run(Run(job.handler.__module__, attempt, payload, host.until), host)
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError) and error.args
            await process.end(str(error.args[0]) if cancelled else "stop")
            raise
        if ended is None:
            return Ended(Again(JobError("Crashed", f"The handler's process {await process.end()}.")), [])
        if len(self._idle) < IDLE:
            self._idle.append(process)
        else:
            await process.end()
        return ended

    async def _take(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.lives:
                return process
            await process.end()
        return await Process.start()


class Process:
    """One process, and the line to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls) -> Process:
        """Start a process in a session of its own, so that it can be ended with whatever it has started."""
        ours, theirs = socket.socketpair()
        level = str(logging.getLogger().level)
        with theirs:
            command = (sys.executable, "-m", "services.worker.child", str(theirs.fileno()), level)
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        return cls(process, *await asyncio.open_unix_connection(sock=ours))

    @property
    def lives(self) -> bool:
        """Tell whether it still waits for what it is told."""
        return self._process.returncode is None and not self._reader.at_eof()

    async def run(self, told: Run, host: Keeper) -> Ended | None:
        """Have an attempt run; `None` when the process has ended instead."""
        self._tell(told)
        beating = asyncio.create_task(self._beat(host))
        try:
            while True:
                match await self._next():
                    case Shown(progress):
                        host.due(lambda progress=progress: progress)  # type: ignore[misc]
                    case Save(checkpoint):
                        await host.save(checkpoint)
                        self._tell(Saved())
                    case Logged(name, level, text, added):
                        logging.getLogger(name).log(level, "%s", text, extra=added)
                    case Ended() as ended:
                        return ended
                    case _:
                        return None
        finally:
            beating.cancel()

    async def end(self, reason: str = "stop") -> str:
        """End the process, with whatever it has started, and say how it has ended."""
        self._tell(Stop(reason))
        try:
            async with asyncio.timeout(UNWIND_S):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses when only zombies are left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._writer.close()
        code = await self._process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    async def _beat(self, host: Keeper) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._tell(Until(host.until))

    def _tell(self, told: ToProcess) -> None:
        self._writer.write(frame(told))

    async def _next(self) -> Any:
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            return _read(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None
