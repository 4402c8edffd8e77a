"""Pages behind proxies that let no WebSocket through, or no stream either, show the same, and find the way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser.client import WATCH, Client
from tests.browser.conftest import RECORD, TIMEOUT_MS, Problems, Report, forged
from tests.browser.proxy import SOCKET, Proxy, proxied
from tests.stack import Stack, running
from tests.waiting import free_ports, wait_until

pytestmark = pytest.mark.browser

STREAM, POLL = "POST /live/events", "POST /live/jobs"
WAYS = {SOCKET: set(), STREAM: {"refuse"}, POLL: {"swallow", "buffer"}}
BLOCKED = [
    pytest.param({"refuse"}, STREAM, id="refuses"),
    pytest.param({"swallow"}, STREAM, id="swallows"),
    pytest.param({"refuse", "buffer"}, POLL, id="refuses-and-buffers"),
    pytest.param({"swallow", "buffer"}, POLL, id="swallows-and-buffers"),
]
NOTE_TIMERS = """() => {
  const set = window.setTimeout;
  window.timers = [];
  window.setTimeout = (act, ms, ...rest) => { timers.push(ms); return set(act, ms, ...rest); };
}"""
WATCH_NEXT = """async ({ first, second }) => {
  const { watchJob } = await import("/assets/headway.js");
  const { liveUrl } = await import("/assets/live-url.js");
  window.states = [];
  window.seen = [];
  const next = () => watchJob({ url: liveUrl, token: second }, ({ status }) => seen.push(status));
  const onConnection = (state) => states.push(state);
  watchJob({ url: liveUrl, token: first, onConnection }, ({ status }) => status === "succeeded" && next());
}"""
JOB = {"steps": 60, "delay_s": 0.1}  # long enough to be met on the way by the slowest page


@pytest.fixture(scope="module")
async def ports() -> list[int]:
    """Choose where the proxy and the notifier listen."""
    return free_ports(2)


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, ports: list[int]) -> AsyncIterator[Stack]:
    """Run the system for this module, with a proxy before its notifier."""
    live, notifier = ports
    env = {"LIVE_URL": f"http://127.0.0.1:{live}", "NOTIFIER_PORT": str(notifier), "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("fallback"), **env) as stack:
        yield stack


@pytest.fixture
async def proxy(ports: list[int]) -> AsyncIterator[Proxy]:
    """Run a proxy that lets everything through until it is told otherwise."""
    async with proxied(*ports) as proxy:
        yield proxy


@pytest.fixture
async def client(page: Page, stack: Stack, proxy: Proxy) -> Client:
    """Open a page that watches nothing yet."""
    client = Client(page)
    await page.goto(stack.url)
    return client


@pytest.fixture
async def other(browser: Browser) -> AsyncIterator[Page]:
    """Open a page in another window, which shares no connection with the first."""
    context = await browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    await context.add_init_script(RECORD)
    yield await context.new_page()
    await context.close()


def now() -> float:
    """Return this machine's time in seconds."""
    return asyncio.get_running_loop().time()


async def ended_at(page: Page) -> float:
    """Wait until a page shows the job's end; return when."""
    await expect(page.locator("#status")).to_have_text("Succeeded")
    return now()


@pytest.mark.parametrize(("blocks", "way"), BLOCKED)
async def test_blocked_page_shows_the_same(
    page: Page, other: Page, stack: Stack, proxy: Proxy, blocks: set[str], way: str
) -> None:
    """Behind a bad proxy the same page shows the same job within 5 s, and its end with an unblocked one."""
    problems = Problems(page)
    receipt = await stack.submit(payload=JOB)
    await page.goto(receipt["links"]["page"])
    await wait_until(lambda: proxy.open[SOCKET] == 1)
    proxy.blocks = blocks
    opened = now()
    await other.goto(receipt["links"]["page"])
    await expect(other.locator("#status")).to_have_text("Running")
    assert now() - opened < 5
    await wait_until(lambda: proxy.open[way] == 1)
    free, blocked = await asyncio.gather(ended_at(page), ended_at(other))
    assert abs(blocked - free) < 5
    shown = await other.evaluate("renders")
    assert [state["version"] for state in shown] == sorted({state["version"] for state in shown})
    assert shown[-1] == (await page.evaluate("renders"))[-1]
    assert problems.found == []


async def test_unblocked_page_uses_nothing_else(client: Client, stack: Stack, proxy: Proxy) -> None:
    """Where nothing stands in the way a page makes one WebSocket and no request beside it."""
    receipt = await stack.submit(payload=JOB)
    await client.watch("job", receipt["token"])
    await client.sees("job", "succeeded")
    assert proxy.asked == {SOCKET: 1}


