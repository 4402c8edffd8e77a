"""A link to a server that answers, fails or says nothing when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import AskError, MovedError, NoScriptError
from redis.exceptions import ConnectionError as Disconnected

from services.notifier.redis_client import connection as link_module
from services.notifier.redis_client.connection import MultiplexedConnection
from services.notifier.redis_client.topology import NodeAddress
from services.notifier.redis_client.url import redis_from_url
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis
from tests.waiting import wait_until


@pytest.fixture
async def fake() -> AsyncIterator[FakeRedis]:
    """Run a server."""
    async with FakeRedis.running() as fake:
        yield fake


@pytest.fixture
async def link(fake: FakeRedis) -> AsyncIterator[MultiplexedConnection]:
    """Make a link to it."""
    servers = redis_from_url(f"redis://127.0.0.1:{fake.address.port}")
    link = MultiplexedConnection(lambda: servers.new_connection(NodeAddress()))
    yield link
    await link.aclose()


def ask(link: MultiplexedConnection, *names: str) -> asyncio.Future[list[Any]]:
    """Ask something; its answers will come."""
    return asyncio.ensure_future(link.execute([(name,) for name in names]))


async def test_answers_find_who_asked(link: MultiplexedConnection, fake: FakeRedis) -> None:
    """Whoever asks at once shares one connection; answers come in the order of the questions, refusals among them."""
    one, other = ask(link, "A", "B"), ask(link, "C")
    await wait_until(lambda: len(fake.asked) == 3)
    fake.answer(b":1", b"-ERR no", b":3")
    first, second = await one
    assert (first, str(second)) == (1, "ERR no")
    assert await other == [3]
    assert fake.asked == [[b"A"], [b"B"], [b"C"]]
    assert len(fake.connections) == 1


async def test_refusals_are_told_apart(link: MultiplexedConnection, fake: FakeRedis) -> None:
    """Those that say where or how to ask again have types of their own, and an address."""
    asked = ask(link, "A", "B", "C")
    await wait_until(lambda: len(fake.asked) == 3)
    fake.answer(b"-MOVED 3999 10.0.0.7:6381", b"-ASK 3999 ::1:6381", b"-NOSCRIPT No matching script.")
    moved, elsewhere, unknown = await asked
    assert (type(moved), moved.host, moved.port) == (MovedError, "10.0.0.7", 6381)
    assert (type(elsewhere), elsewhere.host, elsewhere.port) == (AskError, "::1", 6381)
    assert type(unknown) is NoScriptError


async def test_who_gives_up_shifts_nobodys_answer(link: MultiplexedConnection, fake: FakeRedis) -> None:
    """The answer to a question that nobody waits for any more is nobody else's."""
    one, other = ask(link, "A"), ask(link, "B")
    await wait_until(lambda: len(fake.asked) == 2)
    one.cancel()
    fake.answer(b"+to A", b"+to B")
    assert await other == [b"to B"]


async def test_a_lost_connection_fails_all_who_wait_and_is_opened_anew(
    link: MultiplexedConnection, fake: FakeRedis
) -> None:
    """Nobody knows what was done of what they asked, and the next question is asked over another connection."""
    one, other = ask(link, "A"), ask(link, "B", "C")
    await wait_until(lambda: len(fake.asked) == 3)
    fake.answer(b"+to A", b"+to B")
    assert await one == [b"to A"]
    fake.cut()
    with pytest.raises(Disconnected):
        await other
    again = ask(link, "D")
    await wait_until(lambda: len(fake.asked) == 4)
    fake.answer(b"+to D")
    assert await again == [b"to D"]
    assert len(fake.connections) == 2


async def test_a_server_that_no_longer_leads_is_left(link: MultiplexedConnection, fake: FakeRedis) -> None:
    """It refuses to write; the next connection asks anew who leads."""
    one = ask(link, "A")
    await wait_until(lambda: len(fake.asked) == 1)
    fake.answer(b"-READONLY You can't write against a read only replica.")
    (refused,) = await one
    assert "READONLY" in str(refused)
    ask(link, "B")
    await wait_until(lambda: len(fake.connections) == 2)


async def test_a_server_that_says_nothing_is_gone(
    link: MultiplexedConnection, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for an answer too long learns that it is in doubt, and the connection is closed."""
    monkeypatch.setattr(link_module, "REPLY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(link_module, "CHECK_INTERVAL_S", 0.01)
    with pytest.raises(Disconnected):
        await link.execute([("A",)])
    await wait_until(fake.connections[0].transport.is_closing)


async def test_a_server_that_lets_nobody_in_holds_up_nobody(
    link: MultiplexedConnection, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts a connection and says nothing: all who want it are told so together, not one after the other."""
    monkeypatch.setattr(link_module, "REPLY_TIMEOUT_S", 0.2)
    fake.lets_in = False
    async with asyncio.timeout(5):
        told = await asyncio.gather(*(ask(link, "A") for _ in range(50)), return_exceptions=True)
    assert {type(one) for one in told} == {TimeoutError}
    fake.lets_in = True
    again = ask(link, "B")
    await wait_until(lambda: fake.asked == [[b"B"]])
    fake.answer(b"+to B")
    assert await again == [b"to B"]


@pytest.mark.parametrize("limit", ["MAX_PENDING_COMMANDS", "MAX_WRITE_BUFFER"])
async def test_more_than_a_server_can_take_is_refused_at_once(
    link: MultiplexedConnection, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """What waits is bounded, and whoever is refused has asked nothing."""
    one = ask(link, "A", "B")
    await wait_until(lambda: len(fake.asked) == 2)
    monkeypatch.setattr(link_module, limit, 2 if limit == "MAX_PENDING_COMMANDS" else -1)
    with pytest.raises(Disconnected, match="Too many commands wait"):
        await link.execute([("C",)])
    fake.answer(b":1", b":2")
    assert await one == [1, 2]
    assert fake.asked == [[b"A"], [b"B"]]
