"""A signed-in connection to a Redis server: words out, answers in, without a task or a stream in between.

redis-py finds the server, connects, speaks TLS and signs in. From then on its reader costs more for an answer than all
that the notifier does with it; so the transport is handed over, which rests on what is private to the pinned redis-py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as Disconnected

Command = tuple[Any, ...]  # its words: text, bytes or numbers

LEFT_BYTES = 16 * 1024 * 1024  # what may wait to be sent: more than that, and the server is too slow
LOST, FULL = "The connection to Redis was lost.", "Too much waits for Redis."
_REFUSALS = {"NOSCRIPT": NoScriptError, "READONLY": ReadOnlyError}
_ELSEWHERE = {"MOVED": MovedError, "ASK": AskError}


class Wire(asyncio.Protocol):
    """An open connection, until it is closed or lost."""

    def __init__(self, writer: asyncio.StreamWriter, took: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._writer = writer  # kept, since it closes its transport when it is forgotten
        self._transport = writer.transport
        self._took = took
        self._lost = lost
        self._reader = hiredis.Reader(replyError=_refusal)

    @classmethod
    async def open(cls, connection: AbstractConnection, took: Callable[[Any], None], lost: Callable[[], None]) -> Wire:
        """Connect; `took` is given what comes, a ResponseError for what is refused, and `lost` is told the end once.

        Raises:
            RedisError: the server is away, or lets nobody in.
            OSError: the same.
        """
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            streams = cast(Any, connection)
            writer = streams._writer  # noqa: SLF001
            streams._reader = streams._writer = None  # noqa: SLF001 - or it would close what is not its own any more
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        wire = cls(writer, took, lost)
        writer.transport.set_protocol(wire)
        if writer.transport.is_closing():  # its end has been told to nobody
            asyncio.get_running_loop().call_soon(lost)
        return wire

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            self._took(answer)

    def connection_lost(self, _error: Exception | None) -> None:
        """End."""
        self._lost()

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands. Raises redis-py's ConnectionError when the connection is lost, or takes nothing any more."""
        if self._transport.is_closing():  # before that is told
            raise Disconnected(LOST)
        if self._transport.get_write_buffer_size() > LEFT_BYTES:
            raise Disconnected(FULL)
        self._transport.write(b"".join([hiredis.pack_command(command) for command in commands]))

    def close(self) -> None:
        """Close at once."""
        self._transport.abort()


def _refusal(text: str) -> ResponseError:
    """Read an error that a server answers."""
    code, _, rest = text.partition(" ")
    if code in _ELSEWHERE:
        return _ELSEWHERE[code](rest)
    return _REFUSALS.get(code, ResponseError)(text)