@pytest.mark.parametrize("way", WAYS)
async def test_many_jobs_are_one_connection(
    client: Client, stack: Stack, proxy: Proxy, report: Report, way: str
) -> None:
    """However a page is connected, 200 jobs are one connection, and each of them is still heard."""
    proxy.blocks = WAYS[way]
    receipts = [await stack.submit(delay_s=3600) for _ in range(200)]
    watches = [{"name": receipt["id"], "token": receipt["token"]} for receipt in receipts]
    await client.page.evaluate(f"(all) => Promise.all(all.map({WATCH}))", watches)
    for receipt in receipts:
        await client.sees(receipt["id"], "queued")
    await wait_until(lambda: proxy.lasting == {way: 1})
    asked = proxy.asked[way]
    for receipt in (receipts[0], receipts[-1]):
        await report(receipt)
        await client.sees(receipt["id"], "running")
    assert asked == (2 if way == POLL else 1)
    await wait_until(lambda: proxy.lasting == {way: 1})


@pytest.mark.parametrize("way", [STREAM, POLL])
async def test_page_comes_back_to_a_socket(
    client: Client, stack: Stack, proxy: Proxy, report: Report, way: str
) -> None:
    """When the proxy blocks no more, a page returns to a WebSocket, and is never unconnected meanwhile."""
    proxy.blocks = WAYS[way]
    await client.page.clock.install()
    receipt = await stack.submit(delay_s=3600)
    await client.watch("job", receipt["token"])
    await client.sees("job", "queued")
    await report(receipt, progress={"current": 1, "total": 4})
    await client.sees("job", "running")
    await client.page.clock.fast_forward(15_000)
    await wait_until(lambda: proxy.asked[SOCKET] == 2)
    await report(receipt, progress={"current": 2, "total": 4})
    await client.hears("job", "job", 3)
    proxy.blocks = set()
    await client.page.clock.fast_forward(30_000)
    await wait_until(lambda: proxy.lasting == {SOCKET: 1})
    await report(receipt, "succeeded", progress={"current": 4, "total": 4})
    await client.sees("job", "succeeded")
    assert await client.told("job", "connection") == ["connecting", "live"]
    assert len(await client.versions("job")) == 4


@pytest.mark.parametrize("way", [STREAM, POLL])
async def test_later_jobs_join(client: Client, stack: Stack, proxy: Proxy, report: Report, way: str) -> None:
    """A job that is watched later joins the others on their one connection, and leaves it alone."""
    proxy.blocks = WAYS[way]
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("first", first["token"])
    await client.sees("first", "queued")
    await client.watch("second", second["token"])
    await client.sees("second", "queued")
    await wait_until(lambda: proxy.lasting == {way: 1})
    await client.call("second", "close")
    await report(first)
    await client.sees("first", "running")
    await client.call("first", "close")
    await wait_until(lambda: proxy.lasting == {})


@pytest.mark.parametrize("way", [STREAM, POLL])
async def test_cancel_is_sent(client: Client, stack: Stack, proxy: Proxy, way: str) -> None:
    """A job is cancelled without a WebSocket, even when that is asked before there is any connection."""
    proxy.blocks = WAYS[way]
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("first", first["token"])
    await client.call("first", "cancel")
    await client.sees("first", "cancelled")
    await client.watch("second", second["token"])
    await client.sees("second", "queued")
    await client.call("second", "cancel")
    await client.sees("second", "cancelled")


@pytest.mark.parametrize("way", [STREAM, POLL])
async def test_forged_token_concerns_its_job_alone(
    client: Client, stack: Stack, proxy: Proxy, report: Report, way: str
) -> None:
    """Alone or among good ones a forged token is an error for its own job, and not asked for again and again."""
    proxy.blocks = WAYS[way]
    good, bad = [await stack.submit(delay_s=3600) for _ in range(2)]
    await client.watch("bad", forged(bad["token"]))
    assert [error["code"] for error in await client.hears("bad", "error")] == ["invalid_token"]
    assert await client.told("bad", "connection") == ["connecting", "live"]
    await client.watch("good", good["token"])
    await client.sees("good", "queued")
    asked = proxy.asked[way]
    await report(good)
    await client.sees("good", "running")
    assert proxy.asked[way] <= asked + 2
    assert await client.told("good", "error") == []


@pytest.mark.parametrize("way", [STREAM, POLL])
async def test_restart_is_survived(client: Client, stack: Stack, proxy: Proxy, way: str) -> None:
    """A notifier that crashes is come back to by the same way, and nothing is lost."""
    proxy.blocks = WAYS[way]
    receipt = await stack.submit(payload={"steps": 80, "delay_s": 0.1})
    await client.watch("job", receipt["token"])
    await client.sees("job", "running")
    await stack.kill("notifier")
    await client.sees("job", "succeeded")
    assert await client.told("job", "connection") == ["connecting", "live", "reconnecting", "live"]
    await client.versions("job")


