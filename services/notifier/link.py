"""One connection to a Redis server, shared by all who ask it: no pool, and no round trip of one's own.

Answers come in the order of the questions. redis-py connects, signs in and reads the protocol; its own pools and
pipelines cost several times as much for each command.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ResponseError

Command = Sequence[Any]  # its words: text, bytes or numbers

ANSWER_S, WATCH_S = 4.5, 0.5  # a server that takes longer is as good as gone; how often that is looked at
LOST = "The connection to Redis was lost."
MOST = 20_000  # commands that may wait for an answer: whoever asks for more is told to come back


class Link:
    """A connection that opens when it is needed, and anew when it is lost."""

    def __init__(self, make: Callable[[], AbstractConnection]) -> None:
        self._make = make
        self._opening = asyncio.Lock()
        self._line: _Line | None = None

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Return the commands' answers, an exception for one that the server refused.

        Raises:
            RedisError: the server is away, or nobody knows which of the commands it ran.
        """
        line = self._line
        if line is None or line.closed:
            line = await self._opened()
        return await line.ask(commands)

    async def _opened(self) -> _Line:
        async with self._opening:
            if self._line is None or self._line.closed:
                connection = self._make()
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._line = _Line(connection)
            return self._line

    async def aclose(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.close()
            await self._line.over


class _Batch:
    """Commands whose answers are told together."""

    __slots__ = ("_count", "_told", "answers", "asked_at")

    def __init__(self, count: int, now: float) -> None:
        self.answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.asked_at = now
        self._count = count
        self._told: list[Any] = []

    def take(self, answer: Any) -> bool:
        """Take the next answer; tell whether it was the last."""
        self._told.append(answer)
        if len(self._told) < self._count:
            return False
        if not self.answers.done():  # whoever asked may have given up
            self.answers.set_result(self._told)
        return True

    def fail(self) -> None:
        """Tell that the rest will not come."""
        if not self.answers.done():
            self.answers.set_exception(Disconnected(LOST))


class _Line:
    """An open connection, until it is closed or lost."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._asked: deque[_Batch] = deque()
        self._waiting = 0  # commands without an answer
        self.closed = False
        self.over = asyncio.create_task(self._run())

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, and return their answers."""
        if self.closed or self._waiting + len(commands) > MOST:
            raise Disconnected(LOST if self.closed else "Too much waits for Redis.")
        batch = _Batch(len(commands), time.monotonic())
        self._asked.append(batch)
        self._waiting += len(commands)
        packed = [hiredis.pack_command(tuple(command)) for command in commands]
        # Nothing is awaited before this has written, so that questions leave in the order in which they wait.
        try:
            await self._connection.send_packed_command(packed, check_health=False)
        except BaseException as error:
            batch.answers.cancel()  # nobody waits for them
            if isinstance(error, AttributeError | RuntimeError):  # the reader has just closed the connection
                raise Disconnected(LOST) from error
            raise
        return await batch.answers

    def close(self) -> None:
        """Close, and fail all that waits."""
        self.closed = True
        self.over.cancel()

    async def _run(self) -> None:
        parts = [asyncio.create_task(part()) for part in (self._read, self._watch)]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # closed
        finally:
            self.closed = True
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._connection.disconnect(nowait=True)
            for batch in self._asked:
                batch.fail()

    async def _read(self) -> None:
        read = self._connection.read_response
        while True:
            try:
                answer = await read(disable_decoding=True, timeout=math.inf)
            except ResponseError as error:
                answer = error
            self._waiting -= 1
            if self._asked[0].take(answer):
                self._asked.popleft()

    async def _watch(self) -> None:
        """End when an answer does not come: one timer for all who wait."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self._asked and time.monotonic() - self._asked[0].asked_at > ANSWER_S:
                return
