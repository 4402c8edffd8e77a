"""Finds handlers that block the event loop. Meanwhile no lease is renewed and no report sent, of any job."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Container, Mapping
from typing import Any

import structlog
from structlog.contextvars import get_contextvars

from headway.context import Attempt

from ..runtime.tracebacks import thread_stack
from . import metrics
from .received_job import UNKNOWN_KIND

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CHECK_INTERVAL_S = 0.5
BLOCKED_AFTER_S = 1.0


class LoopWatchdog:
    """Logs what blocks the event loop for BLOCKED_AFTER_S or longer, and which job it belongs to.

    A thread observes a timer of the loop; it looks at the loop's stack only when the timer is late.

    Args:
        attempts: the running attempts, by the tasks of their handlers.
        kinds: the kinds of jobs that this worker knows.
    """

    def __init__(self, attempts: Mapping[asyncio.Task[Any], Attempt], kinds: Container[str]) -> None:
        self._attempts = attempts
        self._kinds = kinds
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._due_at = float("inf")  # when the loop's timer is due
        self._found: tuple[float, dict[str, str]] = (0.0, {})  # the timer that is late, and the job that delays it
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Watch the loop until cancelled."""
        threading.Thread(target=self._watch, name="loop-watchdog", daemon=True).start()
        try:
            while True:
                self._due_at = time.monotonic() + CHECK_INTERVAL_S
                await asyncio.sleep(CHECK_INTERVAL_S)
                late_s = time.monotonic() - self._due_at
                if late_s >= BLOCKED_AFTER_S:
                    self._on_unblocked(late_s)
        finally:
            self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_INTERVAL_S):
            due_at = self._due_at
            late_s = time.monotonic() - due_at
            if late_s >= BLOCKED_AFTER_S and self._found[0] != due_at:
                job = self._running_job()
                self._found = (due_at, job)
                where = thread_stack(self._thread_id)
                log.warning("event_loop_blocked", seconds=round(late_s, 1), where=where, **job)

    def _on_unblocked(self, late_s: float) -> None:
        due_at, job = self._found
        if due_at != self._due_at:  # the thread was blocked as well
            job = {}
        log.warning("event_loop_unblocked", seconds=round(late_s, 1), **job)
        kind = job.get("kind", UNKNOWN_KIND)
        metrics.LOOP_BLOCKED.labels(kind if kind in self._kinds else UNKNOWN_KIND).inc(late_s)

    def _running_job(self) -> dict[str, str]:
        """Return id and kind of the job whose task the loop executes; empty if it is not known."""
        task = asyncio.current_task(self._loop)
        if task is None:
            return {}
        if (attempt := self._attempts.get(task)) is not None:
            return {"job_id": str(attempt.job_id), "kind": attempt.kind}
        get_context = getattr(task, "get_context", None)  # Python 3.12 and later: also tasks that a handler has started
        values = {} if get_context is None else get_context().copy().run(get_contextvars)
        return {name: values[name] for name in ("job_id", "kind") if name in values}
