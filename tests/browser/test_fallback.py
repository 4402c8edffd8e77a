"""Pages behind proxies that block WebSockets or buffer streams: they fall back, show the same, and recover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser.blocking_proxy import WEBSOCKET, BlockingProxy, run_proxy
from tests.browser.browser_client import POLL_S, BrowserClient
from tests.browser.conftest import RECORD_RENDERS, TIMEOUT_MS, PageErrors, SendReport, forge_signature
from tests.stack import Stack, running
from tests.waiting import free_ports, wait_until

pytestmark = pytest.mark.browser

EVENT_STREAM, LONG_POLL = "POST /live/events", "POST /live/jobs"
# A refused WebSocket is replaced at once. The page notices a swallowed one after 1.5 s, which one test is enough for.
FAULTS_BY_TRANSPORT = {WEBSOCKET: set(), EVENT_STREAM: {"refuse"}, LONG_POLL: {"refuse", "buffer"}}
FAULTS = [
    pytest.param({"refuse"}, EVENT_STREAM, id="refuse"),
    pytest.param({"swallow"}, EVENT_STREAM, id="swallow"),
    pytest.param({"refuse", "buffer"}, LONG_POLL, id="refuse-and-buffer"),
    pytest.param({"swallow", "buffer"}, LONG_POLL, id="swallow-and-buffer"),
]
RECORD_TIMERS = """() => {
  const originalSetTimeout = window.setTimeout;
  window.timers = [];
  window.setTimeout = (callback, delayMs, ...rest) => {
    timers.push(delayMs);
    return originalSetTimeout(callback, delayMs, ...rest);
  };
}"""
WATCH_NEXT = """async ({ first, second }) => {
  const { watchJob } = await import("/assets/headway.js");
  const { liveUrl } = await import("/assets/live-url.js");
  window.states = [];
  window.statuses = [];
  const next = () => watchJob({ url: liveUrl, token: second }, ({ status }) => statuses.push(status));
  const onConnection = (state) => states.push(state);
  watchJob({ url: liveUrl, token: first, onConnection }, ({ status }) => status === "succeeded" && next());
}"""
ALL_QUEUED = "(ids) => ids.every((id) => calls[id].some(([event, job]) => event === 'job' && job.status === 'queued'))"
STEPS = 60


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, ports: list[int]) -> AsyncIterator[Stack]:
    """Run the system for this module; clients reach its notifier through the proxy."""
    live, notifier = ports
    env = {"LIVE_URL": f"http://127.0.0.1:{live}", "NOTIFIER_PORT": str(notifier), "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("fallback"), **env) as stack:
        yield stack


@pytest.fixture
async def proxy(ports: list[int]) -> AsyncIterator[BlockingProxy]:
    """Run a proxy that relays everything unless a test adds faults."""
    async with run_proxy(*ports) as proxy:
        yield proxy


@pytest.fixture
async def client(page: Page, stack: Stack, proxy: BlockingProxy) -> BrowserClient:
    """Open a page without watches."""
    return await BrowserClient.opened(page, stack.url)


@pytest.fixture
async def other_page(browser: Browser) -> AsyncIterator[Page]:
    """Open a page in another window, which shares no connection with the first."""
    context = await browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    await context.add_init_script(RECORD_RENDERS)
    yield await context.new_page()
    await context.close()


async def page_shows(page: Page, expression: str, value: Any) -> None:
    """Wait until a function of the page returns true for a value."""
    await wait_until(lambda: page.evaluate(expression, value), poll_s=POLL_S)


def now() -> float:
    """Return monotonic seconds."""
    return asyncio.get_running_loop().time()


async def wait_for_outcome(page: Page) -> float:
    """Wait until a page shows that the job has succeeded; return the time."""
    await expect(page.locator("#status")).to_have_text("Succeeded")
    return now()


@pytest.mark.parametrize(("faults", "transport"), FAULTS)
async def test_blocked_page_shows_the_same(
    page: Page,
    other_page: Page,
    stack: Stack,
    proxy: BlockingProxy,
    report: SendReport,
    faults: set[str],
    transport: str,
) -> None:
    """Behind a faulty proxy a page shows the job within 5 s, and its outcome within 5 s of an unblocked page.

    On a busy machine, it may take as many times longer as a page without faults takes seconds.
    """
    errors = PageErrors(page)
    receipt = await stack.submit(delay_s=3600)
    opened = now()
    await page.goto(receipt["links"]["page"])
    await wait_until(lambda: proxy.connections.get(WEBSOCKET) == 1)
    limit_s = 5 * (1 + now() - opened)
    proxy.faults = faults
    await report(receipt)
    opened = now()
    await other_page.goto(receipt["links"]["page"])
    await expect(other_page.locator("#status")).to_have_text("Running")
    assert now() - opened < limit_s
    await wait_until(lambda: proxy.connections.get(transport) == 1)
    for step in range(1, STEPS):
        await report(receipt, progress={"current": step, "total": STEPS})
    await report(receipt, "succeeded", progress={"current": STEPS, "total": STEPS})
    unblocked_at, blocked_at = await asyncio.gather(wait_for_outcome(page), wait_for_outcome(other_page))
    assert abs(blocked_at - unblocked_at) < limit_s
    renders = await other_page.evaluate("renders")
    assert [state["version"] for state in renders] == sorted({state["version"] for state in renders})
    assert renders[-1] == (await page.evaluate("renders"))[-1]
    assert errors.messages == []


async def test_unblocked_page_uses_only_a_websocket(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, report: SendReport
) -> None:
    """Without faults a page opens one WebSocket and sends no other request, however long; no URL has the token."""
    urls: list[str] = []
    client.page.on("websocket", lambda websocket: urls.append(websocket.url))
    client.page.on("request", lambda request: urls.append(request.url))
    await client.page.clock.install()
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.wait_for_status("job", "queued")
    for step in range(1, STEPS):
        await client.page.clock.fast_forward(1000)
        await report(receipt, progress={"current": step, "total": STEPS})
    await report(receipt, "succeeded")
    await client.wait_for_status("job", "succeeded")
    assert proxy.request_counts == {WEBSOCKET: 1}
    assert [url for url in urls if url.startswith("ws")]
    assert not [url for url in urls if receipt["token"] in url]


@pytest.mark.parametrize("transport", FAULTS_BY_TRANSPORT)
async def test_many_jobs_share_one_connection(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, report: SendReport, transport: str
) -> None:
    """With any transport, the watches of 200 jobs share one connection, and receive their snapshots."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    receipts = await asyncio.gather(*(stack.submit(delay_s=3600) for _ in range(200)))
    await client.watch_all({receipt["id"]: receipt["token"] for receipt in receipts})
    await page_shows(client.page, ALL_QUEUED, [receipt["id"] for receipt in receipts])
    await wait_until(lambda: proxy.connections == {transport: 1})
    count = proxy.request_counts[transport]
    for receipt in (receipts[0], receipts[-1]):
        await report(receipt)
        await client.wait_for_status(receipt["id"], "running")
    assert count == (2 if transport == LONG_POLL else 1)
    await wait_until(lambda: proxy.connections == {transport: 1})


