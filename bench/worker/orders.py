"""The orders that the bench gives a client over a pipe: `<kind> <count>` a line, each answered when all are enqueued.

Only the standard library: the peers import it in an environment of their own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

KINDS = ("noop", "nap")  # a handler that does nothing, and one that sleeps for as long as it may
NAP_S = 3600
SENT = "sent"


async def nothing() -> None:
    """Do nothing."""


async def serve(
    enqueue: Callable[[str], Awaitable[object]], at_once: int = 1, after: Callable[[], Awaitable[object]] = nothing
) -> None:
    """Enqueue what each line orders, so many at once, and do what is to be done after it, until the pipe is closed."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        kind, count = line.split()
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind}")
        for first in range(0, int(count), at_once):
            await asyncio.gather(*(enqueue(kind) for _ in range(min(at_once, int(count) - first))))
        await after()
        print(SENT, flush=True)
