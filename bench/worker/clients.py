"""The clients: processes that enqueue jobs on command."""

from __future__ import annotations

from bench.processes import Process
from bench.worker.commands import SENT


class Client(Process):
    """A process that enqueues jobs; it gets its commands through a pipe."""

    has_replies = True

    async def enqueue(self, kind: str, count: int = 1) -> None:
        """Enqueue jobs, and return when the client confirms it."""
        reply = await self.request(f"{kind} {count}")
        if reply != SENT.encode():
            raise RuntimeError(f"the client replied {reply!r} instead of {SENT!r}")
