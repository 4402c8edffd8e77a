"""The commands that a client gets through a pipe: lines `<kind> <count>`, confirmed when the jobs are enqueued.

This module uses only the standard library, since the peers import it in a separate environment.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

KINDS = ("noop", "nap")  # a handler that does nothing, and one that sleeps
SLEEP_S = 3600
SENT = "sent"


async def nothing() -> None:
    """Do nothing."""


async def serve(
    enqueue: Callable[[str], Awaitable[object]],
    concurrency: int = 1,
    on_sent: Callable[[], Awaitable[object]] = nothing,
) -> None:
    """Run commands until the pipe is closed.

    Args:
        enqueue: enqueues a job of the given kind.
        concurrency: how many jobs are enqueued at the same time.
        on_sent: called on_sent each command, before it is confirmed.

    Raises:
        ValueError: a command names an unknown kind.
    """
    while line := await asyncio.to_thread(sys.stdin.readline):
        kind, count = line.split()
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind}")
        for first in range(0, int(count), concurrency):
            await asyncio.gather(*(enqueue(kind) for _ in range(min(concurrency, int(count) - first))))
        await on_sent()
        print(SENT, flush=True)
