"""`headway.js` by itself in a real browser: one socket for all watches, and handlers that are told what they should."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from playwright.async_api import Page, WebSocket

from headway.contracts import Timestamp
from tests.browser.conftest import Problems, Report, forged
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

# Watch a job, and write down what its handlers are told.
WATCH = """async ({ name, token, throws = false }) => {
  const { watchJob } = await import("/assets/headway.js");
  const { liveUrl } = await import("/assets/live-url.js");
  window.watches ??= {};
  window.told ??= {};
  const heard = (window.told[name] = []);
  const hear = (event) => (...details) => {
    heard.push([event, ...details]);
    if (throws) throw new Error(`${name}: ${event}`);
  };
  const options = { url: liveUrl, token, onConnection: hear("connection"), onError: hear("error") };
  const watch = (window.watches[name] = watchJob(options, hear("job")));
  return { id: watch.id, early: heard.length };
}"""


class Client:
    """A page that watches jobs, and the sockets that it opens."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets: list[WebSocket] = []
        self.sent: list[dict[str, Any]] = []
        page.on("websocket", self._opened)

    def _opened(self, socket: WebSocket) -> None:
        self.sockets.append(socket)
        socket.on("framesent", lambda frame: self.sent.append(json.loads(frame)))

    async def watch(self, name: str, token: str, **more: Any) -> str | None:
        """Watch a job under a name; return the job's id."""
        made = await self.page.evaluate(WATCH, {"name": name, "token": token, **more})
        assert made["early"] == 0, "a handler was called before watchJob returned"
        job_id: str | None = made["id"]
        return job_id

    async def call(self, name: str, method: str) -> Any:
        """Call a method of a watch."""
        return await self.page.evaluate("([name, method]) => watches[name][method]()", [name, method])

    async def told(self, name: str, event: str) -> list[Any]:
        """Return what a watch's handler has been told."""
        heard: list[list[Any]] = await self.page.evaluate("(name) => told[name]", name)
        return [details[0] for kind, *details in heard if kind == event]

    async def hears(self, name: str, event: str, count: int = 1) -> list[Any]:
        """Wait until a watch's handler has been told something so often."""

        async def enough() -> list[Any]:
            told = await self.told(name, event)
            return told if len(told) >= count else []

        heard: list[Any] = await wait_until(enough)
        return heard

    async def sees(self, name: str, status: str) -> dict[str, Any]:
        """Wait until a watch's newest snapshot has this status; return it."""

        async def newest() -> Any:
            told = await self.told(name, "job")
            return told[-1] if told and told[-1]["status"] == status else None

        snapshot: dict[str, Any] = await wait_until(newest)
        return snapshot


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
    assert client.sent[-1] == {"watch": receipt["token"], "version": end["version"]}
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


@pytest.mark.parametrize("token", ["", "nonsense", "a.e30.b"], ids=["none", "nonsense", "no job"])
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
    """A token beyond all measure is refused once and for all, and the next watch gets a fresh connection."""
    claims = json.dumps({"sub": "big", "exp": 1, "padding": "x" * 80_000}).encode()
    await client.watch("big", f"a.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.b")
    (error,) = await client.hears("big", "error")
    assert error["code"] == "refused"
    assert (await client.told("big", "connection"))[-1] == "refused"
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.sees("job", "queued")
    assert [socket.is_closed() for socket in client.sockets] == [True, False]


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
    await client.sees("job", "cancelled")


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
