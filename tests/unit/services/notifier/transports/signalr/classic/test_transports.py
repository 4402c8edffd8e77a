"""The transports of the classic hub: what they send, and how connections end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientWebSocketResponse
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from services.notifier import metrics
from tests.unit.services.notifier.transports.notifier_parts import refusals
from tests.unit.services.notifier.transports.websocket.test_connection import client_frame
from tests.waiting import wait_until

from .classic_site import TRANSPORTS, ClassicSite, Messages, SocketMessages, run_site

UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: notifier\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
CLOSED = ("websocket", "sse", "poll")  # the names of the transports in metrics


@pytest.fixture
async def site(keys: Path) -> AsyncIterator[ClassicSite]:
    """Serve the classic hub."""
    async with run_site(keys) as site:
        yield site


def closed(transport: str, code: int) -> float:
    """Return how many connections of a transport were closed with a code."""
    name = f"signalr_classic_{CLOSED[TRANSPORTS.index(transport)]}"
    return metrics.CONNECTIONS_CLOSED.labels(name, code).value


def calls(envelope: dict[str, Any]) -> list[Any]:
    """Return the methods that an envelope calls, with the percentage or the version."""
    return [
        (call["M"], *(a if isinstance(a, int | float) else a["version"] for a in call["A"])) for call in envelope["M"]
    ]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_watches_its_job(site: ClassicSite, transport: str) -> None:
    """The first envelope shows that the transport works; the next ones have the job's state, and a cursor."""
    async with site.open(transport) as messages:
        assert await messages.envelope() == {"C": "-", "S": 1, "M": []}
        if transport != "longPolling":
            site.publish(17, 42.5)
            envelope = await messages.envelope()
            assert (envelope["C"], calls(envelope)) == ("17-42.5", [("updateProgress", 42.5), ("jobChanged", 17)])
            site.publish(18, 42.5)
            assert calls(await messages.envelope()) == [("jobChanged", 18)]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_resumes_from_its_cursor(site: ClassicSite, transport: str) -> None:
    """There is no initial message, and no percentage that the client has."""
    asyncio.get_running_loop().call_later(0, asyncio.ensure_future, publish_when_watched(site, 18, 42.5))
    async with site.open(transport, "reconnect", messageId="17-42.5") as messages:
        envelope = await messages.envelope()
        assert (envelope["C"], calls(envelope), "S" in envelope) == ("18-42.5", [("jobChanged", 18)], False)


async def publish_when_watched(site: ClassicSite, version: int, percent: float) -> None:
    """Publish a snapshot as soon as a connection watches the job."""
    await wait_until(site.is_watched)
    site.publish(version, percent)


@pytest.mark.parametrize(
    ("method", "where"),
    [("POST", "data"), ("POST", "query"), ("GET", "query")],
    ids=["JavaScript from 2.2", ".NET", "JavaScript before 2.2"],
)
async def test_clients_poll_differently(site: ClassicSite, method: str, where: str) -> None:
    """The cursor is in the form or in the query; .NET writes the name of the hub as in C#."""
    asyncio.get_running_loop().call_later(0, asyncio.ensure_future, publish_when_watched(site, 18, 42.5))
    parts: dict[str, Any] = {"query": {"connectionData": '[{"Name":"JobProgressHub"}]', "transport": "longPolling"}}
    parts.setdefault(where, {})["messageId"] = "17-42.5"
    assert calls(await site.json("poll", method, **parts)) == [("jobChanged", 18)]


@pytest.mark.parametrize("hubs", ["[]", "", "x", '[{"name":"other"}]', '[{"name":null}]', "[1]"])
async def test_a_client_without_the_hub_gets_no_calls(site: ClassicSite, hubs: str) -> None:
    """A call for a hub that it does not have would raise an error in the page."""
    async with site.open("serverSentEvents", connectionData=hubs) as other, site.open("serverSentEvents") as messages:
        await wait_until(site.is_watched)
        site.publish(17, 42.5)
        await messages.envelope()
        assert calls(await messages.envelope()) == [("updateProgress", 42.5), ("jobChanged", 17)]
        assert await other.text() == '{"C":"-","S":1,"M":[]}'
        assert await other.text() == ""  # a later connection with the same token has replaced it


def refusal(protocol: str, text: str) -> str:
    """Return what ends a client for good."""
    if protocol == "1.5":
        return text
    return json.dumps({"C": "17-", "M": [], "D": 1, "E": text}, separators=(",", ":"))


