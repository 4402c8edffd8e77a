"""What the Redis client uses of hiredis and redis-py: these tests fail if an update changes it."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from redis.asyncio.sentinel import Sentinel
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ConnectionError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from services.runtime.settings import Secret
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis


def test_hiredis_parses_replies_as_they_arrive() -> None:
    """A reply in pieces is returned when it is complete; False stands for no complete reply, None for a null."""
    reader = hiredis.Reader()
    reader.feed(b"*3\r\n$3\r\na")
    assert reader.gets() is False
    reader.feed(b"\r\n\r\n:7\r\n$-1\r\n+OK\r\n")
    assert reader.gets() == [b"a\r\n", 7, None]
    assert reader.gets() == b"OK"
    assert reader.gets() is False


def test_hiredis_returns_errors_as_the_given_function_does() -> None:
    """An error is returned and not raised, also within an array."""
    reader = hiredis.Reader(replyError=lambda text: ResponseError(text.upper()))
    reader.feed(b"-moved 1\r\n*1\r\n-ask 2\r\n")
    error, (nested,) = reader.gets(), reader.gets()
    assert [(type(each), str(each)) for each in (error, nested)] == [
        (ResponseError, "MOVED 1"),
        (ResponseError, "ASK 2"),
    ]


def test_hiredis_refuses_other_protocols() -> None:
    """Bytes that are not RESP raise an exception of its own."""
    reader = hiredis.Reader()
    reader.feed(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(hiredis.ProtocolError):
        reader.gets()


def test_hiredis_packs_commands() -> None:
    """Arguments may be text, bytes, numbers or a subclass of str."""
    command: tuple[Any, ...] = ("SET", b"\xff", 12, 1.5, Secret("ü"))
    assert (
        hiredis.pack_command(command) == b"*5\r\n$3\r\nSET\r\n$1\r\n\xff\r\n$2\r\n12\r\n$3\r\n1.5\r\n$2\r\n\xc3\xbc\r\n"
    )


def test_redis_py_computes_slots() -> None:
    """The slot is that of the hash tag in braces, if there is one."""
    assert (
        key_slot(b"123456789") == 12_739
    )  # https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
    assert key_slot(b"headway:job:{123456789}") == 12_739


def test_redis_py_parses_redirects() -> None:
    """A redirect has the address of the other node; MOVED is a kind of ASK."""
    moved = MovedError("3999 10.0.0.7:6381")
    assert (moved.host, moved.port) == ("10.0.0.7", 6381)
    assert isinstance(moved, AskError)


def test_all_errors_are_redis_errors() -> None:
    """Callers catch RedisError and OSError."""
    for error in (AskError, AuthenticationError, ConnectionError, NoScriptError, ReadOnlyError, ResponseError):
        assert issubclass(error, RedisError)


async def test_sentinel_names_the_primary() -> None:
    """`discover_master` returns the address of a primary that the sentinels consider alive."""
    state = [b"name", b"mine", b"ip", b"10.0.0.7", b"port", b"6381", b"flags", b"master", b"num-other-sentinels", b"2"]
    reply = b"*1\r\n*%d\r\n" % len(state) + b"\r\n".join(b"$%d\r\n%b" % (len(part), part) for part in state)
    async with FakeRedis.running() as fake:
        fake.handshake_replies = {b"CLIENT": b"+OK", b"AUTH": b"+OK", b"SENTINEL": reply}
        kwargs = {"protocol": 2, "username": "s", "password": "q", "socket_timeout": 5, "socket_connect_timeout": 5}
        sentinel = Sentinel([fake.address], sentinel_kwargs=kwargs)  # type: ignore[no-untyped-call]
        assert await sentinel.discover_master("mine") == ("10.0.0.7", 6381)
        await sentinel.aclose()
        assert [b"AUTH", b"s", b"q"] in fake.handshake_commands
