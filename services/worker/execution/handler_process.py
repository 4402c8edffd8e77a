"""The main module of a handler process, which runs the attempts that the worker sends, one after another.

The process pool calls `main` with the file descriptor of a socket to the worker, and the log level.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import queue
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from headway import Job, JobContext
from headway.context import completed_awaitable
from headway.contracts import Json, Progress

from ...runtime import unhandled
from ...runtime.tracebacks import Traceback
from ..outcomes import Finished, RetryLater, decode_payload, outcome_from_exception, outcome_from_result
from .ipc import (
    LENGTH_PREFIX,
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
    encode_frame,
    frame_decoder,
)

PROGRESS_INTERVAL_S = 0.02  # between two frames with progress
MAX_POLL_S = 60.0  # of the socket, before the lease deadline is checked again
NO_DEADLINE = float("inf")
STANDARD_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # all others are `extra`
_decode = frame_decoder(ToProcess)


class ParentChannel:
    """The connection to the worker.

    If it breaks, or the lease deadline passes without an extension, the process group is killed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._lock = threading.Lock()
        self._lease_deadline = NO_DEADLINE
        self.stop_reason: str | None = None  # set when this process is to exit
        self.attempts: queue.SimpleQueue[RunAttempt] = queue.SimpleQueue()
        self.saved_checkpoints: queue.SimpleQueue[CheckpointSaved] = queue.SimpleQueue()

    def send(self, frame: FromProcess) -> None:
        """Send a frame to the worker; thread-safe."""
        data = encode_frame(frame)
        with self._lock:
            if isinstance(frame, AttemptFinished):
                self._lease_deadline = NO_DEADLINE
            self._socket.sendall(data)

    def read_loop(self) -> None:
        """Handle the worker's frames; when the connection ends, kill this process and all that it has started."""
        try:
            while True:
                match _decode(self._receive(*LENGTH_PREFIX.unpack(self._receive(LENGTH_PREFIX.size)))):
                    case RunAttempt() as request:
                        self._lease_deadline = request.lease_deadline
                        self.attempts.put(request)
                    case LeaseExtended(deadline):
                        with self._lock:  # an extension may arrive after the attempt has finished
                            self._lease_deadline = (
                                self._lease_deadline if self._lease_deadline == NO_DEADLINE else deadline
                            )
                    case StopAttempt(reason):
                        self.stop_attempt(reason)
                    case saved:
                        self.saved_checkpoints.put(saved)
        except (EOFError, TimeoutError, ConnectionError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            os.killpg(0, signal.SIGKILL)

    def check_lease(self) -> None:
        """Kill this process if the lease ended before the handler starts; the other thread may notice it later."""
        if time.monotonic() >= self._lease_deadline:
            os.killpg(0, signal.SIGKILL)

    def stop_attempt(self, reason: str) -> None:
        """Raise CancelledError in the handler, even while it blocks; the process exits when the handler has ended."""
        self.stop_reason = reason
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            if self._poll.poll(min(MAX_POLL_S, max(0.0, self._lease_deadline - time.monotonic())) * 1000):
                part = self._socket.recv(length - len(received))
                if not part:
                    raise EOFError("the worker closed the connection")
                received += part
            elif time.monotonic() >= self._lease_deadline:
                raise TimeoutError("the lease was not extended in time")
        return bytes(received)


class ProcessHost:
    """The progress sink of a handler in this process; it forwards progress and checkpoints to the worker."""

    def __init__(self, channel: ParentChannel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._collect: Callable[[], Progress]
        self._closed = False
        threading.Thread(target=self._send_progress_forever, name="progress", daemon=True).start()

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Called when the handler reports progress; a thread sends the latest within `PROGRESS_INTERVAL_S`."""
        self._collect = collect
        self._changed.set()

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Send a checkpoint and block until the worker has saved it.

        Raises:
            CancelledError: the attempt has finished.
        """
        if self._closed:
            raise asyncio.CancelledError("stop")
        self._channel.send(SaveCheckpoint(checkpoint))
        self._channel.saved_checkpoints.get()
        return completed_awaitable()

    def close(self) -> None:
        """Send the last progress, and drop any that follows."""
        self._send_progress()
        with self._lock:
            self._closed = True
        self._changed.set()

    def _send_progress_forever(self) -> None:
        while not self._closed:
            self._changed.wait()
            self._send_progress()
            time.sleep(PROGRESS_INTERVAL_S)

    def _send_progress(self) -> None:
        with self._lock:
            if self._changed.is_set() and not self._closed:
                self._changed.clear()
                self._channel.send(ProgressUpdate(self._collect()))


class ForwardingHandler(logging.Handler):
    """A log handler that forwards records to the worker, which adds the job's id and kind."""

    def __init__(self, channel: ParentChannel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record to the worker; its extra values become strings."""
        extra = {name: str(value) for name, value in vars(record).items() if name not in STANDARD_RECORD_FIELDS}
        self._channel.send(LogRecord(record.name, record.levelno, self.format(record), extra))


def run_attempt(request: RunAttempt, channel: ParentChannel) -> AttemptFinished:
    """Run an attempt and return its outcome; any exception of the handler becomes an outcome."""
    host = ProcessHost(channel)
    outcome: Finished | RetryLater
    trace: Traceback | None = None
    try:
        job = _find_job(request.module, request.attempt.kind)
        payload = decode_payload(job, request.payload)
        channel.check_lease()
        outcome = outcome_from_result(job.handler(JobContext(request.attempt, host), payload))
    except BaseException as error:
        outcome, trace = outcome_from_exception(error)
    host.close()
    return AttemptFinished(outcome, trace)


def _find_job(module: str, kind: str) -> Job[Any, Any]:
    jobs = vars(importlib.import_module(module)).values()
    return next(job for job in jobs if isinstance(job, Job) and job.kind == kind)


def main(descriptor: str, level: str) -> None:
    """Run attempts until the worker stops this process or the connection ends."""
    channel = ParentChannel(socket.socket(fileno=int(descriptor)))

    def cancel(*_: object) -> None:
        raise asyncio.CancelledError(channel.stop_reason or "stop")

    signal.signal(signal.SIGTERM, cancel)
    logging.basicConfig(level=int(level), format="%(message)s", handlers=[ForwardingHandler(channel)])
    unhandled.install()
    threading.Thread(target=channel.read_loop, name="parent-channel", daemon=True).start()
    with suppress(asyncio.CancelledError):
        while channel.stop_reason is None:
            channel.send(run_attempt(channel.attempts.get(), channel))
