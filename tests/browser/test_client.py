"""`headway.js` by itself in a real browser: one socket for all watches, and handlers that are told what they should."""

from __future__ import annotations

import base64
import json
import re
from uuid import UUID

import pytest
from playwright.async_api import Page, WebSocketRoute

from headway.contracts import Timestamp
from tests.browser.client import WATCH, Client
from tests.browser.conftest import Problems, Report, forged
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser


@pytest.fixture
async def client(page: Page, stack: Stack) -> Client:
    """Open a page that watches nothing yet."""
    client = Client(page)
    await page.goto(stack.url)
    return client


async def test_watches_share_one_socket(client: Client, stack: Stack) -> None:
    """Three jobs on a page are one WebSocket, which closes with the last of them."""
    problems = Problems(client.page)
    names = ("one", "two", "three")
    for name in names:
        receipt = await stack.submit(payload={"steps": 5, "delay_s": 0.05})
        assert await client.watch(name, receipt["token"]) == receipt["id"]
    for name in names:
        await client.sees(name, "succeeded")
        versions = [job["version"] for job in await client.told(name, "job")]
        assert versions == sorted(set(versions))
    assert len(client.sockets) == 1
    for name in names:
        assert not client.sockets[0].is_closed()
        await client.call(name, "close")
    await wait_until(lambda: client.sockets[0].is_closed())
    assert len(client.sockets) == 1
    assert problems.found == []


async def test_closed_client_connects_anew(client: Client, stack: Stack) -> None:
    """A watch that begins after all others have closed gets a socket of its own."""
    receipt = await stack.submit(delay_s=3600)
    await client.watch("first", receipt["token"])
    await client.sees("first", "queued")
    await client.call("first", "close")
    await client.watch("second", receipt["token"])
    await client.sees("second", "queued")
    assert len(client.sockets) == 2


async def test_job_watched_twice_is_asked_for_once(client: Client, stack: Stack, report: Report) -> None:
    """A second watch of a job gets what the page knows already, and outlives the first."""
    receipt = await stack.submit(delay_s=3600)
    await client.watch("first", receipt["token"])
    await client.sees("first", "queued")
    await client.watch("second", receipt["token"])
    await client.sees("second", "queued")
    assert [list(message) for message in client.sent] == [["watch"]]
    await client.call("first", "close")
    await report(receipt, progress={"current": 1, "total": 2})
    assert (await client.sees("second", "running"))["progress"]["percent"] == 50
    assert [job["status"] for job in await client.told("first", "job")] == ["queued"]
    assert [list(message) for message in client.sent] == [["watch"]]


async def test_closing_one_job_unwatches_it(client: Client, stack: Stack) -> None:
    """A job that nobody on the page watches any more is given back to the server."""
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("first", first["token"])
    await client.watch("second", second["token"])
    await client.sees("first", "queued")
    await client.call("first", "close")
    await wait_until(lambda: client.sent[-1] == {"unwatch": first["id"]})
    assert not client.sockets[0].is_closed()


async def test_connection_is_told(client: Client, stack: Stack) -> None:
    """A watch hears each change of the connection, and after a crash asks for what is newer than it has."""
    receipt = await stack.submit(payload={"steps": 3, "delay_s": 0})
    await client.watch("job", receipt["token"])
    end = await client.sees("job", "succeeded")
    assert await client.told("job", "connection") == ["connecting", "live"]
    await stack.kill("notifier")
    states = await client.hears("job", "connection", 4)
    assert states == ["connecting", "live", "reconnecting", "live"]
    await wait_until(lambda: client.sent[-1] == {"watch": receipt["token"], "version": end["version"]})
    assert (await client.told("job", "job"))[-1] == end


async def test_back_online_connects_at_once(client: Client, stack: Stack) -> None:
    """When the network comes back, a new socket replaces the old one, which may be dead unnoticed."""
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.hears("job", "connection", 2)
    await client.page.evaluate("dispatchEvent(new Event('online'))")
    assert await client.hears("job", "connection", 4) == ["connecting", "live", "reconnecting", "live"]
    assert [socket.is_closed() for socket in client.sockets] == [True, False]


