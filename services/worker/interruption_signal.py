"""The signal that interrupts a delivery: it cancels the work in progress and decides how the message is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .outcomes import Interruption

T = TypeVar("T")


class InterruptionSignal:
    """The interruption of one delivery. The first one counts, except that a lost lease replaces any other."""

    def __init__(self) -> None:
        self._interrupted: asyncio.Future[Interruption] = asyncio.get_running_loop().create_future()
        self._ending = False

    @property
    def reason(self) -> Interruption | None:
        """The interruption, None if there is none."""
        return self._interrupted.result() if self._interrupted.done() else None

    def interrupt(self, reason: Interruption) -> None:
        """Interrupt the delivery, unless another interruption came first or its job is ending."""
        if self.reason is None and (reason is Interruption.LEASE_LOST or not self._ending):
            self._interrupted.set_result(reason)
        elif reason is Interruption.LEASE_LOST:
            self._interrupted = asyncio.get_running_loop().create_future()
            self._interrupted.set_result(reason)

    def begin_ending(self) -> None:
        """Ignore all interruptions but a lost lease from now on: the attempt has an outcome, which must not be lost."""
        self._ending = True
        if self.reason is not Interruption.LEASE_LOST:
            self._interrupted = asyncio.get_running_loop().create_future()

    async def race(self, work: Coroutine[Any, Any, T]) -> T | Interruption:
        """Run work until it completes or the delivery is interrupted; return the result or the interruption.

        Interrupted work is cancelled, with the reason as the argument of CancelledError, and awaited. Work that had
        completed before the cancellation reached it returns its result; an exception that it raises then is dropped.
        """
        if self.reason is not None:
            work.close()
            return self.reason
        task = asyncio.create_task(work)
        first: asyncio.Future[asyncio.Future[Any]] = asyncio.get_running_loop().create_future()
        for awaited in (task, self._interrupted):
            awaited.add_done_callback(lambda done: None if first.done() else first.set_result(done))
        try:
            await first
        finally:
            if not task.done():
                task.cancel(None if self.reason is None else self.reason.reason)
                await asyncio.wait({task})
        # Reading the exception marks it as retrieved, or asyncio would log it.
        failed = task.cancelled() or task.exception() is not None
        if self.reason is not Interruption.LEASE_LOST and (first.result() is task or not failed):
            return task.result()
        return self._interrupted.result()