@pytest.mark.parametrize("way", [STREAM, POLL])
async def test_tabs_share_a_fallback(
    context: BrowserContext, client: Client, stack: Stack, proxy: Proxy, report: Report, way: str
) -> None:
    """Tabs share one connection without a WebSocket, too, and the other goes on when the one that has it closes."""
    proxy.blocks = WAYS[way]
    first, second = [await stack.submit(delay_s=3600) for _ in range(2)]
    other = Client(await context.new_page())
    await other.page.goto(stack.url)
    await client.watch("job", first["token"])
    await client.sees("job", "queued")
    for name, receipt in (("first", first), ("second", second)):
        await other.watch(name, receipt["token"])
        await other.sees(name, "queued")
    await wait_until(lambda: proxy.lasting == {way: 1})
    await client.page.close()
    for name, receipt in (("first", first), ("second", second)):
        await report(receipt)
        await other.sees(name, "running")
    await wait_until(lambda: proxy.lasting == {way: 1})


async def test_ended_jobs_are_left_alone(client: Client, stack: Stack, proxy: Proxy) -> None:
    """A stream whose jobs have all ended is not asked for again and again, yet a new job is shown."""
    proxy.blocks = WAYS[STREAM]
    await client.page.clock.install()
    await client.page.evaluate(NOTE_TIMERS)
    first, second = [await stack.submit(payload={"steps": 2, "delay_s": 0}) for _ in range(2)]
    await client.watch("first", first["token"])
    await client.sees("first", "succeeded")
    await wait_until(lambda: client.page.evaluate("timers.includes(60_000)"))  # the page knows that the stream is over
    await wait_until(lambda: proxy.lasting == {})
    asked = proxy.asked[STREAM]
    await client.page.clock.fast_forward(50_000)
    await wait_until(lambda: proxy.asked[SOCKET] > 1)
    assert proxy.asked[STREAM] == asked
    await client.page.clock.fast_forward(10_000)
    await wait_until(lambda: proxy.asked[STREAM] == asked + 1)
    await client.watch("second", second["token"])
    await client.sees("second", "succeeded")
    assert await client.told("first", "connection") == ["connecting", "live"]


async def test_the_next_job_is_watched_when_one_ends(client: Client, stack: Stack, proxy: Proxy) -> None:
    """The stream that ends with the first is not lost for that, and the next one is asked for at once."""
    proxy.blocks = WAYS[STREAM]
    first = await stack.submit(payload={"steps": 2, "delay_s": 0})
    second = await stack.submit(delay_s=3600)
    await client.page.evaluate(WATCH_NEXT, {"first": first["token"], "second": second["token"]})
    await wait_until(lambda: client.page.evaluate("seen.includes('queued')"))
    assert await client.page.evaluate("states") == ["connecting", "live"]


async def test_foreign_page_is_told(context: BrowserContext, stack: Stack, proxy: Proxy) -> None:
    """A page of an origin that the notifier does not allow learns that, and what to do about it."""
    (port,) = free_ports(1)
    async with proxied(port, int(stack.env["SUBMITTER_PORT"])) as foreign:
        client = Client(await context.new_page())
        await client.page.goto(foreign.url)
        receipt = await stack.submit(delay_s=3600)
        await client.watch("job", receipt["token"])
        (error,) = await client.hears("job", "error")
        assert error == {
            "code": "origin_not_allowed",
            "message": f"The notifier at {proxy.url} does not allow pages of {foreign.url}: add it to ALLOWED_ORIGINS.",
        }
        assert await client.told("job", "connection") == ["connecting", "refused"]
        await client.watch("late", receipt["token"])
        assert [error["code"] for error in await client.hears("late", "error")] == ["origin_not_allowed"]


async def test_absent_server_is_waited_for(client: Client, stack: Stack, proxy: Proxy, ports: list[int]) -> None:
    """A page that is opened while nobody answers says that it reconnects, and is connected when somebody does."""
    receipt: dict[str, Any] = await stack.submit(delay_s=3600)
    await client.page.route(f"{proxy.url}/**", lambda route: route.abort("connectionrefused"))
    proxy.blocks = {"refuse"}
    await client.watch("job", receipt["token"])
    assert await client.hears("job", "connection", 2) == ["connecting", "reconnecting"]
    proxy.blocks = set()
    await client.sees("job", "queued")
    assert proxy.lasting == {SOCKET: 1}
