"""The host of a handler as the ways of running it see it: a progress sink that knows the lease of its job."""

from __future__ import annotations

import time
from typing import Protocol

from headway.context import ProgressSink

from ..outcomes import LeaseLost


class LeasedHost(ProgressSink, Protocol):
    """A progress sink that knows the lease of its job."""

    @property
    def lease_deadline(self) -> float:
        """The monotonic time by which the handler must stop unless the lease is renewed; thread-safe."""


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
