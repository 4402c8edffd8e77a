"""Where snapshots go: open connections of every transport, counted, swept and closed by one house.

There is no task, timer or queue of its own for any of them. A pipe is written to directly, awaiting nothing; over its
buffer limit it takes no snapshots, and gets the newest of each job once it drains.
"""

from __future__ import annotations

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import structlog

from headway.tokens import Pass
from services.notifier import metrics
from services.notifier.hub import Snapshot, Watch
from services.notifier.live import Live
from services.notifier.settings import NotifierSettings
from services.runtime.errors import ServiceUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger()

BUFFER_BYTES = 256 * 1024  # what may wait in a transport before its connection counts as slow
FLUSH_S = 0.1
TICK_S = 1.0
RETRY_AFTER_S = 2


class Outlet(ABC):
    """One open connection; none of its methods but `end` waits for anything, and not all have something to do."""

    transport: ClassVar[str]
    lasting: ClassVar[bool] = True  # whether its opening and its closing are told apart
    __slots__ = ("_connection", "opened_at", "origin", "watches")

    def __init__(self, connection: asyncio.Transport, origin: str | None) -> None:
        self.watches: dict[str, Watch] = {}
        self.opened_at = time.monotonic()
        self.origin = None if origin is None else sys.intern(origin)  # of the page; most are the same
        self._connection = connection

    @property
    def gone(self) -> bool:
        """Tell whether the other side has left."""
        return self._connection.is_closing()

    @property
    def code(self) -> int | None:
        """Tell how it closed, where the transport has a code for that."""
        return None

    @abstractmethod
    def push(self, job_id: str, snapshot: Snapshot) -> bool:
        """Take a newer snapshot of a job, unless too much waits already; tell whether it was taken."""

    @abstractmethod
    def tell(self, job_id: str | None, code: str, message: str) -> None:
        """Take an error about one job, or about what was asked."""

    def caught_up(self, job_id: str, *, ended: bool) -> None:  # noqa: B027
        """Take that the job's record was read, and has nothing newer now."""

    def beat(self) -> None:  # noqa: B027
        """Show that this side lives, and see whether the other does."""

    def stuck_s(self, now: float) -> float:  # noqa: ARG002
        """Return for how long nothing has been taken though too much waits."""
        return 0.0

    def give_up(self) -> None:  # noqa: B027
        """Close, since the other side takes nothing."""

    @abstractmethod
    def check(self) -> None:
        """Let go of a connection whose other side has left."""

    @abstractmethod
    async def end(self) -> None:
        """Close, since the service restarts."""


class Pipe(Outlet):
    """An outlet that bytes are written to for as long as it is open."""

    __slots__ = ("_stuck_since", "_waiting")

    def __init__(self, connection: asyncio.Transport, origin: str | None) -> None:
        super().__init__(connection, origin)
        self._waiting = 0  # bytes, when the connection was last looked at
        self._stuck_since: float | None = None

    @abstractmethod
    def spell_error(self, error: dict[str, str]) -> bytes:
        """Return the bytes that tell an error here."""

    def tell(self, job_id: str | None, code: str, message: str) -> None:
        """Write an error; who asks much and reads nothing is cut off."""
        if self.slow():
            self.abort()
        else:
            self.write(self.spell_error(problem(job_id, code, message)))

    def slow(self) -> bool:
        """Tell whether too much waits already."""
        return self._connection.get_write_buffer_size() > BUFFER_BYTES

    def stuck_s(self, now: float) -> float:
        """Return for how long nothing has been taken though too much waits."""
        before, self._waiting = self._waiting, self._connection.get_write_buffer_size()
        if self._waiting <= BUFFER_BYTES or self._waiting < before:
            self._stuck_since = None
            return 0.0
        if self._stuck_since is None:
            self._stuck_since = now
        return now - self._stuck_since

    def give_up(self) -> None:
        """End a connection that takes nothing."""
        metrics.REFUSED.labels("stuck").inc()
        self.abort()

    def write(self, data: bytes) -> None:
        """Write ready bytes, unless the connection is closing."""
        if not self._connection.is_closing():
            self._connection.write(data)

    def abort(self) -> None:
        """End the connection without a word."""
        self._connection.abort()


def problem(job_id: str | None, code: str, message: str) -> dict[str, str]:
    """Spell an error as every transport tells it."""
    return {"code": code, "message": message} | ({} if job_id is None else {"job_id": job_id})


