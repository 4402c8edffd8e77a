"""The pool of handler processes. A process is reused for further attempts, until one of them is cancelled or crashes.

It is replaced when it holds too much memory, has run the maximum number of attempts of a kind, or has sent anything
after an attempt, which a thread or child that the handler left behind may do.

The worker sends the current lease deadline to each process, and a process that reaches its deadline kills itself. So if
a worker is frozen, killed or cut off from the queue, its handlers stop before another worker gets their jobs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from headway import Job
from headway.context import Attempt
from headway.contracts import Json

from ...runtime.process_state import current_folder
from .. import metrics
from ..logs.capture import write_to_log
from ..outcomes import Finished, LeaseLost, RetryLater, public_failure
from ..python_command import python_command
from .ipc import (
    HEADER,
    AttemptFinished,
    CheckpointSaved,
    FromProcess,
    LeaseExtended,
    LogRecord,
    OutputWritten,
    ProgressUpdate,
    RunAttempt,
    SaveCheckpoint,
    StopAttempt,
    ToProcess,
    encode_frame,
    frame_decoder,
)
from .leased_host import LeasedHost, is_lease_over
from .log_forwarding import log_forwarded

HANDLER_PROCESS = f"from {__package__}.handler_process import main; main(*sys.argv[1:])"
DEADLINE_INTERVAL_S = 1.0  # between two frames with the lease deadline
UNWIND_TIMEOUT_S = 1.0  # for a cancelled handler to clean up; then SIGKILL follows
EXIT_CHECK_INTERVAL_S = 0.5  # while the event loop has reported no exit
MAX_IDLE_PROCESSES = os.cpu_count() or 1
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_decode = frame_decoder(FromProcess)

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ProcessPool:
    """Handler processes, started on demand; at most `MAX_IDLE_PROCESSES` stay idle for further attempts."""

    def __init__(self, max_memory_bytes: int) -> None:
        self._max_memory_bytes = max_memory_bytes
        self._folder = current_folder()
        self._idle: list[HandlerProcess] = []
        self._ending: set[asyncio.Task[str]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, max_memory_bytes: int) -> AsyncIterator[ProcessPool]:
        """Open a pool, and end its idle processes on exit.

        A process that holds more than `max_memory_bytes` after an attempt is replaced.
        """
        pool = cls(max_memory_bytes)
        try:
            yield pool
        finally:
            for process in pool._idle:
                pool._end_in_background(process)
            await asyncio.gather(*pool._ending)

    async def run(self, job: Job[Any, Any], attempt: Attempt, payload: Json, host: LeasedHost) -> Finished | RetryLater:
        """Run an attempt in a process and return its outcome: a retry if the process crashes.

        On cancellation, the process and all processes that it has started are ended.

        Raises:
            LeaseLost: the process ended itself with the lease, perhaps before the handler started.
        """
        process = await self._acquire()
        try:
            outcome = await process.run(RunAttempt(job.handler.__module__, attempt, payload, host.lease_deadline), host)
        except BaseException as error:
            has_reason = isinstance(error, asyncio.CancelledError) and error.args
            await process.end(str(error.args[0]) if has_reason else "stop")
            raise
        if outcome is None:
            end = await process.end()
            if is_lease_over(host):
                raise LeaseLost("the handler's process ended itself with the lease")
            return RetryLater(public_failure("Crashed", f"The handler's process {end}."))
        self._release(process, job)
        return outcome

    async def _acquire(self) -> HandlerProcess:
        while self._idle:
            process = self._idle.pop()
            try:
                if await process.is_silent():
                    return process
            except BaseException:
                self._end_in_background(process)
                raise
            self._end_in_background(process)
        return await HandlerProcess.start(self._folder)

    def _release(self, process: HandlerProcess, job: Job[Any, Any]) -> None:
        """Keep a process for further attempts, or end it."""
        memory_bytes = process.memory_bytes
        is_used_up = job.max_jobs is not None and process.runs >= job.max_jobs
        if is_used_up or memory_bytes > self._max_memory_bytes:
            memory_mb = memory_bytes >> 20
            log.info("handler_process_replaced", kind=job.kind, attempts=process.runs, memory_mb=memory_mb)
        elif len(self._idle) < MAX_IDLE_PROCESSES:
            self._idle.append(process)
            return
        self._end_in_background(process)

    def _end_in_background(self, process: HandlerProcess) -> None:
        task = asyncio.create_task(process.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class HandlerProcess:
    """One handler process and the connection to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self._exit = asyncio.create_task(self._wait_for_exit())
        self.runs = 0  # the number of attempts that have been started, which is the number of the last run

    @classmethod
    async def start(cls, folder: str) -> HandlerProcess:
        """Start a process in a folder, and in a new session, so that its whole process group can be killed."""
        parent_end, child_end = socket.socketpair()
        level = str(logging.getLogger().level)
        try:
            with child_end:
                command = python_command(HANDLER_PROCESS, str(child_end.fileno()), level, folder)
                process = await asyncio.create_subprocess_exec(
                    *command, pass_fds=[child_end.fileno()], stdin=asyncio.subprocess.DEVNULL, start_new_session=True
                )
            return cls(process, parent_end, *await asyncio.open_unix_connection(sock=parent_end))
        except BaseException:
            parent_end.close()  # which ends a process that has started
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the process is running and connected."""
        return not self._exit.done() and self._process.returncode is None and not self._reader.at_eof()

    @property
    def memory_bytes(self) -> int:
        """The resident memory of the process; 0 if it has ended, or the system has no /proc."""
        try:
            return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * PAGE_BYTES
        except OSError:
            return 0

    async def is_silent(self) -> bool:
        """Return whether the process is alive and has sent nothing since its last attempt has finished."""
        try:
            async with asyncio.timeout(0):
                await self._reader.read(1)  # returns nothing at the end
        except TimeoutError:
            return self.is_alive
        return False

    async def run(self, request: RunAttempt, host: LeasedHost) -> Finished | RetryLater | None:
        """Run an attempt and return its outcome, or None if the process has ended before the attempt has finished."""
        self.runs += 1
        self._send(request)
        deadline_task = asyncio.create_task(self._send_lease_deadline(host))
        try:
            while True:
                match await self._receive():
                    case ProgressUpdate(progress, steps):
                        host.progress_changed(lambda progress=progress: progress)  # type: ignore[misc]
                        if steps:
                            host.steps_started(lambda steps=steps: steps)  # type: ignore[misc]
                    case SaveCheckpoint(checkpoint):
                        self._send(await _save_checkpoint(host, checkpoint))
                    case LogRecord() as record:
                        log_forwarded(record)
                    case OutputWritten(text, left_out_bytes):
                        write_to_log(text)
                        metrics.LOG_BYTES_LEFT_OUT.inc(left_out_bytes)
                    case AttemptFinished(outcome):
                        return outcome
                    case _:
                        return None
        finally:
            deadline_task.cancel()

    async def end(self, reason: str = "stop") -> str:
        """End the process and all processes that it has started; return how it ended, such as `exited with code 1`."""
        self._send(StopAttempt(reason))
        try:
            await asyncio.wait({self._exit}, timeout=UNWIND_TIMEOUT_S)
        finally:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses when only zombies are left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._writer.transport.abort()  # `close` would wait until the process has read everything
        await asyncio.wait({self._exit})
        match self._process.returncode:
            case None:
                return "ended, and a handler has taken its exit code"
            case code:
                return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    async def _send_lease_deadline(self, host: LeasedHost) -> None:
        """Send the current lease deadline at regular intervals, until cancelled."""
        while True:
            await asyncio.sleep(DEADLINE_INTERVAL_S)
            self._send(LeaseExtended(host.lease_deadline))

    async def _wait_for_exit(self) -> None:
        """Wait for the exit, then close the reading end: a program that the process started may keep the other open.

        No exit is reported if a handler takes the exit code: with `os.waitpid(-1, 0)`, or by ignoring SIGCHLD.
        """
        reported, exists = asyncio.create_task(self._process.wait()), True
        while exists and not reported.done():
            exists = _exists(self._process.pid)
            await asyncio.wait({reported}, timeout=EXIT_CHECK_INTERVAL_S)
        reported.cancel()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)

    def _send(self, frame: ToProcess) -> None:
        self._writer.write(encode_frame(self.runs, frame))

    async def _receive(self) -> Any:
        """Return the next frame of the current run, or None if the connection has ended."""
        try:
            while True:
                length, run = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                body = await self._reader.readexactly(length)
                if run == self.runs:
                    return _decode(body)
        except (asyncio.IncompleteReadError, OSError):
            return None


def _exists(pid: int) -> bool:
    """Return whether a process exists, which it does until its exit code is taken."""
    try:
        os.kill(pid, 0)
    except OSError:  # also if its id belongs to another user's process by now
        return False
    return True


async def _save_checkpoint(host: LeasedHost, checkpoint: Json) -> CheckpointSaved:
    """Save a checkpoint and return the answer to the handler."""
    try:
        await host.save_checkpoint(checkpoint)
    except ValueError as error:  # the queue message has no room for it
        return CheckpointSaved(str(error))
    return CheckpointSaved()
