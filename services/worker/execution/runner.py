"""The runner: decodes the payload, runs the handler as its job requires, and returns the outcome of the attempt."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, cast

import structlog

from headway import Job, JobContext
from headway.context import Attempt
from headway.contracts import JobError, Json

from ..outcomes import Finished, LeaseLost, RetryLater, decode_payload, outcome_from_exception, outcome_from_result
from .leased_host import LeasedHost, check_lease, is_lease_over
from .process_pool import ProcessPool
from .thread_runner import run_in_thread

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Runner:
    """Runs attempts in the event loop, in threads and in processes."""

    def __init__(self, process_pool: ProcessPool) -> None:
        self._process_pool = process_pool

    async def run(
        self, job: Job[Any, Any], attempt: Attempt, payload: Json, host: LeasedHost, timeout_s: float | None
    ) -> Finished | RetryLater:
        """Run an attempt and return its outcome; any exception of the handler becomes an outcome.

        A `timeout_s` of None means no limit.

        Raises:
            LeaseLost: the lease ended before the handler started, or the handler stopped because of it.
        """
        timeout = AttemptTimeout(timeout_s)
        try:
            with timeout:
                outcome, traceback = await self._call(job, attempt, payload, host)
        except asyncio.CancelledError:
            if timeout.task.cancelling():
                raise
            if is_lease_over(host):
                raise LeaseLost("the handler stopped with the lease") from None
            if not timeout.expired:
                return RetryLater(JobError("CancelledError", "The handler cancelled itself."))
        except LeaseLost:
            raise
        except (Exception, SystemExit) as error:  # sys.exit() in a handler must not end the worker
            if not timeout.expired:
                return _log_failure(*outcome_from_exception(error), job.kind)
        else:
            return _log_failure(outcome, traceback, job.kind)
        return RetryLater(JobError("Timeout", f"The attempt took longer than {timeout_s:g} s."))

    async def _call(
        self, job: Job[Any, Any], attempt: Attempt, payload: Json, host: LeasedHost
    ) -> tuple[Finished | RetryLater, list[str]]:
        if job.process:
            finished = await self._process_pool.run(job, attempt, payload, host)
            return finished.outcome, finished.traceback
        decoded = decode_payload(job, payload)
        if inspect.iscoroutinefunction(job.handler):
            check_lease(host)
            return outcome_from_result(await job.handler(JobContext(attempt, host), decoded)), []
        return outcome_from_result(await run_in_thread(job, attempt, decoded, host)), []


def _log_failure(outcome: Finished | RetryLater, traceback: list[str], kind: str) -> Finished | RetryLater:
    if traceback and outcome.error is not None:
        log.warning("handler_failed", kind=kind, error=outcome.error.type, where=traceback)
    return outcome


class AttemptTimeout:
    """A context manager that cancels the current task with the argument `timeout` after some seconds.

    asyncio.timeout cancels without an argument, and a handler could not tell a timeout from a cancel.
    """

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
