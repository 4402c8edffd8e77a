"""Runs one attempt: from the payload's text, by the way that its handler asks for, to how the attempt ended."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, cast

import structlog

from headway import Job, JobContext
from headway.context import Attempt
from headway.contracts import JobError, Json
from services.worker.outcomes import Again, Ending, raised, read_payload, succeeded
from services.worker.processes import Keeper, Processes
from services.worker.threads import in_thread

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Runner:
    """Runs attempts in the loop, in threads, and in processes."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    async def run(
        self, job: Job[..., Any], attempt: Attempt, payload: Json, host: Keeper, timeout_s: float | None
    ) -> Ending | Again:
        """Run an attempt to its end; whatever goes wrong in it is an ending too."""
        limit = _Limit(timeout_s)
        try:
            with limit:
                outcome, where = await self._call(job, attempt, payload, host)
        except asyncio.CancelledError:
            if limit.task.cancelling():
                raise
            if not limit.expired:
                return Again(JobError("CancelledError", "The handler cancelled itself."))
        except (Exception, SystemExit) as error:  # sys.exit() in a handler ends the job, not the worker
            if not limit.expired:
                return _logged(*raised(error), job.kind)
        else:
            return _logged(outcome, where, job.kind)
        return Again(JobError("Timeout", f"The attempt took longer than {timeout_s:g} s."))

    async def _call(
        self, job: Job[..., Any], attempt: Attempt, payload: Json, host: Keeper
    ) -> tuple[Ending | Again, list[str]]:
        if job.process:
            ended = await self._processes.run(job, attempt, payload, host)
            return ended.outcome, ended.where
        decoded = read_payload(job, payload)
        if inspect.iscoroutinefunction(job.handler):
            return succeeded(await job.handler(JobContext(attempt, host), decoded)), []
        return succeeded(await in_thread(job, attempt, decoded, host)), []


def _logged(outcome: Ending | Again, where: list[str], kind: str) -> Ending | Again:
    if where and outcome.error is not None:
        log.warning("handler_failed", kind=kind, error=outcome.error.type, where=where)
    return outcome


class _Limit:
    """Cancels the running task when its time is over, and says so: asyncio.timeout cannot tell the handler why."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False
        self.task = cast("asyncio.Task[Any]", asyncio.current_task())

    def __enter__(self) -> None:
        if self._seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self.expired = True
        self.task.cancel("timeout")

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.expired:
            self.task.uncancel()
