"""The hub of ASP.NET Core clients over each transport: limits, how connections end, and what Redis keeps of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError
from redis.asyncio import Redis

from services.notifier.transports.signalr.aspnet_core.protocols import MAX_MESSAGE_BYTES
from tests.hub_messages import HANDSHAKE, PATH, encode
from tests.integration.conftest import ORIGIN, Notifier, new_id, report, running_notifier
from tests.integration.hub_client import TRANSPORTS, HubClient
from tests.waiting import PATIENCE_S, wait_until

PING = {"type": 6}
BURST = 6  # messages; MESSAGES_PER_S is so low that there are no more


@pytest.fixture(scope="module")
async def notifier(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notifier]:
    """Run a notifier with a low limit of messages, whose clients need not watch anything."""
    settings = {"FIRST_MESSAGE_S": "600", "MAX_WATCHES": str(BURST // 2), "MESSAGES_PER_S": "0.001"}
    async with running_notifier(stores, tmp_path_factory.mktemp("keys"), **settings) as notifier:
        yield notifier


async def refusals(notifier: Notifier, limit: str) -> float:
    """Return how often a limit was exceeded."""
    return await notifier.metric(f'notifier_refused_total{{limit="{limit}"}}')


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_may_send_many_messages_at_once(notifier: Notifier, transport: str) -> None:
    """The limit on bytes is for each message, and not for the frame or body in which a client sends many."""
    target = "x" * (MAX_MESSAGE_BYTES // 2)
    calls = [{"type": 1, "invocationId": str(number), "target": target, "arguments": []} for number in range(5)]
    async with HubClient.connected(notifier, transport) as client:
        await client.send(encode(*calls))
        for number in range(5):
            message = await client.next_message()
            assert message is not None
            assert (message["type"], message["invocationId"]) == (3, str(number))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_large_message_ends_the_connection(notifier: Notifier, transport: str) -> None:
    """The client gets the reason, whatever it has sent before."""
    before = await refusals(notifier, "message_size")
    async with HubClient.connected(notifier, transport) as client:
        await client.send(encode({"type": 1, "target": "x" * MAX_MESSAGE_BYTES, "arguments": []}))
        assert await client.next_message() == {"type": 7, "error": "The message is too large."}
        assert await client.next_message() is None
    assert await refusals(notifier, "message_size") == before + 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_that_sends_too_much_is_closed(notifier: Notifier, transport: str) -> None:
    """It gets the reason. What it may send does not depend on how many polls it uses."""
    before = await refusals(notifier, "messages")
    async with HubClient.connected(notifier, transport) as client:
        for number in range(BURST - 1):  # the handshake was the first message
            await client.call(str(number), "Nothing")
            assert (await client.next_message() or {}).get("invocationId") == str(number)
        await client.call("last", "Nothing")
        assert await client.next_message() == {"type": 7, "error": "too many messages"}
        assert await client.next_message() is None
    assert await refusals(notifier, "messages") == before + 1


async def test_redis_keeps_no_token(notifier: Notifier, admin: Redis) -> None:
    """A polling client sends its token once; between two polls Redis has what the token allows."""
    job_id = new_id()
    token = notifier.token(job_id)
    async with HubClient.connected(notifier, "poll") as client:
        await client.call("watch", "Watch", token)
        assert [(await client.next_message() or {}).get("type") for _ in range(2)] == [3, 1]
        key = client.channel

        async def saved_session() -> dict[bytes, bytes] | None:
            session = cast(dict[bytes, bytes], await admin.hgetall(f"{key}:session"))
            return session if job_id.encode() in session[b"state"] else None

        session = await wait_until(saved_session)
        assert token.rpartition(".")[2].encode() not in b"".join(session.values())
        assert not await admin.exists(key)
        await notifier.report(report(job_id, 1, status="succeeded"))
        assert await client.next_message() == {"type": 1, "target": "updateProgress", "arguments": [100]}


async def test_a_poll_ends_when_a_later_one_begins(notifier: Notifier) -> None:
    """It is answered 204, and the connection goes on."""
    client = await HubClient.negotiate(notifier)
    assert await client.request("GET") == (200, b"")
    earlier = asyncio.create_task(client.request("GET"))
    later = asyncio.create_task(client.request("GET"))
    done, _ = await asyncio.wait({earlier, later}, return_when="FIRST_COMPLETED", timeout=PATIENCE_S)
    assert [task.result() for task in done] == [(204, b"")]
    await client.send(encode(HANDSHAKE))
    (open_poll,) = {earlier, later} - done
    assert await asyncio.wait_for(open_poll, PATIENCE_S) == (200, b"{}\x1e")


async def test_an_open_poll_ends_with_its_connection(notifier: Notifier, admin: Redis) -> None:
    """A client that stops sends DELETE; its poll is answered 204."""
    client = await HubClient.negotiate(notifier)
    assert await client.request("GET") == (200, b"")
    poll = asyncio.create_task(client.request("GET"))

    async def is_waiting() -> bool:
        ((_, subscribers),) = await admin.pubsub_numsub(client.channel)
        return bool(subscribers)

    await wait_until(is_waiting)
    assert await client.request("DELETE") == (202, b"")
    assert await asyncio.wait_for(poll, PATIENCE_S) == (204, b"")


@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_a_client_ends_its_connection(notifier: Notifier, transport: str) -> None:
    """An open stream or poll ends, and later requests find no connection."""
    async with HubClient.connected(notifier, transport) as client:
        assert await client.request("DELETE") == (202, b"")
        assert await client.next_message() is None
        statuses = [
            (await client.request("POST", encode(PING)))[0],
            (await client.request("GET"))[0],
            (await client.request("GET", Accept="text/event-stream"))[0],
        ]
        assert statuses == [404, 404, 404]


async def test_a_connection_has_one_transport(notifier: Notifier) -> None:
    """What a client POSTs to a WebSocket is refused, and so is a second stream of a connection that is open."""
    async with HubClient.connected(notifier, "websocket") as client:
        assert (await client.request("POST", encode(PING)))[0] == 405
        assert (await client.request("GET"))[0] == 409
        with pytest.raises(WSServerHandshakeError, match="409"):
            await client.session.ws_connect(client.url, params=client.query)
    async with HubClient.connected(notifier, "sse") as client:
        assert (await client.request("GET", Accept="text/event-stream"))[0] == 409
        await client.call("0", "Nothing")
        assert await client.next_message() is not None


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("GET", "", 400),
        ("GET", "?id=x", 404),
        ("POST", "?id=x", 404),
        ("DELETE", "?id=x", 404),
        ("PUT", "", 405),
        ("POST", "/negotiate?jobId=x", 422),
        ("POST", "/negotiate?access_token=x", 401),
        ("GET", "/negotiate", 405),
    ],
)
async def test_pages_of_other_origins_can_read_errors(notifier: Notifier, method: str, query: str, status: int) -> None:
    """With cookies, which the client always sends; browsers take an error for nothing else."""
    url = f"{notifier.public}{PATH}{query}"
    async with notifier.session.request(method, url, headers={"Origin": ORIGIN}) as response:
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_silent_client_is_closed(stores: dict[str, str], tmp_path: Path) -> None:
    """A WebSocket that does not answer a ping is closed before the next one; one that answers stays open."""
    async with (
        running_notifier(stores, tmp_path, PING_S="6", FIRST_MESSAGE_S="600") as notifier,
        HubClient.connected(notifier, "websocket") as answering,
    ):
        silent = await HubClient.negotiate(notifier)
        received: list[WSMsgType] = []
        async with notifier.session.ws_connect(silent.url, params=silent.query, autoping=False) as socket:
            await socket.send_str(encode(HANDSHAKE).decode())
            assert await asyncio.wait_for(socket.receive_str(), PATIENCE_S) == encode({}).decode()
            while not socket.closed:
                received.append((await asyncio.wait_for(socket.receive(), PATIENCE_S)).type)
        assert received == [WSMsgType.PING, WSMsgType.CLOSED]
        await answering.call("1", "Unwatch", new_id())
        answer = await answering.next_message()
        assert answer is not None
        assert answer["invocationId"] == "1"
