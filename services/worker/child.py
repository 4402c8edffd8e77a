"""`python -m services.worker.child FD LEVEL`: runs the attempts that a worker tells it of, one after the other."""

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
from headway.context import Done
from headway.contracts import Json, Progress
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
)
from services.worker.frames import reader as reader_of
from services.worker.outcomes import Again, Ending, raised, read_payload, succeeded

SHOW_S = 0.02  # progress goes at most so often, which is more than anybody sees
LONGEST_S = 60.0  # that the line is waited on without a look at the clock
NEVER = float("inf")
OURS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # of a log record, what nobody has added
_read = reader_of(ToProcess)


class Line:
    """The line to the worker: when it breaks, or nobody says any more that the job is ours, all is over."""

    def __init__(self, line: socket.socket) -> None:
        self._socket = line
        self._poll = select.poll()
        self._poll.register(line, select.POLLIN)
        self._lock = threading.Lock()
        self._until = NEVER
        self.reason: str | None = None  # why this process shall end
        self.runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self.saved: queue.SimpleQueue[Saved] = queue.SimpleQueue()

    def tell(self, told: FromProcess) -> None:
        """Tell the worker something, from any thread."""
        text = frame(told)
        with self._lock:
            if isinstance(told, Ended):
                self._until = NEVER
            self._socket.sendall(text)

    def hear(self) -> None:
        """Hear the worker for as long as there is one; then end this process, and whatever it has started."""
        try:
            while True:
                match _read(self._receive(*LENGTH.unpack(self._receive(LENGTH.size)))):
                    case Run() as run:
                        self._until = run.until
                        self.runs.put(run)
                    case Until(until):
                        with self._lock:
                            self._until = self._until if self._until == NEVER else until
                    case Stop(reason):
                        self.stop(reason)
                    case saved:
                        self.saved.put(saved)
        except (EOFError, TimeoutError, ConnectionError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            os.killpg(0, signal.SIGKILL)

    def stop(self, reason: str) -> None:
        """Have the handler raise, whatever it waits for; at the latest when it ends, this process does."""
        self.reason = reason
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            if self._poll.poll(min(LONGEST_S, max(0.0, self._until - time.monotonic())) * 1000):
                part = self._socket.recv(length - len(received))
                if not part:
                    raise EOFError("the worker has gone")
                received += part
            elif time.monotonic() >= self._until:
                raise TimeoutError("the job may be another worker's")
        return bytes(received)


class Host:
    """What a handler's context speaks to here."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._due = threading.Event()
        self._take: Callable[[], Progress]
        self._over = False
        threading.Thread(target=self._show_often, name="progress", daemon=True).start()

    def due(self, take: Callable[[], Progress]) -> None:
        """Have it taken soon."""
        self._take = take
        self._due.set()

    def save(self, checkpoint: Json) -> Awaitable[None]:
        """Wait until the worker has kept a checkpoint."""
        if self._over:
            raise asyncio.CancelledError("stop")
        self._line.tell(Save(checkpoint))
        self._line.saved.get()
        return Done()

    def close(self) -> None:
        """Show what is left to show, and nothing after that."""
        self._show()
        with self._lock:
            self._over = True
        self._due.set()

    def _show_often(self) -> None:
        while not self._over:
            self._due.wait()
            self._show()
            time.sleep(SHOW_S)

    def _show(self) -> None:
        with self._lock:
            if self._due.is_set() and not self._over:
                self._due.clear()
                self._line.tell(Shown(self._take()))


class Log(logging.Handler):
    """Has the worker log it, which knows the job."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Tell the worker."""
        added = {name: str(value) for name, value in vars(record).items() if name not in OURS}
        self._line.tell(Logged(record.name, record.levelno, self.format(record), added))


def run(told: Run, line: Line) -> Ended:
    """Run an attempt to its end."""
    host = Host(line)
    outcome: Ending | Again
    where: list[str] = []
    try:
        job = _find(told.module, told.attempt.kind)
        payload = read_payload(job, told.payload)
        outcome = succeeded(job.handler(JobContext(told.attempt, host), payload))
    except BaseException as error:
        outcome, where = raised(error)
    host.close()
    return Ended(outcome, where)


def _find(module: str, kind: str) -> Job[..., Any]:
    jobs = vars(importlib.import_module(module)).values()
    return next(job for job in jobs if isinstance(job, Job) and job.kind == kind)


def main(descriptor: str, level: str) -> None:
    """Run what comes, until there is no worker any more or it says so."""
    line = Line(socket.socket(fileno=int(descriptor)))

    def cancel(*_: object) -> None:
        raise asyncio.CancelledError(line.reason or "stop")

    signal.signal(signal.SIGTERM, cancel)
    logging.basicConfig(level=int(level), format="%(message)s", handlers=[Log(line)])
    threading.Thread(target=line.hear, name="line", daemon=True).start()
    with suppress(asyncio.CancelledError):
        while line.reason is None:
            line.tell(run(line.runs.get(), line))


if __name__ == "__main__":
    main(*sys.argv[1:])
