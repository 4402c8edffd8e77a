"""The host of a handler, a progress sink that knows the lease of its job, and the context that obeys this lease."""

from __future__ import annotations

import time
from typing import Protocol

from headway import JobContext
from headway.context import Attempt, ProgressSink

from ..outcomes import LeaseLost


class LeasedHost(ProgressSink, Protocol):
    """A progress sink that knows the lease of its job."""

    @property
    def lease_deadline(self) -> float:
        """The monotonic time by which the handler must stop unless the lease is renewed; thread-safe."""


class LeasedContext(JobContext):
    """A context whose calls stop the handler when the lease is over.

    The handler may not notice its cancellation: a blocked event loop delays it, a thread sees it in these calls only,
    and an `async def` may swallow it.
    """

    def __init__(self, attempt: Attempt, sink: ProgressSink, host: LeasedHost) -> None:
        self._host = host
        super().__init__(attempt, sink)

    @property
    def cancelled(self) -> str | None:
        """Why the handler must stop, None while it may continue."""
        if self._reason is None and is_lease_over(self._host):
            return "lease"
        return self._reason

    @cancelled.setter
    def cancelled(self, reason: str | None) -> None:
        self._reason = reason


def is_lease_over(host: LeasedHost) -> bool:
    """Return whether the handler must not run any more, although its cancellation may be late."""
    return time.monotonic() >= host.lease_deadline


def check_lease(host: LeasedHost) -> None:
    """Check the lease as the last step before a handler starts: a blocked event loop may have delayed the start.

    Raises:
        LeaseLost: the lease is over.
    """
    if is_lease_over(host):
        raise LeaseLost("the lease ended before the handler started")
