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
from headway.context import Attempt, ProgressSink
from headway.contracts import JobError, Json

from ..outcomes import RetryLater
from .ipc import (
    LENGTH,
    AttemptFinished,
    CheckpointSaved,
    FromProcess,
    LeaseExtended,
    LogRecord,
    ProgressUpdate,
    RunAttempt,
    SaveCheckpoint,
    StopAttempt,
    ToProcess,
    encode_message,
    message_decoder,
)

DEADLINE_INTERVAL_S = 1.0
UNWIND_TIMEOUT_S = 1.0  # what a handler gets to close what is open
MAX_IDLE_PROCESSES = os.cpu_count() or 1  # processes that wait for the next job
_decode = message_decoder(FromProcess)


class LeasedHost(ProgressSink, Protocol):
    """A host that knows for how long the job is ours."""

    @property
    def lease_deadline(self) -> float:
        """Until when the job is ours, by the monotonic clock."""


class ProcessPool:
    """The processes of handlers."""

    def __init__(self) -> None:
        self._idle: list[HandlerProcess] = []

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[ProcessPool]:
        """Start with none; at the end nobody is left."""
        pool = cls()
        try:
            yield pool
        finally:
            for process in pool._idle:
                await process.end()

    async def run(self, job: Job[..., Any], attempt: Attempt, payload: Json, host: LeasedHost) -> AttemptFinished:
        """Run an attempt in a process; when this is cancelled, the process is ended with all that it has started."""
        process = await self._acquire()
        try:
            ended = await process.run(RunAttempt(job.handler.__module__, attempt, payload, host.lease_deadline), host)
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError) and error.args
            await process.end(str(error.args[0]) if cancelled else "stop")
            raise
        if ended is None:
            return AttemptFinished(RetryLater(JobError("Crashed", f"The handler's process {await process.end()}.")), [])
        if len(self._idle) < MAX_IDLE_PROCESSES:
            self._idle.append(process)
        else:
            await process.end()
        return ended

    async def _acquire(self) -> HandlerProcess:
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process
            await process.end()
        return await HandlerProcess.start()


class HandlerProcess:
    """One process, and the line to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls) -> HandlerProcess:
        """Start a process in a session of its own, so that it can be ended with whatever it has started."""
        parent_end, child_end = socket.socketpair()
        level = str(logging.getLogger().level)
        with child_end:
            command = (sys.executable, "-m", f"{__package__}.handler_process", str(child_end.fileno()), level)
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[child_end.fileno()], stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        return cls(process, *await asyncio.open_unix_connection(sock=parent_end))

    @property
    def is_alive(self) -> bool:
        """Tell whether it still waits for what it is told."""
        return self._process.returncode is None and not self._reader.at_eof()

    async def run(self, told: RunAttempt, host: LeasedHost) -> AttemptFinished | None:
        """Have an attempt run; `None` when the process has ended instead."""
        self._send(told)
        sending_deadlines = asyncio.create_task(self._send_lease_deadline(host))
        try:
            while True:
                match await self._receive():
                    case ProgressUpdate(progress):
                        host.progress_changed(lambda progress=progress: progress)  # type: ignore[misc]
                    case SaveCheckpoint(checkpoint):
                        await host.save_checkpoint(checkpoint)
                        self._send(CheckpointSaved())
                    case LogRecord(name, level, text, added):
                        logging.getLogger(name).log(level, "%s", text, extra=added)
                    case AttemptFinished() as ended:
                        return ended
                    case _:
                        return None
        finally:
            sending_deadlines.cancel()

    async def end(self, reason: str = "stop") -> str:
        """End the process, with whatever it has started, and say how it has ended."""
        self._send(StopAttempt(reason))
        try:
            async with asyncio.timeout(UNWIND_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses when only zombies are left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._writer.close()
        code = await self._process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    async def _send_lease_deadline(self, host: LeasedHost) -> None:
        while True:
            await asyncio.sleep(DEADLINE_INTERVAL_S)
            self._send(LeaseExtended(host.lease_deadline))

    def _send(self, told: ToProcess) -> None:
        self._writer.write(encode_message(told))

    async def _receive(self) -> Any:
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            return _decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None