@pytest.mark.parametrize("transport", [EVENT_STREAM, LONG_POLL])
async def test_page_returns_to_a_websocket(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, report: SendReport, transport: str
) -> None:
    """When the proxy no longer blocks WebSockets, a page returns to one without a gap in its connection."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    await client.page.clock.install()
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.wait_for_status("job", "queued")
    await report(receipt, progress={"current": 1, "total": 4})
    await client.wait_for_status("job", "running")
    await client.page.clock.fast_forward(15_000)
    await wait_until(lambda: proxy.request_counts[WEBSOCKET] == 2)
    await report(receipt, progress={"current": 2, "total": 4})
    await client.wait_for("job", "job", 3)
    proxy.faults = set()
    await client.page.clock.fast_forward(15_000)
    await report(receipt, progress={"current": 3, "total": 4})  # ends a request that would time out after 30 s
    await client.wait_for("job", "job", 4)
    await client.page.clock.fast_forward(15_000)
    await wait_until(lambda: proxy.connections == {WEBSOCKET: 1})
    await report(receipt, "succeeded", progress={"current": 4, "total": 4})
    await client.wait_for_status("job", "succeeded")
    assert await client.received("job", "connection") == ["connecting", "live"]
    assert len(await client.versions("job")) == 5


@pytest.mark.parametrize("transport", [EVENT_STREAM, LONG_POLL])
async def test_later_watches_share_the_connection(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, report: SendReport, transport: str
) -> None:
    """A watch added later shares the connection; when it closes, the other one continues."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("first", first["token"])
    await client.wait_for_status("first", "queued")
    await client.watch("second", second["token"])
    await client.wait_for_status("second", "queued")
    await wait_until(lambda: proxy.connections == {transport: 1})
    await client.call("second", "close")
    await report(first)
    await client.wait_for_status("first", "running")
    await client.call("first", "close")
    await wait_until(lambda: proxy.connections == {})


