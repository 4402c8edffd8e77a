"""The clients: processes that enqueue what they are told."""

from __future__ import annotations

import asyncio

from bench.processes import Process
from bench.worker.orders import SENT

ENQUEUE_S = 300.0  # the longest that a client may take


class Client(Process):
    """A process that enqueues what it is told through a pipe."""

    answers = True

    async def enqueue(self, kind: str, count: int = 1) -> None:
        """Have jobs enqueued, and wait until they are."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(f"{kind} {count}\n".encode())
        answer = await asyncio.wait_for(self._process.stdout.readline(), ENQUEUE_S)
        if answer.strip() != SENT.encode():
            await self._process.wait()
            self.check()
