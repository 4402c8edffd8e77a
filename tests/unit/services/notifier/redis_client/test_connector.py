"""Opening connections to Redis, over real sockets: the handshake, and everything that can fail in it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from services.notifier.redis_client import connector as module
from services.notifier.redis_client.connection import OpenConnection, RespProtocol
from services.notifier.redis_client.connector import ConnectionOptions, Connector, NodeAddress
from services.notifier.redis_client.tls import TlsOptions
from services.runtime.settings import Secret
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis
from tests.waiting import free_ports, wait_until

PASSWORD = "hunter2"
USER = ConnectionOptions(username="headway", password=Secret(PASSWORD))
REPLICA = b"*4\r\n+proto\r\n:2\r\n+role\r\n+replica"
NOT_REDIS = b"HTTP/1.1 400 Bad Request"


@pytest.fixture
async def fake() -> AsyncIterator[FakeRedis]:
    """Run a fake server."""
    async with FakeRedis.running() as fake:
        yield fake


async def connect(address: NodeAddress, **options: Any) -> RespProtocol:
    """Open a connection; options that are not given have a default."""
    arguments = {"options": ConnectionOptions(), "tls": None, "primary_only": True, **options}
    return await Connector(**arguments).connect(address)


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        (ConnectionOptions(), ["HELLO 2 SETNAME headway-notifier"]),
        (USER, ["HELLO 2 AUTH headway hunter2 SETNAME headway-notifier"]),
        (ConnectionOptions(password=Secret("p ss")), ["HELLO 2 AUTH default p\0ss SETNAME headway-notifier"]),
        (ConnectionOptions(username="open"), ["HELLO 2 AUTH open  SETNAME headway-notifier"]),
        (ConnectionOptions(db=3, client_name="mine"), ["HELLO 2 SETNAME mine", "SELECT 3"]),
    ],
    ids=["anonymous", "user", "password", "user without password", "database"],
)
async def test_the_handshake_has_all_options(fake: FakeRedis, options: ConnectionOptions, commands: list[str]) -> None:
    """Protocol, credentials, name and database are set before the first other command."""
    opened = OpenConnection(await connect(fake.address, options=options))
    assert fake.handshake_commands == [
        [part.replace("\0", " ").encode() for part in one.split(" ")] for one in commands
    ]
    replies = opened.send([("PING",)])
    await wait_until(lambda: fake.commands == [[b"PING"]])
    fake.reply(b"+PONG")
    assert await replies == [b"PONG"]


@pytest.mark.parametrize(
    ("command", "reply", "error", "message"),
    [
        (b"HELLO", b"-WRONGPASS invalid username-password pair", AuthenticationError, "WRONGPASS invalid"),
        (b"HELLO", b"-NOAUTH HELLO must be called authenticated", AuthenticationError, "NOAUTH HELLO"),
        (b"HELLO", b"-ERR unknown command 'HELLO'", ResponseError, "unknown command"),
        (b"HELLO", REPLICA, ReadOnlyError, r"Redis at 127.0.0.1:\d+ is a replica."),
        (b"HELLO", NOT_REDIS, RedisConnectionError, "connection to Redis was lost"),
        (b"SELECT", b"-ERR DB index is out of range", ResponseError, "DB index is out of range"),
        (b"SELECT", b"-NOPERM this user has no permissions", ResponseError, "NOPERM this user"),
    ],
)
async def test_a_refused_handshake_raises_the_reason(
    fake: FakeRedis,
    command: bytes,
    reply: bytes,
    error: type[RedisError],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is the server's, without the password, and the connection is closed."""
    fake.handshake_replies[command] = reply
    with pytest.raises(error, match=message) as raised:
        await connect(fake.address, options=ConnectionOptions(username="u", password=Secret(PASSWORD), db=1))
    assert PASSWORD not in repr(raised.value) + str(raised.value)
    assert caplog.records == []  # asyncio logs what a protocol raises
    await wait_until(fake.connections[0].transport.is_closing)


@pytest.mark.parametrize("reply", [REPLICA, b"*0", b"+OK", b"*2\r\n*0\r\n+role"])
async def test_a_replica_may_be_accepted(fake: FakeRedis, reply: bytes) -> None:
    """Any node of a cluster is asked for the slots; a server that names no role counts as a primary."""
    fake.handshake_replies[b"HELLO"] = reply
    protocol = await connect(fake.address, primary_only=reply != REPLICA)
    protocol.close()


async def test_a_connection_that_ends_during_the_handshake_raises(fake: FakeRedis) -> None:
    """The server may disconnect before it answers."""
    fake.completes_handshake = False
    connecting = asyncio.create_task(connect(fake.address))
    await wait_until(lambda: fake.handshake_commands)
    fake.disconnect_all()
    with pytest.raises(RedisConnectionError, match="was lost"):
        await connecting


async def test_a_cancelled_handshake_closes_the_connection(fake: FakeRedis) -> None:
    """A caller limits the time of a handshake by cancelling it."""
    fake.completes_handshake = False
    connecting = asyncio.create_task(connect(fake.address))
    await wait_until(lambda: fake.handshake_commands)
    connecting.cancel()
    await wait_until(fake.connections[0].transport.is_closing)


async def test_a_connection_lost_after_the_handshake_is_reported(fake: FakeRedis) -> None:
    """A caller that begins to listen after the loss is notified of it once, too."""
    protocol = await connect(fake.address)
    fake.disconnect_all()
    await wait_until(lambda: protocol._lost)
    losses: list[str] = []
    protocol.listen(lambda _reply: None, lambda: losses.append("lost"))
    await wait_until(lambda: losses)
    assert losses == ["lost"]


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", None), ("redis..example", 1), ("x" * 70, 1), ("::1", 99_999)])
async def test_an_unreachable_address_raises(host: str, port: int | None) -> None:
    """Nothing listens at the address, or it is not valid."""
    address = NodeAddress(host, port or free_ports(1)[0])
    with pytest.raises(RedisConnectionError, match=f"^Cannot connect to Redis at {address}: ."):
        await connect(address)


async def test_a_connection_that_takes_too_long_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers the TLS handshake is given up."""
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = NodeAddress(*server.getsockname())
        with pytest.raises(RedisConnectionError, match=f"^Cannot connect to Redis at {address}: TimeoutError$"):
            await connect(address, tls=TlsOptions())


async def test_an_idle_connection_is_kept_alive(fake: FakeRedis) -> None:
    """The kernel sends probes, or a firewall would forget the connection."""
    protocol = await connect(fake.address)
    assert protocol._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    protocol.close()
