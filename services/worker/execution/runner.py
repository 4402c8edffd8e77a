"""The runner: decodes the payload, runs the handler as its job requires, and returns the outcome of the attempt.

A handler runs in a task of its own, so that it cannot cancel the worker's tasks, and the worker can give it up.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog

from headway import Job
from headway.context import Attempt
from headway.contracts import Json

from ...runtime.forked_child import ForkBarrier
from ...runtime.process_state import ProcessState
from ...runtime.tracebacks import task_stack
from .. import metrics
from ..outcomes import (
    Finished,
    LeaseLost,
    RetryLater,
    decode_payload,
    outcome_from_exception,
    outcome_from_result,
    public_failure,
)
from .leased_host import LeasedContext, LeasedHost, check_lease, is_lease_over
from .process_pool import ProcessPool
from .thread_runner import handler_thread_stack, run_in_thread

log: structlog.stdlib.BoundLogger = structlog.get_logger()

ABANDON_AFTER_S = 10.0  # after its time limit or lease, a handler that has not stopped is abandoned
NEVER = float("inf")

AttemptTask = asyncio.Task[Finished | RetryLater]


class Runner:
    """Runs attempts in the event loop, in threads and in processes.

    Attributes:
        attempts: the attempts whose handlers run now, by the tasks of the handlers.
        abandoned: the tasks of handlers that still run, although their attempts have an outcome. Each keeps its slot.

    Args:
        process_pool: runs the handlers of jobs with `process=True`.
        recancel_interval_s: how often a handler is cancelled again that runs on when its lease is over.
        process_state: the settings to restore after each attempt, which its handler may have changed.
    """

    def __init__(
        self, process_pool: ProcessPool, recancel_interval_s: float = 1.0, process_state: ProcessState | None = None
    ) -> None:
        self._process_pool = process_pool
        self._recancel_interval_s = recancel_interval_s
        self._process_state = process_state
        self.attempts: dict[AttemptTask, Attempt] = {}
        self.abandoned: set[AttemptTask] = set()

    async def run(
        self, job: Job[Any, Any], attempt: Attempt, payload: Json, host: LeasedHost, timeout_s: float | None
    ) -> Finished | RetryLater:
        """Run an attempt and return its outcome; any exception of the handler becomes an outcome.

        On cancellation, the handler is cancelled with the same reason. This waits until it has stopped, and raises
        CancelledError, whatever the handler returns then.

        A `timeout_s` of None means no limit. A handler that does not stop within ABANDON_AFTER_S after its time limit,
        or after the end of its lease, is abandoned.

        Raises:
            LeaseLost: the lease ended before the handler started, or the handler stopped because of it.
        """
        handler = asyncio.create_task(self._call(job, attempt, payload, host))
        self.attempts[handler] = attempt
        handler.add_done_callback(self._on_handler_done)
        started, timed_out = time.monotonic(), False
        try:
            await asyncio.wait({handler}, timeout=timeout_s)
            if timed_out := not handler.done():
                handler.cancel("timeout")
                await self._wait_for_stop(handler, host, time.monotonic() + ABANDON_AFTER_S)
        except asyncio.CancelledError as interruption:
            if handler.done() and not handler.cancelled():  # the handler ended before the interruption reached it
                return _outcome(handler, job.kind, timeout_s if timed_out else None)
            if not timed_out:
                handler.cancel(*interruption.args)
            # Without a bound for `stop`: the job must not be released while its handler has effects.
            bounded = timeout_s is not None and interruption.args != ("stop",)
            end = started + (timeout_s or 0) + ABANDON_AFTER_S
            await self._wait_for_stop(handler, host, end if bounded else NEVER)
            self._abandon_if_running(handler, attempt, started)
            raise
        self._abandon_if_running(handler, attempt, started)
        if handler.cancelled() and is_lease_over(host):
            raise LeaseLost("the handler stopped with the lease")
        return _outcome(handler, job.kind, timeout_s if timed_out else None)

    async def _wait_for_stop(self, handler: AttemptTask, host: LeasedHost, give_up_at: float) -> None:
        """Wait for a cancelled handler to stop, at most until the monotonic time `give_up_at`.

        When its lease is over, the handler is cancelled again and again, for at most ABANDON_AFTER_S.
        """
        lease_over = False
        while not handler.done():
            left_s = max(0.0, give_up_at - time.monotonic())
            await asyncio.wait({handler}, timeout=min(left_s, self._recancel_interval_s))
            if time.monotonic() >= give_up_at:
                return
            if is_lease_over(host):
                handler.cancel("lease")
                if not lease_over:
                    lease_over, give_up_at = True, min(give_up_at, time.monotonic() + ABANDON_AFTER_S)

    def _on_handler_done(self, handler: AttemptTask) -> None:
        del self.attempts[handler]
        if not handler.cancelled():
            handler.exception()  # marks LeaseLost as retrieved: a run that was cancelled ignores it

    async def _call(
        self, job: Job[Any, Any], attempt: Attempt, payload: Json, host: LeasedHost
    ) -> Finished | RetryLater:
        """Call the handler and return its outcome; raise only CancelledError and LeaseLost."""
        try:
            if job.process:
                return await self._process_pool.run(job, attempt, payload, host)
            decoded = decode_payload(job, payload)
            if job.is_async:
                check_lease(host)
                with ForkBarrier():
                    result = await job.handler(LeasedContext(attempt, host, host), decoded)
                return outcome_from_result(result)
            return outcome_from_result(await run_in_thread(job, attempt, decoded, host))
        except (asyncio.CancelledError, LeaseLost):
            raise
        except BaseException as error:  # also KeyboardInterrupt, sys.exit() and exceptions of libraries
            return outcome_from_exception(error)
        finally:
            if self._process_state is not None:
                self._process_state.restore()  # before another task runs

    def _abandon_if_running(self, handler: AttemptTask, attempt: Attempt, started: float) -> None:
        if handler.done():
            return
        where = handler_thread_stack(attempt) or task_stack(handler)
        log.warning("handler_abandoned", kind=attempt.kind, seconds=round(time.monotonic() - started, 1), where=where)
        metrics.ATTEMPTS_ABANDONED.labels(attempt.kind).inc()
        metrics.HANDLERS_ABANDONED.inc()
        self.abandoned.add(handler)

        def on_end(handler: AttemptTask) -> None:
            self.abandoned.discard(handler)
            metrics.HANDLERS_ABANDONED.dec()
            log.info("abandoned_handler_ended", kind=attempt.kind, seconds=round(time.monotonic() - started, 1))

        handler.add_done_callback(on_end)


def _outcome(handler: AttemptTask, kind: str, exceeded_timeout_s: float | None) -> Finished | RetryLater:
    """Return the outcome of an attempt, logging the traceback of a bug.

    A handler that exceeded its time limit has the error `Timeout`, unless it has returned a result nevertheless.
    """
    if not handler.done():
        message = f"The attempt took longer than {exceeded_timeout_s:g} s and could not be stopped."
        return RetryLater(public_failure("Timeout", message), abandoned=True)
    outcome = None if handler.cancelled() else handler.result()
    if exceeded_timeout_s is not None and (outcome is None or outcome.status != "succeeded"):
        return RetryLater(public_failure("Timeout", f"The attempt took longer than {exceeded_timeout_s:g} s."))
    if outcome is None:
        return RetryLater(public_failure("CancelledError", "The handler cancelled itself."))
    if (failure := outcome.failure) is not None and failure.traceback is not None:
        log.warning("handler_failed", kind=kind, error=failure.error.type, **failure.traceback.log_fields())
    return outcome
