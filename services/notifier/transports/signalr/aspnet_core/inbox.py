"""Connections without a WebSocket: the client's messages reach the replica that has the stream or poll through Redis.

So no request of a client needs to reach the replica of the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, NamedTuple

from ....redis_client.lua_script import LuaScript
from ....redis_client.pubsub import PubSub
from ....redis_client.topology import RedisClient

SCRIPT = files(__package__).joinpath("inbox.lua").read_bytes()
MAX_WAITING_BYTES = 128 * 1024  # that a client has sent and no replica has taken
LIFETIME_MS = 120_000  # longer than a poll, and the pause before the next one


def channel_of(connection_id: str) -> str:
    """Return the channel of a connection, which is also the key of its messages."""
    return f"headway:conn:{{{connection_id}}}"


class Poll(NamedTuple):
    """What a poll begins with.

    Attributes:
        number: its number; a later poll of the same connection ends it.
        is_closed: whether the client has closed the connection.
        state: the session after the poll before, None without one.
        messages: what the client has sent since.
    """

    number: int
    is_closed: bool
    state: bytes | None
    messages: list[bytes]


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
        self._notices: dict[str, Notices] = {}  # by channel; of the newest stream or poll of a connection

    @contextmanager
    def notices(self, connection_id: str) -> Iterator[Notices]:
        """Receive the notices about a connection until the block ends."""
        notices, channel = Notices(), channel_of(connection_id)
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
        """Store what a client has sent; return `accepted`, `full`, or `closed`."""
        if self._is_full():
            return "full"
        reply = await self._run(connection_id, "append", message, MAX_WAITING_BYTES)
        return bytes(reply).decode()

    async def take(self, connection_id: str) -> list[bytes]:
        """Return the messages that wait, and remove them."""
        return list(await self._run(connection_id, "take"))

    async def begin_poll(self, connection_id: str) -> Poll:
        """Begin a poll, and end the one before."""
        number, closed, state, messages = await self._run(connection_id, "poll")
        return Poll(number, closed is not None, state, messages)

    async def save(self, connection_id: str, poll: int, state: bytes) -> bool:
        """Store a session at the end of a poll; return False if a later poll has begun."""
        return bool(await self._run(connection_id, "save", poll, state))

    async def close(self, connection_id: str) -> None:
        """End a connection: further messages are refused, and the replica that has it is notified."""
        await self._run(connection_id, "close")

    async def _run(self, connection_id: str, command: str, *arguments: Any) -> Any:
        channel = channel_of(connection_id)
        (reply,) = await self._script.run([[channel, f"{channel}:session", command, LIFETIME_MS, *arguments]])
        return reply