@pytest.mark.parametrize("transport", FAULTS_BY_TRANSPORT)
async def test_a_log_is_complete(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, report: SendReport, transport: str
) -> None:
    """What a job logged before, and each piece after that, comes once, also to a later watch and a new connection."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    receipt = await stack.submit(delay_s=3600)
    await report(receipt)
    pieces = ["Grüße\n", "\x00\x1b[2J</script>\r\n", "after\n", "last\n"]
    ends = [len("".join(pieces[:count]).encode()) for count in range(len(pieces) + 1)]
    await stack.append_log(receipt, 0, pieces[0])
    await client.watch("log", receipt["token"], log=True)
    await client.wait_for_log("log", pieces[0])
    await stack.append_log(receipt, ends[1], pieces[1])
    await client.wait_for_log("log", "".join(pieces[:2]))
    await client.page.evaluate("dispatchEvent(new Event('online'))")  # the client opens another connection
    await stack.append_log(receipt, ends[2], pieces[2])
    await client.watch("later", receipt["token"], log=ends[1] - 2)
    await report(receipt, "succeeded")
    await stack.append_log(receipt, ends[3], pieces[3])
    await client.wait_for_log("log", "".join(pieces))
    await client.wait_for_log("later", "e\n" + "".join(pieces[1:]), ends[1] - 2)
    await client.wait_for_status("later", "succeeded")


@pytest.mark.parametrize("transport", [EVENT_STREAM, LONG_POLL])
async def test_cancel_works_without_a_websocket(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, transport: str
) -> None:
    """A job is cancelled over a fallback, also if the request precedes the connection."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("first", first["token"])
    await client.call("first", "cancel")
    await client.wait_for_status("first", "cancelled")
    await client.watch("second", second["token"])
    await client.wait_for_status("second", "queued")
    await client.call("second", "cancel")
    await client.wait_for_status("second", "cancelled")


@pytest.mark.parametrize("transport", [EVENT_STREAM, LONG_POLL])
async def test_forged_token_is_an_error_of_its_watch_only(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, report: SendReport, transport: str
) -> None:
    """A forged token, alone or among good ones, is reported to its watch, and is not sent in a loop."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    good, bad = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("bad", forge_signature(bad["token"]))
    assert [error["code"] for error in await client.wait_for("bad", "error")] == ["invalid_token"]
    assert await client.received("bad", "connection") == ["connecting", "live"]
    await client.watch("good", good["token"])
    await client.wait_for_status("good", "queued")
    count = proxy.request_counts[transport]
    await report(good)
    await client.wait_for_status("good", "running")
    assert proxy.request_counts[transport] <= count + 2
    assert await client.received("good", "error") == []


@pytest.mark.parametrize("transport", FAULTS_BY_TRANSPORT)
async def test_many_forged_tokens_end_no_other_watch(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, report: SendReport, transport: str
) -> None:
    """The server refuses a client with many forged tokens; the page drops these, and the good watch goes on."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    good, *bad = [await stack.submit(delay_s=3600) for _ in range(30)]
    tokens = {receipt["id"]: forge_signature(receipt["token"]) for receipt in bad}
    await client.watch_all({**tokens, "good": good["token"]})
    await client.wait_for_status("good", "queued")
    for receipt in bad:
        errors = await client.wait_for(receipt["id"], "error")
        assert {error["code"] for error in errors} == {"invalid_token"}
    await report(good)
    await client.wait_for_status("good", "running")
    assert await client.received("good", "error") == []
    await wait_until(lambda: proxy.connections == {transport: 1})


