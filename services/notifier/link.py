"""One connection to a Redis server, shared by all who ask it: no pool, and no round trip of one's own.

Answers come in the order of the questions, and what is asked in one turn of the loop leaves together.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ReadOnlyError

from services.notifier.wire import FULL, LOST, Command, Wire

ANSWER_S, WATCH_S = 4.5, 0.5  # a server that takes longer is as good as gone; how often that is looked at
MOST = 20_000  # commands that may wait for an answer: whoever asks for more is told to come back


class Link:
    """A connection that opens when it is needed, and anew when it is lost."""

    def __init__(self, make: Callable[[], AbstractConnection]) -> None:
        self._make = make
        self._opening = asyncio.Lock()
        self._line: _Line | None = None

    def call(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        """Send commands; their answers will come, an exception for one that the server refused.

        Raises:
            RedisError: the server is away, or nobody knows which of the commands it ran.
            OSError: the same.
        """
        line = self._line
        return self._call_anew(commands) if line is None or line.closed else line.ask(commands)

    async def _call_anew(self, commands: Sequence[Command]) -> list[Any]:
        line = await self._opened()
        return await line.ask(commands)

    async def _opened(self) -> _Line:
        async with asyncio.timeout(ANSWER_S), self._opening:  # one that accepts and then says nothing holds up nobody
            if self._line is None or self._line.closed:
                line = _Line()
                line.wire = await Wire.open(self._make(), line.take, line.end)
                line.watch()
                self._line = line
            return self._line

    async def aclose(self) -> None:
        """Close the connection."""
        if self._line is not None and not self._line.closed:
            self._line.wire.close()
            await asyncio.sleep(0)  # until it knows


class _Batch:
    """Commands whose answers are told together."""

    __slots__ = ("answers", "asked_at", "count", "told")

    def __init__(self, count: int) -> None:
        self.answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.asked_at = time.monotonic()
        self.count = count
        self.told: list[Any] = []


class _Line:
    """An open connection, and who waits for its answers."""

    wire: Wire

    def __init__(self) -> None:
        self._asked: deque[_Batch] = deque()
        self._waiting = 0  # commands without an answer
        self.closed = False

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands; their answers will come."""
        if self._waiting + len(commands) > MOST:
            raise Disconnected(FULL)
        self.wire.send(commands)
        batch = _Batch(len(commands))
        self._asked.append(batch)
        self._waiting += len(commands)
        return batch.answers

    def take(self, answer: Any) -> None:
        """Take the next answer."""
        self._waiting -= 1
        batch = self._asked[0]
        batch.told.append(answer)
        if len(batch.told) == batch.count:
            self._asked.popleft()
            if not batch.answers.done():  # whoever asked may have given up
                batch.answers.set_result(batch.told)
        if isinstance(answer, ReadOnlyError):  # a server that no longer leads: the next connection asks who does
            self.wire.close()

    def end(self) -> None:
        """Fail all who wait: nobody knows what became of what they asked."""
        self.closed = True
        for batch in self._asked:
            if not batch.answers.done():
                batch.answers.set_exception(Disconnected(LOST))

    def watch(self) -> None:
        """Close when an answer does not come: one timer for all who wait."""
        if self.closed:
            return
        if self._asked and time.monotonic() - self._asked[0].asked_at > ANSWER_S:
            self.wire.close()
        asyncio.get_running_loop().call_later(WATCH_S, self.watch)
