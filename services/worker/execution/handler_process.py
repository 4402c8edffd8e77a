"""A handler process, started by the process pool with a socket's file descriptor and the log level as arguments.

It runs the attempts that the worker sends, one after another.
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
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from headway import Job, JobContext
from headway.context import completed_awaitable
from headway.contracts import Json, Progress

from ..outcomes import Finished, RetryLater, decode_payload, outcome_from_exception, outcome_from_result
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
)
from .ipc import message_decoder as reader_of

PROGRESS_INTERVAL_S = 0.02  # progress goes at most so often, which is more than anybody sees
MAX_POLL_S = 60.0  # that the line is waited on without a look at the clock
NO_DEADLINE = float("inf")
STANDARD_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
}  # of a log record, what nobody has added
_decode = reader_of(ToProcess)


class ParentChannel:
    """The line to the worker: when it breaks, or nobody says any more that the job is ours, all is over."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._lock = threading.Lock()
        self._lease_deadline = NO_DEADLINE
        self.reason: str | None = None  # why this process shall end
        self.runs: queue.SimpleQueue[RunAttempt] = queue.SimpleQueue()
        self.saved: queue.SimpleQueue[CheckpointSaved] = queue.SimpleQueue()

    def send(self, message: FromProcess) -> None:
        """Tell the worker something, from any thread."""
        text = encode_message(message)
        with self._lock:
            if isinstance(message, AttemptFinished):
                self._lease_deadline = NO_DEADLINE
            self._socket.sendall(text)

    def read_loop(self) -> None:
        """Hear the worker for as long as there is one; then end this process, and whatever it has started."""
        try:
            while True:
                match _decode(self._receive(*LENGTH.unpack(self._receive(LENGTH.size)))):
                    case RunAttempt() as run:
                        self._lease_deadline = run.lease_deadline
                        self.runs.put(run)
                    case LeaseExtended(until):
                        with self._lock:
                            self._lease_deadline = (
                                self._lease_deadline if self._lease_deadline == NO_DEADLINE else until
                            )
                    case StopAttempt(reason):
                        self.stop_attempt(reason)
                    case saved:
                        self.saved.put(saved)
        except (EOFError, TimeoutError, ConnectionError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            os.killpg(0, signal.SIGKILL)

    def stop_attempt(self, reason: str) -> None:
        """Have the handler raise, whatever it waits for; at the latest when it ends, this process does."""
        self.reason = reason
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            if self._poll.poll(min(MAX_POLL_S, max(0.0, self._lease_deadline - time.monotonic())) * 1000):
                part = self._socket.recv(length - len(received))
                if not part:
                    raise EOFError("the worker has gone")
                received += part
            elif time.monotonic() >= self._lease_deadline:
                raise TimeoutError("the job may be another worker's")
        return bytes(received)


class ProcessHost:
    """What a handler's context speaks to here."""

    def __init__(self, channel: ParentChannel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._collect: Callable[[], Progress]
        self._closed = False
        threading.Thread(target=self._send_progress_forever, name="progress", daemon=True).start()

    def progress_changed(self, collect: Callable[[], Progress]) -> None:
        """Have it taken soon."""
        self._collect = collect
        self._changed.set()

    def save_checkpoint(self, checkpoint: Json) -> Awaitable[None]:
        """Wait until the worker has kept a checkpoint."""
        if self._closed:
            raise asyncio.CancelledError("stop")
        self._channel.send(SaveCheckpoint(checkpoint))
        self._channel.saved.get()
        return completed_awaitable()

    def close(self) -> None:
        """Show what is left to show, and nothing after that."""
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
    """Has the worker log it, which knows the job."""

    def __init__(self, channel: ParentChannel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Tell the worker."""
        extra = {name: str(value) for name, value in vars(record).items() if name not in STANDARD_RECORD_FIELDS}
        self._channel.send(LogRecord(record.name, record.levelno, self.format(record), extra))


def run_attempt(request: RunAttempt, channel: ParentChannel) -> AttemptFinished:
    """Run an attempt to its end."""
    host = ProcessHost(channel)
    outcome: Finished | RetryLater
    where: list[str] = []
    try:
        job = _find_job(request.module, request.attempt.kind)
        payload = decode_payload(job, request.payload)
        outcome = outcome_from_result(job.handler(JobContext(request.attempt, host), payload))
    except BaseException as error:
        outcome, where = outcome_from_exception(error)
    host.close()
    return AttemptFinished(outcome, where)


def _find_job(module: str, kind: str) -> Job[..., Any]:
    jobs = vars(importlib.import_module(module)).values()
    return next(job for job in jobs if isinstance(job, Job) and job.kind == kind)


def main(descriptor: str, level: str) -> None:
    """Run what comes, until there is no worker any more or it says so."""
    channel = ParentChannel(socket.socket(fileno=int(descriptor)))

    def cancel(*_: object) -> None:
        raise asyncio.CancelledError(channel.reason or "stop")

    signal.signal(signal.SIGTERM, cancel)
    logging.basicConfig(level=int(level), format="%(message)s", handlers=[ForwardingHandler(channel)])
    threading.Thread(target=channel.read_loop, name="line", daemon=True).start()
    with suppress(asyncio.CancelledError):
        while channel.reason is None:
            channel.send(run_attempt(channel.runs.get(), channel))


if __name__ == "__main__":
    main(*sys.argv[1:])