async def test_throwing_handlers_disturb_nobody(client: Client, stack: Stack) -> None:
    """What a handler throws is reported as uncaught, and neither its own nor other watches miss anything."""
    problems = Problems(client.page)
    receipt = await stack.submit(payload={"steps": 3, "delay_s": 0.05})
    await client.watch("bad", receipt["token"], throws=True)
    await client.watch("good", receipt["token"])
    await client.sees("good", "succeeded")
    seen = {job["version"] for job in await client.told("bad", "job")}
    assert {job["version"] for job in await client.told("good", "job")} <= seen
    assert await client.told("good", "connection") in (["connecting", "live"], ["live"])
    assert {"bad: connection", "bad: job"} == set(problems.found)


LONG = base64.urlsafe_b64encode(json.dumps({"sub": str(UUID(int=1)), "padding": "x" * 4096}).encode()).decode()


@pytest.mark.parametrize(
    "token", ["", "nonsense", "a.e30.b", f"a.{LONG}.b"], ids=["none", "nonsense", "no job", "long"]
)
async def test_unreadable_token_is_told(client: Client, token: str) -> None:
    """What is no token is an error for its watch, without any connection."""
    assert await client.watch("job", token) is None
    (error,) = await client.hears("job", "error")
    assert error["code"] == "invalid_token"
    await client.call("job", "cancel")
    await client.call("job", "close")
    assert client.sockets == []


async def test_forged_token_concerns_its_job_alone(client: Client, stack: Stack, report: Report) -> None:
    """A forged token is an error for the watch that has it; the others go on."""
    good, bad = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("good", good["token"])
    await client.sees("good", "queued")
    await client.watch("bad", forged(bad["token"]))
    (error,) = await client.hears("bad", "error")
    assert error["code"] == "invalid_token"
    await report(good)
    await client.sees("good", "running")
    assert await client.told("good", "error") == []


async def test_refusal_is_not_retried(client: Client, stack: Stack) -> None:
    """A server that refuses the connection is not asked again, and the next watch gets a fresh connection."""
    opened: list[WebSocketRoute] = []

    def refuse_first(socket: WebSocketRoute) -> None:
        opened.append(socket)
        if len(opened) > 1:
            socket.connect_to_server()

    await client.page.route_web_socket(re.compile("/live$"), refuse_first)
    receipt = await stack.submit(delay_s=3600)
    await client.watch("refused", receipt["token"])
    await wait_until(lambda: opened)
    await opened[0].close(code=1008, reason="too many messages")
    assert await client.hears("refused", "error") == [{"code": "refused", "message": "too many messages"}]
    assert (await client.told("refused", "connection"))[-1] == "refused"
    assert len(opened) == 1
    await client.watch("job", receipt["token"])
    await client.sees("job", "queued")
    assert len(opened) == 2


async def test_cancel_ends_the_job(client: Client, stack: Stack) -> None:
    """A running job is cancelled from the page, and every watch of it hears so."""
    receipt = await stack.submit(payload={"steps": 1000, "delay_s": 0.1})
    await client.watch("job", receipt["token"])
    await client.sees("job", "running")
    await client.call("job", "cancel")
    assert (await client.sees("job", "cancelled"))["result"] is None


async def test_early_cancel_is_sent_later(client: Client, stack: Stack) -> None:
    """A cancel before the connection stands is sent with it."""
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.call("job", "cancel")
    assert (await client.sees("job", "cancelled"))["started_at"] is None


async def test_server_clock_is_kept(client: Client, stack: Stack) -> None:
    """`now` is the server's clock, however wrong the browser's is."""
    await client.page.clock.set_system_time("2001-01-01")
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.hears("job", "connection", 2)
    assert abs(await client.call("job", "now") - Timestamp.now()) < 5_000


async def test_forged_token_among_others_concerns_its_job_alone(client: Client, stack: Stack) -> None:
    """A forged token that is sent along with good ones is an error for its own watch alone, after a reconnect too."""
    good, bad = [await stack.submit(delay_s=3600) for _ in range(2)]
    tokens = {"good": good["token"], "bad": forged(bad["token"])}
    await client.page.evaluate(
        f"(all) => Promise.all(all.map({WATCH}))", [{"name": name, "token": token} for name, token in tokens.items()]
    )
    await client.sees("good", "queued")
    await client.hears("bad", "error")
    await client.page.evaluate("dispatchEvent(new Event('online'))")
    await client.hears("bad", "error", 2)
    assert await client.told("good", "error") == []