@pytest.mark.parametrize("protocol", ["1.2", "1.5", "2.1"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_refused_client_does_not_resume(site: ClassicSite, transport: str, protocol: str) -> None:
    """It would repeat the request for hours after any other answer, so its connection opens and ends with the error."""
    token, before = site.replica.token(site.job_id, expires_in_s=-3600), closed(transport, 1008)
    refused = refusals("token_expired")
    query = {"messageId": "17-", "clientProtocol": protocol, "token": token}
    async with site.open(transport, "reconnect", **query) as messages:
        assert await messages.text() == refusal(protocol, "token_expired: The token has expired.")
        if transport != "longPolling":
            assert await messages.text() == ""
    await wait_until(lambda: closed(transport, 1008) == before + 1)
    assert refusals("token_expired") == refused + 1
    assert not site.is_watched()


@pytest.mark.parametrize("protocol", ["1.2", "1.5", "2.1"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_ends_with_its_token(site: ClassicSite, transport: str, protocol: str) -> None:
    """The error reaches it while it watches, and ends it for good."""
    before = closed(transport, 1008)

    async def remove_key() -> None:
        await wait_until(site.is_watched)
        site.remove_token_key()
        await site.replica.sweep_until(lambda: closed(transport, 1008) > before)

    removing = asyncio.create_task(remove_key())
    async with site.open(transport, "reconnect", messageId="17-", clientProtocol=protocol) as messages:
        text = await messages.text()
        assert text == refusal(protocol, "invalid_token: The token is not valid for this service.")
        if transport != "longPolling":
            assert await messages.text() == ""
    await removing


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("action", ["abort", "connect"])
async def test_a_client_ends_its_connection(site: ClassicSite, transport: str, action: str) -> None:
    """It sends an abort, or connects again with the same token, because another transport failed: one is enough."""
    before = closed(transport, 1000)

    async def end() -> None:
        await wait_until(site.is_watched)
        await site.request(action, "POST", query={"transport": "longPolling"})

    ending = asyncio.create_task(end())
    async with site.open(transport, "reconnect", messageId="17-") as messages:
        assert await messages.text() == ('{"C":"17-","M":[]}' if transport == "longPolling" else "")
    await ending
    await wait_until(lambda: closed(transport, 1000) == before + 1)
    assert not site.is_watched()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_is_sent_away(site: ClassicSite, transport: str) -> None:
    """It gets no error when its replica stops, so it returns, to another one."""
    before = closed(transport, 1012)

    async def drain() -> None:
        await wait_until(site.is_watched)
        await site.replica.registry.drain()

    draining = asyncio.create_task(drain())
    async with site.open(transport, "reconnect", messageId="17-") as messages:
        assert await messages.text() == ('{"C":"17-","M":[]}' if transport == "longPolling" else "")
    await draining
    await wait_until(lambda: closed(transport, 1012) == before + 1)


async def test_an_abort_of_no_connection_is_answered(site: ClassicSite) -> None:
    """Another replica may have it, whose connection the client closes."""
    response = await site.request("abort", "POST", query={"transport": "webSockets"})
    assert (response.status, response.content_type, await response.read()) == (200, "text/plain", b"")


def socket_of(messages: Messages) -> ClientWebSocketResponse:
    """Return the WebSocket of a connection."""
    assert isinstance(messages, SocketMessages)
    return messages.socket


class TestWebSocket:
    """What clients send over a WebSocket."""

    async def test_calls_find_no_method(self, site: ClassicSite) -> None:
        """The answer is a message of its own, whatever the arguments are."""
        async with site.open("webSockets") as messages:
            await messages.text()
            for number, arguments in enumerate(([], [None], [{"deep": [[]]}])):
                await socket_of(messages).send_json({"H": "jobprogresshub", "M": "Echo", "A": arguments, "I": number})
                error = "'Echo' method could not be resolved. No method found with that name."
                assert await messages.envelope() == {"I": str(number), "E": error}

    @pytest.mark.parametrize("text", ["", "x", "[]", '{"I":[]}'])
    async def test_what_is_no_call_ends_it(self, site: ClassicSite, text: str) -> None:
        """No client sends it."""
        async with site.open("webSockets") as messages:
            await messages.text()
            await socket_of(messages).send_str(text)
            assert await messages.text() == ""
            assert socket_of(messages).close_code == 1007

    async def test_a_large_call_ends_it(self, site: ClassicSite) -> None:
        """The client reconnects; one of the largest size is answered."""
        call = '{"I":0,"A":["%s"]}'
        async with site.open("webSockets") as messages:
            await messages.text()
            await socket_of(messages).send_str(call % ("x" * (65_536 - len(call) + 2)))
            assert (await messages.envelope())["I"] == "0"
            await socket_of(messages).send_str(call % ("x" * (65_536 - len(call) + 3)))
            assert await messages.text() == ""
            assert socket_of(messages).close_code == 1009

    async def test_early_and_split_frames(self, site: ClassicSite) -> None:
        """A call may arrive together with the upgrade, or in fragments, byte by byte."""
        call = b'{"H":"jobprogresshub","M":"Echo","A":[],"I":1}'
        early = client_frame(Opcode.TEXT, call)
        split = client_frame(Opcode.TEXT, call[:20], fin=False) + client_frame(Opcode.CONT, call[20:])
        url = site.client.make_url("/signalr/connect").with_query({**site.query, "transport": "webSockets"})
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(UPGRADE % url.raw_path_qs.encode() + early)
        assert b" 101 " in await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        client = Protocol(Side.CLIENT)
        frames: list[Any] = []

        async def read_until(count: int) -> None:
            while len(frames) < count:
                client.receive_data(await reader.read(1000))
                frames.extend(json.loads(bytes(cast(Frame, frame).data)) for frame in client.events_received())

        await read_until(2)
        for byte in split:
            writer.write(bytes([byte]))
            await writer.drain()
        await read_until(3)
        assert [frame.get("I") for frame in frames] == [None, "1", "1"]
        writer.close()
        await writer.wait_closed()
