"""Connections without a WebSocket: the client's messages reach the replica that has the stream or poll through Redis.

So no request of a client needs to reach the replica of the one before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from typing import Any

from .....runtime.token_bucket import TokenBucket
from .... import metrics
from ....redis_client.lua_script import LuaScript
from ....redis_client.pubsub import PubSub
from ....redis_client.topology import RedisClient
from .protocols import MAX_BATCH_BYTES

SCRIPT = files(__package__).joinpath("inbox.lua").read_bytes()
MAX_WAITING_BYTES = MAX_BATCH_BYTES + 64 * 1024  # that a client has sent and no replica has handled
LIFETIME_MS = 120_000  # longer than a poll, and the pause before the next one
# What a replica stores for clients, which need no job token for it: at most 80 MB in this lifetime, and 20 MB until the
# memory of Redis is read again.
MAX_STORED_BYTES_PER_S, MAX_STORED_BYTES_AT_ONCE = 512 * 1024, 16 * 1024 * 1024
ENTRY_BYTES = 256  # that a message occupies in addition, with the key of its connection


def channel_of(connection_id: str) -> str:
    """Return the channel of a connection, which is also the key of its messages."""
    return f"headway:conn:{{{connection_id}}}"


class Poll:
    """A poll of a connection. What it reads stays in Redis until the session that has handled it is saved.

    If its replica ends before, nothing is lost: the next poll handles it again, with the session as it was before.

    Attributes:
        number: its number; a later poll of the same connection ends it.
        state: the session after the poll before, None without one.
        messages: what the client has sent since.
    """

    def __init__(self, run: Callable[..., Awaitable[Any]], number: int, state: bytes | None, messages: list[bytes]):
        self._run = run
        self._last_read = b"0"
        self.number = number
        self.state = state or None
        self.messages = self._read(messages)

    async def read(self) -> list[bytes] | None:
        """Return further messages, None if the connection has ended or a later poll has begun."""
        messages = await self._run("read", self.number, self._last_read)
        return None if messages is None else self._read(messages)

    async def save(self, state: bytes | None) -> bool:
        """Store the session, None without one; return False if the connection has ended or a later poll has begun."""
        handled = b"0" if state is None else self._last_read
        return bool(await self._run("save", self.number, state or b"", handled))

    def _read(self, messages: list[bytes]) -> list[bytes]:
        for message in messages[-1:]:
            self._last_read = message.partition(b":")[0]
        return [_without_number(message) for message in messages]


class Notices:
    """Notices about a connection.

    Attributes:
        changed: set when there may be messages, or the stream or poll has ended.
        has_ended: whether the client has closed the connection, or a later poll has begun.
        poll: the number of the poll, 0 of a stream.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.has_ended = False
        self.poll = 0

    def stop(self) -> None:
        """End the stream or poll."""
        self.has_ended = True
        self.changed.set()

    def on_subscribed(self, _channel: str) -> None:
        """Called when Redis confirms the subscription. Earlier notices may have been missed."""
        self.changed.set()

    def on_publication(self, _channel: str, data: bytes) -> None:
        """Called with each notice."""
        event, _, number = data.partition(b" ")
        if event == b"closed" or (event == b"poll" and self.poll and number.isdigit() and int(number) > self.poll):
            self.has_ended = True
        self.changed.set()


class Inbox:
    """The messages of connections without a WebSocket, and the sessions of those that poll.

    All methods raise RedisError or OSError if Redis is unavailable.

    Args:
        redis: the client.
        pubsub: the channels of the connections.
        is_full: returns whether the memory of Redis is left to the records.
    """

    def __init__(self, redis: RedisClient, pubsub: PubSub, is_full: Callable[[], bool]) -> None:
        self._script = LuaScript(redis, SCRIPT, key_count=2)
        self._pubsub = pubsub
        self._is_full = is_full
        self._budget = TokenBucket(MAX_STORED_BYTES_PER_S, MAX_STORED_BYTES_AT_ONCE, time.monotonic())
        self._notices: dict[str, Notices] = {}  # by channel; of the newest stream or poll of a connection

    @contextmanager
    def notices(self, connection_id: str) -> Iterator[Notices]:
        """Receive the notices about a connection until the block ends, in place of an earlier stream or poll."""
        notices, channel = Notices(), channel_of(connection_id)
        if (earlier := self._notices.get(channel)) is not None:
            earlier.stop()
        self._notices[channel] = notices
        if self._pubsub.subscribe(channel, notices):
            notices.changed.set()
        try:
            yield notices
        finally:
            if self._notices.get(channel) is notices:
                del self._notices[channel]
                self._pubsub.unsubscribe(channel)

    async def append(self, connection_id: str, message: bytes) -> str:
        """Store what a client has sent; return `accepted`, `full` (for this client or for all), or `closed`."""
        if self._is_full() or self._budget.acquire(time.monotonic(), len(message) + ENTRY_BYTES) > 0:
            metrics.LIMITS_EXCEEDED.labels("stored_bytes").inc()
            return "full"
        reply = await self._run(connection_id, "append", message, MAX_WAITING_BYTES)
        return bytes(reply).decode()

    async def take(self, connection_id: str) -> list[bytes] | None:
        """Return the messages that wait, and remove them; None if the connection has ended.

        For event streams: the loss of a replica that has taken messages ends the stream, so its client notices it.
        """
        messages = await self._run(connection_id, "take")
        return None if messages is None else [_without_number(message) for message in messages]

    async def begin_poll(self, connection_id: str) -> Poll | None:
        """Begin a poll, and end the one before; return None if the connection has ended, or too many were ended so."""
        number, closed, state, messages = await self._run(connection_id, "poll")
        return None if closed else Poll(partial(self._run, connection_id), number, state, messages)

    async def close(self, connection_id: str) -> None:
        """End a connection: further requests are refused, and the replica that has it is notified."""
        await self._run(connection_id, "close")

    async def _run(self, connection_id: str, command: str, *arguments: Any) -> Any:
        channel = channel_of(connection_id)
        (reply,) = await self._script.run([[channel, f"{channel}:session", command, LIFETIME_MS, *arguments]])
        return reply


def _without_number(message: bytes) -> bytes:
    return message.partition(b":")[2]
