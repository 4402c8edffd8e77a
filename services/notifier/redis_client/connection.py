"""A multiplexed Redis connection.

All callers share one connection instead of a pool; replies are matched to commands in FIFO order.

redis-py opens the connection (address, TLS, authentication) and then hands its transport to `RespProtocol`, because its
own reader costs more per reply than all other work of the notifier on that reply. The handover uses private attributes
of redis-py, whose version is pinned.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, MovedError, NoScriptError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

REPLY_TIMEOUT_S = 4.5
CHECK_INTERVAL_S = 0.5  # between two checks of REPLY_TIMEOUT_S
MAX_PENDING_COMMANDS = 20_000
MAX_WRITE_BUFFER_BYTES = 16 * 1024 * 1024
CONNECTION_LOST = "The connection to Redis was lost."
TOO_MANY_PENDING = "Too many commands wait for replies from Redis."
_ERRORS_BY_CODE = {"NOSCRIPT": NoScriptError, "READONLY": ReadOnlyError}
_REDIRECTS_BY_CODE = {"MOVED": MovedError, "ASK": AskError}

Command = tuple[Any, ...]  # the name and the arguments: str, bytes or numbers


class RespProtocol(asyncio.Protocol):
    """An open connection that encodes commands and parses replies (RESP2)."""

    def __init__(
        self, writer: asyncio.StreamWriter, on_reply: Callable[[Any], None], on_connection_lost: Callable[[], None]
    ) -> None:
        self._writer = writer  # a StreamWriter closes its transport when it is garbage-collected
        self._transport = writer.transport
        self._on_reply = on_reply
        self._on_connection_lost = on_connection_lost
        self._reader = hiredis.Reader(replyError=parse_error)

    @classmethod
    async def open(
        cls, connection: AbstractConnection, on_reply: Callable[[Any], None], on_connection_lost: Callable[[], None]
    ) -> RespProtocol:
        """Open a connection.

        Args:
            connection: a connection of redis-py that has not been opened.
            on_reply: called with each reply; an error reply is a ResponseError.
            on_connection_lost: called once, when the connection ends.

        Raises:
            RedisError: the server is unavailable or refuses the credentials.
            OSError: the server is unavailable.
        """
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            streams = cast(Any, connection)
            writer = streams._writer  # noqa: SLF001
            streams._reader = streams._writer = None  # noqa: SLF001 - or redis-py would close the transport
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        protocol = cls(writer, on_reply, on_connection_lost)
        writer.transport.set_protocol(protocol)
        if writer.transport.is_closing():  # connection_lost was called before the protocol was set
            asyncio.get_running_loop().call_soon(on_connection_lost)
        return protocol

    def data_received(self, data: bytes) -> None:
        """Called when the server sends bytes."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._on_reply(reply)

    def connection_lost(self, _error: Exception | None) -> None:
        """Called when the connection ends."""
        self._on_connection_lost()

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands.

        Raises:
            ConnectionError (redis-py's): the connection is lost, or its write buffer is full.
        """
        if self._transport.is_closing():  # connection_lost follows in a later iteration of the event loop
            raise RedisConnectionError(CONNECTION_LOST)
        if self._transport.get_write_buffer_size() > MAX_WRITE_BUFFER_BYTES:
            raise RedisConnectionError(TOO_MANY_PENDING)
        self._transport.write(b"".join([hiredis.pack_command(command) for command in commands]))

    def close(self) -> None:
        """Close the connection without waiting for buffered data."""
        self._transport.abort()


def parse_error(text: str) -> ResponseError:
    """Parse an error reply, such as `MOVED 866 127.0.0.1:7001`."""
    code, _, rest = text.partition(" ")
    if code in _REDIRECTS_BY_CODE:
        return _REDIRECTS_BY_CODE[code](rest)
    return _ERRORS_BY_CODE.get(code, ResponseError)(text)


class MultiplexedConnection:
    """A connection shared by all callers; it opens on first use and reopens after a loss.

    Args:
        new_connection: creates a connection of redis-py without opening it.
    """

    def __init__(self, new_connection: Callable[[], AbstractConnection]) -> None:
        self._new_connection = new_connection
        self._opening = asyncio.Lock()
        self._current: _OpenConnection | None = None

    def execute(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        """Send commands and return their replies; an error reply is returned as an exception in the list.

        Raises:
            RedisError: the server is unavailable, or the connection was lost before all replies arrived. In the
                latter case any of the commands may have run.
            OSError: as for RedisError.
        """
        current = self._current
        return self._open_and_execute(commands) if current is None or current.closed else current.send(commands)

    async def _open_and_execute(self, commands: Sequence[Command]) -> list[Any]:
        current = await self._ensure_open()
        return await current.send(commands)

    async def _ensure_open(self) -> _OpenConnection:
        async with asyncio.timeout(REPLY_TIMEOUT_S), self._opening:
            if self._current is None or self._current.closed:
                opened = _OpenConnection()
                opened.protocol = await RespProtocol.open(self._new_connection(), opened.on_reply, opened.fail_pending)
                opened.check_timeout()
                self._current = opened
            return self._current

    async def aclose(self) -> None:
        """Close the connection."""
        if self._current is not None and not self._current.closed:
            self._current.protocol.close()
            await asyncio.sleep(0)  # lets the event loop call connection_lost


class _PendingCommands:
    """Commands that were sent together, and the replies received so far."""

    __slots__ = ("count", "replies", "result", "sent_at")

    def __init__(self, count: int) -> None:
        self.result: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.sent_at = time.monotonic()
        self.count = count
        self.replies: list[Any] = []


class _OpenConnection:
    """An open connection and the commands that wait for replies."""

    protocol: RespProtocol

    def __init__(self) -> None:
        self._pending: deque[_PendingCommands] = deque()
        self._pending_count = 0  # commands without a reply
        self.closed = False

    def send(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands and return a future of their replies.

        Raises:
            ConnectionError (redis-py's): the connection is lost, or too many commands are pending.
        """
        if self._pending_count + len(commands) > MAX_PENDING_COMMANDS:
            raise RedisConnectionError(TOO_MANY_PENDING)
        self.protocol.send(commands)
        pending = _PendingCommands(len(commands))
        self._pending.append(pending)
        self._pending_count += len(commands)
        return pending.result

    def on_reply(self, reply: Any) -> None:
        """Called with each reply, in the order of the commands."""
        self._pending_count -= 1
        pending = self._pending[0]
        pending.replies.append(reply)
        if len(pending.replies) == pending.count:
            self._pending.popleft()
            if not pending.result.done():  # done if the caller was cancelled
                pending.result.set_result(pending.replies)
        if isinstance(reply, ReadOnlyError):  # after a failover; the next connection goes to the new primary
            self.protocol.close()

    def fail_pending(self) -> None:
        """Called when the connection ends. All waiting callers get a ConnectionError."""
        self.closed = True
        for pending in self._pending:
            if not pending.result.done():
                pending.result.set_exception(RedisConnectionError(CONNECTION_LOST))

    def check_timeout(self) -> None:
        """Close the connection if the oldest command has waited too long, and schedule the next check.

        One timer serves all commands.
        """
        if self.closed:
            return
        if self._pending and time.monotonic() - self._pending[0].sent_at > REPLY_TIMEOUT_S:
            self.protocol.close()
        asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self.check_timeout)
