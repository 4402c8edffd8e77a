"""What clients of the hub without a WebSocket send, and the sessions of their polls, in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from services.notifier.transports.signalr.aspnet_core.inbox import MAX_WAITING_BYTES, Inbox, Poll, channel_of

ID = "connection"


@pytest.fixture
async def inbox(redis: Redis, stores: dict[str, str]) -> AsyncIterator[Inbox]:
    """Yield an inbox in the emptied Valkey."""
    async with redis_from_url(stores["REDIS_URL"]) as client:
        yield Inbox(client, PubSub(client), lambda: False)


async def begin_poll(inbox: Inbox) -> Poll:
    """Begin a poll of a connection that has not ended."""
    poll = await inbox.begin_poll(ID)
    assert poll is not None
    return poll


async def test_a_message_stays_until_its_session_is_saved(inbox: Inbox) -> None:
    """If a replica is killed during a poll, the next poll gets what the client has sent to it once more."""
    for message in (b"first", b"second"):
        assert await inbox.append(ID, message) == "accepted"
    killed = await begin_poll(inbox)
    await inbox.append(ID, b"third")
    assert (killed.messages, await killed.read()) == ([b"first", b"second"], [b"third"])
    assert await killed.read() == []
    poll = await begin_poll(inbox)
    assert (poll.state, poll.messages) == (None, [b"first", b"second", b"third"])
    await inbox.append(ID, b"fourth")
    assert await poll.save(b"state")
    poll = await begin_poll(inbox)
    assert (poll.state, poll.messages) == (b"state", [b"fourth"])


async def test_a_poll_without_a_session_keeps_all_messages(inbox: Inbox) -> None:
    """The client has sent a part of its handshake."""
    await inbox.append(ID, b"{")
    assert await (await begin_poll(inbox)).save(None)
    assert (await begin_poll(inbox)).messages == [b"{"]


async def test_a_later_poll_ends_the_one_before(inbox: Inbox) -> None:
    """The earlier one gets no more messages, and cannot overwrite the session of the later one."""
    earlier, later = await begin_poll(inbox), await begin_poll(inbox)
    await inbox.append(ID, b"message")
    assert (await earlier.read(), await earlier.save(b"earlier")) == (None, False)
    assert (await later.read(), await later.save(b"later")) == ([b"message"], True)
    assert (await begin_poll(inbox)).state == b"later"


async def test_what_no_replica_handles_expires(inbox: Inbox, redis: Redis) -> None:
    """A client cannot keep it by sending more. What is left of messages that are handled has its whole time again."""
    await inbox.append(ID, b"first")
    await redis.pexpire(channel_of(ID), 10_000)
    await inbox.append(ID, b"second")
    assert await redis.pttl(channel_of(ID)) <= 10_000
    poll = await begin_poll(inbox)
    await inbox.append(ID, b"third")
    await poll.save(b"state")
    assert await redis.pttl(channel_of(ID)) > 10_000


async def test_a_client_cannot_repeat_its_calls_with_polls(inbox: Inbox) -> None:
    """Each poll that ends the one before handles again what waits, so a client that is never answered is closed."""
    await inbox.append(ID, b"message")
    for _ in range(2):
        polls = [await begin_poll(inbox) for _ in range(10)]
        assert polls[-1].messages == [b"message"]
        assert await polls[-1].save(None)
    polls = [await begin_poll(inbox) for _ in range(10)]
    assert await inbox.begin_poll(ID) is None
    assert (await polls[-1].read(), await inbox.append(ID, b"message")) == (None, "closed")


async def test_a_poll_survives_the_loss_of_the_data(inbox: Inbox, redis: Redis) -> None:
    """It stores its session again, and what the client has sent meanwhile is not taken for what it had read before."""
    await inbox.append(ID, b"before")
    poll = await begin_poll(inbox)
    await redis.flushall()
    await inbox.append(ID, b"after")
    assert await poll.save(b"state")
    poll = await begin_poll(inbox)
    assert (poll.state, poll.messages) == (b"state", [b"after"])


async def test_a_stream_takes_messages(inbox: Inbox) -> None:
    """A replica that is killed after that ends the stream, which its client notices."""
    await inbox.append(ID, b"message")
    assert (await inbox.take(ID), await inbox.take(ID)) == ([b"message"], [])


async def test_what_waits_is_bounded(inbox: Inbox) -> None:
    """Messages that are handled make room. Empty ones count, too, or a client could fill the memory with them."""
    message = b"x" * (MAX_WAITING_BYTES // 3)
    for _ in range(2):
        assert [await inbox.append(ID, message) for _ in range(3)] == ["accepted", "accepted", "full"]
        await inbox.take(ID)
    await inbox.append(ID, message)
    poll = await begin_poll(inbox)
    assert [await inbox.append(ID, message) for _ in range(2)] == ["accepted", "full"]
    await poll.save(b"state")
    assert [await inbox.append(ID, message) for _ in range(2)] == ["accepted", "full"]
    await inbox.take(ID)
    assert await inbox.append(ID, b"x" * (MAX_WAITING_BYTES - 10_000)) == "accepted"
    assert {await inbox.append(ID, b"") for _ in range(10_000 // 64)} == {"accepted", "full"}


async def test_what_all_clients_send_is_bounded(
    monkeypatch: pytest.MonkeyPatch, redis: Redis, stores: dict[str, str]
) -> None:
    """Clients need no job token to send, but must not fill Redis before its memory is read. Small calls pass longer."""
    monkeypatch.setattr(f"{Inbox.__module__}.MAX_STORED_BYTES_PER_S", 1e-9)
    monkeypatch.setattr(f"{Inbox.__module__}.MAX_STORED_BYTES_AT_ONCE", 3 * 1024)
    async with redis_from_url(stores["REDIS_URL"]) as client:
        inbox = Inbox(client, PubSub(client), lambda: False)
        assert [await inbox.append(each, b"x" * 1024) for each in "abc"] == ["accepted", "accepted", "full"]
        assert await inbox.append("c", b"x") == "accepted"


async def test_a_connection_ends(inbox: Inbox, redis: Redis) -> None:
    """Nothing is left of its session, and every request is refused."""
    await inbox.append(ID, b"message")
    poll = await begin_poll(inbox)
    await poll.save(b"state")
    await inbox.close(ID)
    assert (await poll.read(), await poll.save(b"state"), await inbox.take(ID)) == (None, False, None)
    assert (await inbox.begin_poll(ID), await inbox.append(ID, b"message")) == (None, "closed")
    assert [await redis.hget(key, "state") for key in await redis.keys()] == [None]
