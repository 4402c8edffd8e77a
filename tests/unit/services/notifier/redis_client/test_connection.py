"""A multiplexed connection to a fake server that replies, disconnects or stays silent as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from redis.exceptions import AskError, MovedError, NoScriptError
from redis.exceptions import ConnectionError as Disconnected

from services.notifier.redis_client import connection as module
from services.notifier.redis_client.connection import MultiplexedConnection, OpenConnection
from services.notifier.redis_client.topology import DEFAULT_NODE
from services.notifier.redis_client.url import redis_from_url
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis
from tests.waiting import wait_until


@pytest.fixture
async def fake() -> AsyncIterator[FakeRedis]:
    """Run a fake server."""
    async with FakeRedis.running() as fake:
        yield fake


@pytest.fixture
async def connection(fake: FakeRedis) -> AsyncIterator[MultiplexedConnection]:
    """Return a connection to the fake server."""
    redis = redis_from_url(f"redis://127.0.0.1:{fake.address.port}")
    connection = MultiplexedConnection(partial(redis.connect, DEFAULT_NODE))
    yield connection
    await connection.aclose()


def send(connection: MultiplexedConnection, *names: str) -> asyncio.Future[list[Any]]:
    """Send commands and return a future of their replies."""
    return asyncio.ensure_future(connection.execute([(name,) for name in names]))


async def test_replies_are_matched_to_commands(connection: MultiplexedConnection, fake: FakeRedis) -> None:
    """Concurrent callers share a connection, and each gets the replies to its own commands, errors included."""
    first, second = send(connection, "A", "B"), send(connection, "C")
    await wait_until(lambda: len(fake.commands) == 3)
    fake.reply(b":1", b"-ERR no", b":3")
    number, error = await first
    assert (number, str(error)) == (1, "ERR no")
    assert await second == [3]
    assert fake.commands == [[b"A"], [b"B"], [b"C"]]
    assert len(fake.connections) == 1


async def test_no_commands_have_no_replies(connection: MultiplexedConnection, fake: FakeRedis) -> None:
    """The replies to the next commands are not shifted."""
    first, second, third = send(connection, "A"), send(connection), send(connection, "B")
    assert await second == []
    await wait_until(lambda: len(fake.commands) == 2)
    fake.reply(b":1", b":2")
    assert (await first, await third) == ([1], [2])


async def test_error_replies_are_parsed(connection: MultiplexedConnection, fake: FakeRedis) -> None:
    """A redirection and a missing script have their own types of exception; a redirection has an address."""
    replies = send(connection, "A", "B", "C")
    await wait_until(lambda: len(fake.commands) == 3)
    fake.reply(b"-MOVED 3999 10.0.0.7:6381", b"-ASK 3999 ::1:6381", b"-NOSCRIPT No matching script.")
    moved, redirected, no_script = await replies
    assert (type(moved), moved.host, moved.port) == (MovedError, "10.0.0.7", 6381)
    assert (type(redirected), redirected.host, redirected.port) == (AskError, "::1", 6381)
    assert type(no_script) is NoScriptError


async def test_a_cancelled_caller_does_not_shift_the_replies(
    connection: MultiplexedConnection, fake: FakeRedis
) -> None:
    """The reply to a cancelled caller is dropped, and the next caller gets its own reply."""
    first, second = send(connection, "A"), send(connection, "B")
    await wait_until(lambda: len(fake.commands) == 2)
    first.cancel()
    fake.reply(b"+to A", b"+to B")
    assert await second == [b"to B"]


async def test_a_lost_connection_fails_pending_commands(connection: MultiplexedConnection, fake: FakeRedis) -> None:
    """All waiting callers get a ConnectionError, and the next command opens another connection."""
    first, second = send(connection, "A"), send(connection, "B", "C")
    await wait_until(lambda: len(fake.commands) == 3)
    fake.reply(b"+to A", b"+to B")
    assert await first == [b"to A"]
    fake.disconnect_all()
    with pytest.raises(Disconnected):
        await second
    later = send(connection, "D")
    await wait_until(lambda: len(fake.commands) == 4)
    fake.reply(b"+to D")
    assert await later == [b"to D"]
    assert len(fake.connections) == 2


async def test_a_read_only_server_is_left(connection: MultiplexedConnection, fake: FakeRedis) -> None:
    """After a READONLY error the connection is closed, and the next command opens a new one."""
    first = send(connection, "A")
    await wait_until(lambda: len(fake.commands) == 1)
    fake.reply(b"-READONLY You can't write against a read only replica.")
    (error,) = await first
    assert "READONLY" in str(error)
    send(connection, "B")
    await wait_until(lambda: len(fake.connections) == 2)


async def test_a_missing_reply_closes_the_connection(
    connection: MultiplexedConnection, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command without a reply fails after the timeout, and the connection is closed."""
    monkeypatch.setattr(module, "REPLY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "CHECK_INTERVAL_S", 0.01)
    with pytest.raises(Disconnected):
        await connection.execute([("A",)])
    await wait_until(fake.connections[0].transport.is_closing)


async def test_a_hanging_handshake_fails_all_callers_at_once(
    connection: MultiplexedConnection, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers that wait for the same handshake time out together, not one after the other."""
    monkeypatch.setattr(module, "REPLY_TIMEOUT_S", 1)
    fake.completes_handshake = False
    async with asyncio.timeout(40):
        results = await asyncio.gather(*(send(connection, "A") for _ in range(50)), return_exceptions=True)
    assert {type(result) for result in results} == {TimeoutError}
    fake.completes_handshake = True
    later = send(connection, "B")
    await wait_until(lambda: fake.commands == [[b"B"]])
    fake.reply(b"+to B")
    assert await later == [b"to B"]


@pytest.mark.parametrize("limit", ["MAX_PENDING_COMMANDS", "MAX_WRITE_BUFFER_BYTES"])
async def test_commands_over_a_limit_are_rejected(
    connection: MultiplexedConnection, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Pending commands and unsent bytes are bounded, and a rejected command is not sent."""
    first = send(connection, "A", "B")
    await wait_until(lambda: len(fake.commands) == 2)
    monkeypatch.setattr(module, limit, 2 if limit == "MAX_PENDING_COMMANDS" else -1)
    with pytest.raises(Disconnected, match="Too many commands wait"):
        await connection.execute([("C",)])
    fake.reply(b":1", b":2")
    assert await first == [1, 2]
    assert fake.commands == [[b"A"], [b"B"]]


async def test_a_retired_connection_closes_after_the_last_reply(
    connection: MultiplexedConnection, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pending commands still get their replies; a later command opens a connection that closes again."""
    check_timeout, checks = OpenConnection.check_timeout, []

    def recorded_check(self: OpenConnection) -> None:
        check_timeout(self)
        checks.append(self.closed)

    monkeypatch.setattr(OpenConnection, "check_timeout", recorded_check)
    monkeypatch.setattr(module, "CHECK_INTERVAL_S", 0.01)
    for name in ("A", "B"):
        reply = send(connection, name)
        await wait_until(partial(fake.commands.__contains__, [name.encode()]))
        connection.retire()
        checks.clear()
        await wait_until(lambda: len(checks) > 1)
        fake.reply(b":1")
        assert await reply == [1]
        await wait_until(lambda: not fake.open_connections())
    assert len(fake.connections) == 2