class Outlets:
    """All open connections of this replica."""

    def __init__(self, live: Live, settings: NotifierSettings) -> None:
        self._live = live
        self._settings = settings
        self._open: set[Outlet] = set()
        self.late: set[Outlet] = set()  # those that have refused a snapshot, and will not tell when they take more
        self.draining = False

    def full(self) -> bool:
        """Tell whether there is no room for another connection, and count it as refused then."""
        full = len(self._open) >= self._settings.max_connections
        if full:
            metrics.REFUSED.labels("connections").inc()
        return full

    def make_room(self) -> None:
        """Refuse a request that would hold a connection open when there are too many."""
        if self.full():
            raise ServiceUnavailable(
                "Too many connections are open; try again.", code="overloaded", retry_after_s=RETRY_AFTER_S
            )

    @contextmanager
    def open(self, outlet: Outlet) -> Iterator[None]:
        """Serve an outlet for the length of the block."""
        self.opened(outlet)
        try:
            yield
        finally:
            self.closed(outlet)

    def opened(self, outlet: Outlet) -> None:
        """Serve an outlet from now on."""
        self._open.add(outlet)
        metrics.CONNECTIONS.labels(outlet.transport).inc()
        metrics.OPENED.labels(outlet.transport).inc()
        if outlet.lasting:
            log.info("connection_opened", transport=outlet.transport, origin=outlet.origin)

    def closed(self, outlet: Outlet) -> None:
        """Take that an outlet has closed, if it was ever served."""
        if outlet not in self._open:
            return
        self._open.discard(outlet)
        self.late.discard(outlet)
        for watch in outlet.watches.values():
            self._live.unwatch(watch)
        outlet.watches.clear()  # each knows the outlet: a cycle, which might outlive thousands of connections
        metrics.CONNECTIONS.labels(outlet.transport).dec()
        metrics.CLOSED.labels(outlet.transport, outlet.code or "none").inc()
        duration_s = round(time.monotonic() - outlet.opened_at, 3)
        metrics.CONNECTION_DURATION.labels(outlet.transport).observe(duration_s)
        if outlet.lasting:
            log.info(
                "connection_closed",
                transport=outlet.transport,
                origin=outlet.origin,
                code=outlet.code,
                duration_s=duration_s,
            )

    def watch(self, outlet: Outlet, granted: Pass, version: int | None) -> None:
        """Begin a watch for an outlet, unless it has too many."""
        watch = Watch(outlet, granted, version)
        if watch.job_id not in outlet.watches and len(outlet.watches) >= self._settings.max_watches:
            metrics.REFUSED.labels("watches").inc()
            most = self._settings.max_watches
            outlet.tell(watch.job_id, "too_many_watches", f"One connection may watch {most} jobs.")
            return
        outlet.watches[watch.job_id] = watch
        self._live.watch(watch)

    def unwatch(self, outlet: Outlet, job_id: str) -> None:
        """End a watch of an outlet, if it has that."""
        watch = outlet.watches.pop(job_id, None)
        if watch is not None:
            self._live.unwatch(watch)

    def resume(self, outlet: Outlet) -> None:
        """Show an outlet that may take more again what it has missed."""
        self.late.discard(outlet)
        for watch in list(outlet.watches.values()):
            self._live.resume(watch)

    async def sweep(self) -> None:
        """Ask slow streams often, see after all connections every second, and give a sign of life now and then."""
        ticked_at = beaten_at = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH_S)
            for outlet in list(self.late):
                self.resume(outlet)
            now = time.monotonic()
            if now - ticked_at < TICK_S:
                continue
            ticked_at = now
            for outlet in list(self._open):
                outlet.check()
                if outlet.stuck_s(now) > self._settings.stuck_s:
                    outlet.give_up()
            if now - beaten_at >= self._settings.ping_s:
                beaten_at = now
                for outlet in list(self._open):
                    outlet.beat()

    async def drain(self) -> None:
        """Refuse new connections, and close the open ones evenly over `drain_s`, so that others take them up evenly."""
        self.draining = True
        outlets, began = list(self._open), time.monotonic()
        async with asyncio.TaskGroup() as closing:
            for number, outlet in enumerate(outlets, 1):
                self.resume(outlet)
                closing.create_task(outlet.end())
                await asyncio.sleep(began + self._settings.drain_s * number / len(outlets) - time.monotonic())
