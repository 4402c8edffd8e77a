"""The clients: processes that enqueue what they are told."""

from __future__ import annotations

from bench.processes import Process
from bench.worker.orders import SENT


class Client(Process):
    """A process that enqueues what it is told through a pipe."""

    answers = True

    async def enqueue(self, kind: str, count: int = 1) -> None:
        """Have jobs enqueued, and wait until they are."""
        answer = await self.ask(f"{kind} {count}")
        if answer != SENT.encode():
            raise RuntimeError(f"the client did not answer {SENT!r}, but {answer!r}")