@pytest.mark.parametrize("transport", [EVENT_STREAM, LONG_POLL])
async def test_page_reconnects_after_a_crash_of_the_notifier(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, report: SendReport, transport: str
) -> None:
    """After a crash of the notifier a page reconnects with the same transport and misses no update."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.wait_for_status("job", "queued")
    await report(receipt)
    await client.wait_for_status("job", "running")
    await stack.kill("notifier")
    await report(receipt, "succeeded")
    await client.wait_for_status("job", "succeeded")
    assert await client.received("job", "connection") == ["connecting", "live", "reconnecting", "live"]
    await client.versions("job")


@pytest.mark.parametrize("transport", [EVENT_STREAM, LONG_POLL])
async def test_tabs_share_a_fallback(
    context: BrowserContext,
    client: BrowserClient,
    stack: Stack,
    proxy: BlockingProxy,
    report: SendReport,
    transport: str,
) -> None:
    """Tabs share a fallback connection, too; when the leader closes, the other tab takes over."""
    proxy.faults = FAULTS_BY_TRANSPORT[transport]
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    other = await BrowserClient.opened(await context.new_page(), stack.url)
    await client.watch("job", first["token"])
    await client.wait_for_status("job", "queued")
    for name, receipt in (("first", first), ("second", second)):
        await other.watch(name, receipt["token"])
        await other.wait_for_status(name, "queued")
    await wait_until(lambda: proxy.connections == {transport: 1})
    await client.page.close()
    for name, receipt in (("first", first), ("second", second)):
        await report(receipt)
        await other.wait_for_status(name, "running")
    await wait_until(lambda: proxy.connections == {transport: 1})


async def test_finished_jobs_are_rechecked_rarely(client: BrowserClient, stack: Stack, proxy: BlockingProxy) -> None:
    """A stream whose jobs have all finished is requested again only after a minute; a new job is shown at once."""
    proxy.faults = FAULTS_BY_TRANSPORT[EVENT_STREAM]
    await client.page.clock.install()
    await client.page.evaluate(RECORD_TIMERS)
    first, second = [await stack.submit(payload={"steps": 2, "delay_s": 0}) for _ in range(2)]
    await client.watch("first", first["token"])
    await client.wait_for_status("first", "succeeded")
    await wait_until(lambda: client.page.evaluate("timers.includes(60_000)"))  # the page has seen the end of the stream
    await wait_until(lambda: proxy.connections == {})
    count = proxy.request_counts[EVENT_STREAM]
    await client.page.clock.fast_forward(30_000)
    await wait_until(lambda: proxy.request_counts[WEBSOCKET] > 1)
    assert proxy.request_counts[EVENT_STREAM] == count
    await client.page.clock.fast_forward(30_000)
    await wait_until(lambda: proxy.request_counts[EVENT_STREAM] == count + 1)
    await client.watch("second", second["token"])
    await client.wait_for_status("second", "succeeded")
    assert await client.received("first", "connection") == ["connecting", "live"]


async def test_watch_added_when_a_job_finishes_keeps_the_connection(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy
) -> None:
    """The end of a finished job's stream is not a lost connection, and the next job is requested at once."""
    proxy.faults = FAULTS_BY_TRANSPORT[EVENT_STREAM]
    first = await stack.submit(payload={"steps": 2, "delay_s": 0})
    second = await stack.submit(delay_s=3600)
    await client.page.evaluate(WATCH_NEXT, {"first": first["token"], "second": second["token"]})
    await wait_until(lambda: client.page.evaluate("statuses.includes('queued')"))
    assert await client.page.evaluate("states") == ["connecting", "live"]


async def test_error_of_a_forbidden_origin_names_the_setting(
    context: BrowserContext, stack: Stack, proxy: BlockingProxy
) -> None:
    """A page whose origin is not allowed gets an error that names `ALLOWED_ORIGINS`, and does not reconnect."""
    (port,) = free_ports(1)
    async with run_proxy(port, int(stack.env["SUBMITTER_PORT"])) as other_origin:
        client = await BrowserClient.opened(await context.new_page(), other_origin.url)
        receipt = await stack.submit(delay_s=3600)
        await client.watch("job", receipt["token"])
        (error,) = await client.wait_for("job", "error")
        assert error == {
            "code": "origin_not_allowed",
            "message": f"The notifier at {proxy.url} does not allow pages of {other_origin.url}: "
            "add it to ALLOWED_ORIGINS.",
        }
        assert await client.received("job", "connection") == ["connecting", "refused"]
        await client.watch("late", receipt["token"])
        assert [error["code"] for error in await client.wait_for("late", "error")] == ["origin_not_allowed"]


async def test_page_connects_once_the_notifier_is_reachable(
    client: BrowserClient, stack: Stack, proxy: BlockingProxy, ports: list[int]
) -> None:
    """A page opened while the notifier is unreachable reports that it is reconnecting, and connects later."""
    receipt: dict[str, Any] = await stack.submit(delay_s=3600)
    await client.page.route(f"{proxy.url}/**", lambda route: route.abort("connectionrefused"))
    proxy.faults = {"refuse"}
    await client.watch("job", receipt["token"])
    assert await client.wait_for("job", "connection", 2) == ["connecting", "reconnecting"]
    proxy.faults = set()
    await client.wait_for_status("job", "queued")
    assert proxy.connections == {WEBSOCKET: 1}
