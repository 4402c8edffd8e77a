"""What clients of 2015 do when they are refused, call methods and stop: each version, over each transport.

They would repeat a request that is refused for as long as they survive an outage, which is six hours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from headway.tokens import make_keys
from tests.browser.conftest import TIMEOUT_MS, page_value
from tests.browser.npm import PACKAGES
from tests.integration.conftest import Notifier, new_id, report, running_notifier
from tests.key_files import replace_file
from tests.waiting import free_ports, wait_until
from tests.web_server import serve

pytestmark = pytest.mark.browser

VERSIONS = {"signalr-2.2.1": "jquery-2", "signalr-2.3.0": "jquery", "signalr": "jquery"}
NO_METHOD = "'Echo' method could not be resolved. No method found with that name."
RECONNECTED = "Connection started reconnecting before invocation result was received."
TRANSPORTS = ["webSockets", "serverSentEvents", "longPolling"]
SETUP = """
([base, jobId, transports]) => {
  window.clients = transports.map((transport) => {
    const connection = $.hubConnection(base, { useDefaultPath: false });
    const hub = connection.createHubProxy("jobProgressHub").on("updateProgress", () => {});
    const client = { connection, hub, transport, events: [], start };
    connection.reconnected(() => client.events.push("reconnected"));
    connection.error(({ message }) => client.events.push(message));
    connection.disconnected(() => client.events.push("disconnected"));
    return client;
  });
  function start(token) {
    this.events = [];
    this.connection.qs = { jobId, token };
    const started = this.connection.start({ transport: this.transport });
    return new Promise((resolve) => started.done(() => resolve("started")).fail(() => resolve("failed")));
  }
}
"""
START = "(token) => Promise.all(window.clients.map((client) => client.start(token)))"
LOSE = """
(token) => {
  for (const { connection } of window.clients) {
    connection.qs.token = token;
    connection.transport.lostConnection(connection);
  }
}
"""
CALL = """
(argument) => Promise.all(window.clients.map(({ hub }) =>
  new Promise((resolve) => hub.invoke("Echo", argument).done(resolve).fail(({ message }) => resolve(message)))))
"""
RESTART = """
async ([jobId, token]) => {
  const { hub, jobProgressHub } = $.connection;
  window.received = [];
  jobProgressHub.client.updateProgress = (percent) => window.received.push(percent);
  hub.qs = { jobId, token };
  for (let starts = 0; starts < 3; starts++) {
    hub.stop();
    await new Promise((resolve, reject) => hub.start().done(() => resolve()).fail(reject));
  }
}
"""
STOP = "() => window.clients.forEach(({ connection }) => connection.stop())"
EVENTS = """
(last) => {
  const { clients } = window;
  return clients.every(({ events }) => events.at(-1) === last) && clients.map(({ events }) => events);
}
"""


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """Serve an empty page; return its origin."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html>", content_type="text/html")

    app, port = web.Application(), free_ports(1)[0]
    app.router.add_get("/", page)
    async with serve(web.AppRunner(app), port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def notifier(stores: dict[str, str], keys: Path, origin: str) -> AsyncIterator[Notifier]:
    """Run a notifier."""
    async with running_notifier(stores, keys, ALLOWED_ORIGINS=origin) as notifier:
        yield notifier


@pytest.fixture
def job_id() -> str:
    """Return the id of a job."""
    return new_id()


@pytest.fixture
async def pages(browser: Browser, origin: str, notifier: Notifier, job_id: str) -> AsyncIterator[list[Page]]:
    """Open a page with each version of the client, which has a connection over each transport.

    Each page has a browser window of its own, because the pages of a window share six connections to a host.
    """
    contexts = [await browser.new_context() for _ in VERSIONS]
    pages = []
    for context, (signalr, jquery) in zip(contexts, VERSIONS.items(), strict=True):
        context.set_default_timeout(TIMEOUT_MS)
        page = await context.new_page()
        await page.goto(origin)
        for script in (f"{jquery}/dist/jquery.js", f"{signalr}/jquery.signalR.js"):
            await page.add_script_tag(path=PACKAGES / script)
        await page.evaluate(SETUP, [f"{notifier.public}/signalr", job_id, TRANSPORTS])
        pages.append(page)
    yield pages
    for context in contexts:
        await context.close()


async def errors(page: Page) -> set[str]:
    """Wait until the connections of a page have ended; return why. Old clients call the reason an unreadable answer."""
    events = await page_value(page, EVENTS, "disconnected")
    return {event[-2].removeprefix("Failed at parsing response: ") for event in events}


async def test_refused_clients_stop(pages: list[Page], job_id: str, notifier: Notifier, keys: Path) -> None:
    """At the start, when they reconnect, and while they watch."""
    refused, accepted = notifier.token(job_id, ttl_s=-3600), notifier.token(job_id)
    for page in pages:
        assert await page.evaluate(START, refused) == ["failed"] * len(TRANSPORTS)
        assert {error.partition(".")[0] for error in await errors(page)} == {"Error during negotiation request"}
        assert await page.evaluate(START, accepted) == ["started"] * len(TRANSPORTS)
        await page.evaluate(LOSE, refused)
    for page in pages:
        assert await errors(page) == {"token_expired: The token has expired."}
        assert await page.evaluate(START, accepted) == ["started"] * len(TRANSPORTS)
    make_keys(keys / "new")
    replace_file(keys / "token.pub.pem", (keys / "new" / "token.pub.pem").read_text())
    for page in pages:
        assert await errors(page) == {"invalid_token: The token is not valid for this service."}


async def test_clients_call_and_stop(pages: list[Page], job_id: str, notifier: Notifier) -> None:
    """A call finds no method, one that is too large costs a reconnect, and nothing is left of what has stopped."""
    for page in pages:
        assert await page.evaluate(START, notifier.token(job_id)) == ["started"] * len(TRANSPORTS)
        assert set(await page.evaluate(CALL, 1)) == {NO_METHOD}
        assert (await page.evaluate(CALL, "x" * 70_000))[0] == RECONNECTED
    for page in pages:
        await page_value(page, "window.clients[0].events.at(-1) === 'reconnected'")
        await page.evaluate(STOP)
        await page_value(page, EVENTS, "disconnected")

    async def nothing_is_open() -> bool:
        return await notifier.metric("notifier_connections") == 0

    await wait_until(nothing_is_open)


async def test_a_restarted_page_gets_each_call_once(pages: list[Page], job_id: str, notifier: Notifier) -> None:
    """The script of the hub registers the functions of the page at each start, and removes them at each stop."""
    for page in pages:
        await page.add_script_tag(url=f"{notifier.public}/signalr/hubs")
        await page.evaluate(RESTART, [job_id, notifier.token(job_id)])
    for percent in (40, 50):
        await notifier.report(report(job_id, percent, progress={"current": percent, "total": 100}))
        for page in pages:
            await page_value(page, "(percent) => window.received.includes(percent)", percent)
    assert [await page.evaluate("window.received") for page in pages] == [[40, 50]] * len(pages)
