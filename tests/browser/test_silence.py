"""Pages whose connection carries nothing any more: all tabs say so, blame no worker, and show the truth soon after."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, expect

from headway.contracts import Timestamp
from tests.browser.blocking_proxy import BlockingProxy, run_proxy
from tests.browser.browser_client import BrowserClient
from tests.browser.conftest import SendReport, page_value
from tests.browser.embedding import part
from tests.browser.test_tabs import MUTE, UNMUTE
from tests.stack import Stack, running
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

PING_S = 0.5
SILENCE_S = 2.5 * PING_S
NOTICE_S = SILENCE_S + 10  # at most, until all tabs say that they reconnect
RECOVERY_S = 5  # at most, until all tabs show the truth
LONG = bool(os.environ.get("LONG"))
TABS = 20 if LONG else 6
LEASE_S, FIRST_LEASE_S = 3, 3600
CAUSES = ["frozen proxy", "new path", "frozen notifier", *(["hanging leader"] if LONG else [])]


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, ports: list[int]) -> AsyncIterator[Stack]:
    """Run the system with a short interval of hellos; clients reach its notifier through the proxy."""
    live, notifier = ports
    addresses = {"LIVE_URL": f"http://127.0.0.1:{live}", "NOTIFIER_PORT": str(notifier)}
    times = {"PING_S": str(PING_S), "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("silence"), **addresses, **times) as stack:
        yield stack


@pytest.fixture
async def proxy(ports: list[int]) -> AsyncIterator[BlockingProxy]:
    """Run a proxy that relays everything unless a test freezes it."""
    async with run_proxy(*ports) as proxy:
        yield proxy


class Stopwatch:
    """Measures how long pages take. On a busy machine they may take longer, as opening a page did."""

    def __init__(self) -> None:
        self._started_at = self._now()
        self._factor = 1.0

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def calibrate(self) -> None:
        """Treat the time since the start as that of opening a page."""
        self._factor += self._now() - self._started_at

    def restart(self) -> None:
        """Measure from now on."""
        self._started_at = self._now()

    def assert_within(self, limit_s: float) -> None:
        """Check that no more time has passed."""
        assert self._now() - self._started_at <= limit_s * self._factor


async def wait_for_last(tabs: list[BrowserClient], event: str, matches: Callable[[Any], bool]) -> None:
    """Wait until the last call of a callback matches in all tabs."""

    async def all_match() -> bool:
        return all([matches((await tab.received("job", event))[-1]) for tab in tabs])

    await wait_until(all_match)


def has_lease(lease_end: str, snapshot: dict[str, Any]) -> bool:
    """Return whether a snapshot shows the lease that ends at this time."""
    return bool(snapshot["lease_until"] == lease_end)


async def show_lease(tabs: list[BrowserClient], report: Callable[..., Awaitable[None]]) -> Timestamp:
    """Report a lease that has not ended yet when all tabs know it, and return its end."""
    for lease_s in itertools.count(LEASE_S, LEASE_S):
        lease_end = Timestamp.now().after(lease_s)
        await report(lease_until=str(lease_end))
        await wait_for_last(tabs, "job", partial(has_lease, str(lease_end)))
        if Timestamp.now() < lease_end:
            break
    return lease_end


ADD_ELEMENT = """async (token) => {
  const { liveUrl } = await import("/assets/live-url.js");
  document.body.append(Object.assign(document.createElement("headway-job"), { token, url: liveUrl }));
}"""


@pytest.mark.parametrize("cause", CAUSES)
async def test_all_tabs_notice_a_silent_connection(
    context: BrowserContext, page: Page, stack: Stack, proxy: BlockingProxy, report: SendReport, cause: str
) -> None:
    """All tabs of a window say that they reconnect, do not say that the worker is lost, and show the end of the job."""
    receipt = await stack.submit(delay_s=3600)
    await report(receipt, progress={"current": 1, "total": 4}, lease_until=str(Timestamp.now().after(FIRST_LEASE_S)))
    stopwatch, leader = Stopwatch(), BrowserClient(page)
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#status")).to_have_text("Running")
    stopwatch.calibrate()
    tabs = [await BrowserClient.opened(await context.new_page(), stack.url) for _ in range(TABS - 1)]
    for tab in tabs:
        await tab.watch("job", receipt["token"])
        await tab.wait_for("job", "job")
    await tabs[0].page.evaluate(ADD_ELEMENT, receipt["token"])
    note = part(tabs[0].page, "note")
    await expect(part(tabs[0].page, "status")).to_have_text("Running")
    notifier = stack.pid("notifier")
    assert notifier is not None
    lease_end = await show_lease(tabs, partial(report, receipt, progress={"current": 2, "total": 4}))
    if cause == "frozen notifier":
        os.kill(notifier, signal.SIGSTOP)
    else:
        proxy.freeze()
    if cause == "hanging leader":
        await page.evaluate(MUTE)
    stopwatch.restart()
    await expect(page.locator("#connection")).to_be_visible()
    await expect(note).to_have_text("Reconnecting…")
    await wait_for_last(tabs, "connection", lambda state: state == "reconnecting")
    stopwatch.assert_within(NOTICE_S)
    await page_value(tabs[0].page, "(end) => watches.job.now() > Date.parse(end)", str(lease_end))
    assert "Worker lost" not in await page.locator("main").inner_text()
    assert await note.inner_text() == "Reconnecting…"
    if cause == "frozen notifier":
        os.kill(notifier, signal.SIGCONT)
    elif cause == "new path":
        proxy.open_new_path()
    else:
        proxy.thaw()
    if cause == "hanging leader":
        await page.evaluate(UNMUTE)
    stopwatch.restart()
    await report(receipt, "succeeded", progress={"current": 4, "total": 4})
    await expect(page.locator("#status")).to_have_text("Succeeded")
    await wait_for_last(tabs, "job", lambda job: job["status"] == "succeeded")
    stopwatch.assert_within(RECOVERY_S)
    await wait_for_last(tabs, "connection", lambda state: state == "live")
    proxy.thaw()
    await wait_until(lambda: sum(not socket.is_closed() for tab in (leader, *tabs) for socket in tab.sockets) == 1)
