"""Tabs of one origin share a connection, and miss no update when the leading tab closes, freezes or navigates away."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, expect

from tests.browser.browser_client import BrowserClient, details_token
from tests.browser.conftest import SendReport
from tests.browser.embedding import sign_list_token
from tests.browser.probes import OBSERVE_SHIFTS
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

NO_LOCKS = "delete Navigator.prototype.locks"
# A hanging tab sends nothing and keeps its locks.
MUTE = """() => {
  window.originalPostMessage = BroadcastChannel.prototype.postMessage;
  BroadcastChannel.prototype.postMessage = () => {};
}"""
UNMUTE = "() => { BroadcastChannel.prototype.postMessage = originalPostMessage; }"

ARRIVALS = 2000 if os.environ.get("LONG") else 120
ARRIVALS_PER_S = 50
COUNT_SOCKETS = """
window.sockets = [];
const Original = WebSocket;
window.WebSocket = class extends Original {
  constructor(...options) {
    super(...options);
    sockets.push(this);
  }
};
"""
SHOW_LIST = """async (token) => {
  await import("/assets/jobs-element.js");
  document.body.replaceChildren(Object.assign(document.createElement("headway-jobs"), { token }));
}"""
# Return the name of the row at a point, and its top.
POINTED_ROW = """(point) => {
  const row = document.querySelector("headway-jobs").shadowRoot.elementFromPoint(...point).closest("li");
  const name = row.querySelector(".job").shadowRoot.querySelector("[part=kind]").textContent;
  return [name, row.getBoundingClientRect().top];
}"""

OpenTab = Callable[..., Coroutine[Any, Any, BrowserClient]]


@pytest.fixture
def open_tab(context: BrowserContext, stack: Stack) -> OpenTab:
    """Open tabs of one window; each watches some jobs, named by their ids."""

    async def open_one(*receipts: dict[str, Any], script: str = "") -> BrowserClient:
        page = await context.new_page()
        if script:
            await page.add_init_script(script)
        client = await BrowserClient.opened(page, stack.url)
        await watch(client, *receipts)
        return client

    return open_one


async def watch(client: BrowserClient, *receipts: dict[str, Any]) -> None:
    """Watch jobs in a tab, named by their ids, and wait until each has a snapshot."""
    await client.watch_all({receipt["id"]: receipt["token"] for receipt in receipts})
    for receipt in receipts:
        await client.wait_for(receipt["id"], "job")


async def wait_for_connections(stack: Stack, count: int, watched: int | None = None) -> None:
    """Wait until the notifier has this number of connections, and of watched jobs if given."""

    async def settled() -> bool:
        enough = watched is None or await stack.metric("notifier_watched_jobs") == watched
        return enough and await stack.metric("notifier_connections") == count

    await wait_until(settled)


def leaders(clients: list[BrowserClient]) -> list[BrowserClient]:
    """Return the tabs with an open WebSocket."""
    return [client for client in clients if not all(socket.is_closed() for socket in client.sockets)]


async def test_ten_tabs_share_one_connection(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """Ten tabs with twenty jobs each share a connection; when the leader closes, the others miss no update."""
    shared, *own = [[await stack.submit(delay_s=3600) for _ in range(count)] for count in (15, *[5] * 10)]
    tabs = [await open_tab(*shared, *more) for more in own]
    await wait_for_connections(stack, 1, watched=65)
    (leader,) = leaders(tabs)
    others = [(client, [*shared, *more]) for client, more in zip(tabs, own, strict=True) if client is not leader]
    everything = [receipt for receipts in (shared, *own) for receipt in receipts]
    for receipt in everything[::2]:
        await report(receipt, progress={"current": 1, "total": 2})
    closing = asyncio.create_task(leader.page.close())
    for receipt in everything:
        await report(receipt, "succeeded", progress={"current": 2, "total": 2})
    await closing
    for client, receipts in others:
        for receipt in receipts:
            await client.wait_for_status(receipt["id"], "succeeded")
            await client.versions(receipt["id"])
    assert len(leaders([client for client, _ in others])) == 1
    remaining = {receipt["id"] for _, receipts in others for receipt in receipts}
    await wait_for_connections(stack, 1, watched=len(remaining))
    for client, _ in others:
        await client.page.close()
    await wait_for_connections(stack, 0, watched=0)


async def test_new_leader_sends_the_versions_of_all_tabs(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """A new leader asks only for versions newer than those that it and its followers have."""
    mine, yours = [await stack.submit(delay_s=3600) for _ in range(2)]
    leader, successor, other = await open_tab(mine), await open_tab(mine), await open_tab(yours)
    for receipt in (mine, yours):
        await report(receipt)
    snapshots = [
        await successor.wait_for_status(mine["id"], "running"),
        await other.wait_for_status(yours["id"], "running"),
    ]
    await leader.page.close()
    await wait_until(lambda: len(successor.sent) == 2)
    assert {message["watch"]: message["version"] for message in successor.sent} == {
        receipt["token"]: snapshot["version"] for receipt, snapshot in zip((mine, yours), snapshots, strict=True)
    }
    assert other.sockets == []


async def test_tabs_share_a_log(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """Each tab gets the whole log once, also if it comes late, or if another tab takes over the connection."""
    receipt = await stack.submit(delay_s=3600)
    await report(receipt)
    await stack.append_log(receipt, 0, "one\n")
    leader = await open_tab(receipt)
    await leader.watch("log", receipt["token"], log=True)
    await leader.wait_for_log("log", "one\n")

    async def write_lines() -> None:
        for number in range(200):
            await stack.append_log(receipt, 4 + 4 * number, f"{number:03}\n")

    writing = asyncio.create_task(write_lines())  # the other tabs join while pieces arrive
    follower, late = [await open_tab(receipt) for _ in range(2)]
    await follower.watch("log", receipt["token"], log=True)
    await late.watch("log", receipt["token"], log=2)
    await writing
    text = "one\n" + "".join(f"{number:03}\n" for number in range(200))
    for tab, start in ((leader, 0), (follower, 0), (late, 2)):
        await tab.wait_for_log("log", text[start:], start)
    assert leaders([leader, follower, late]) == [leader]
    await leader.page.close()
    await stack.append_log(receipt, len(text), "last\n")
    for tab, start in ((follower, 0), (late, 2)):
        await tab.wait_for_log("log", f"{text[start:]}last\n", start)


@pytest.mark.parametrize("is_log_first", [True, False])
async def test_tabs_with_different_tokens_share_a_job(
    open_tab: OpenTab, stack: Stack, report: SendReport, *, is_log_first: bool
) -> None:
    """One tab has a token for the log and another one a token to cancel; each gets what its token permits."""
    receipt = await stack.submit(delay_s=3600)
    await report(receipt)
    await stack.append_log(receipt, 0, "one\n", watchers=False)
    token = await details_token(stack, receipt)
    log_tab, bar_tab = await open_tab(), await open_tab()
    for tab in (log_tab, bar_tab) if is_log_first else (bar_tab, log_tab):
        await tab.watch("job", token if tab is log_tab else receipt["token"], log=tab is log_tab)
        await tab.wait_for_status("job", "running")
    await log_tab.wait_for_log("job", "one\n")
    await bar_tab.call("job", "cancel")

    async def is_cancelled() -> bool:
        return any(job["cancel_requested"] for job in await bar_tab.received("job", "job"))

    await wait_until(is_cancelled)
    await stack.append_log(receipt, 4, "two\n", watchers=False)
    await log_tab.wait_for_log("job", "one\ntwo\n")
    for tab in (log_tab, bar_tab):
        assert await tab.received("job", "error") == []


async def test_every_tab_learns_that_a_log_is_not_for_it(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """A watch of the log gets the error, and the snapshots; a watch without it gets no error."""
    receipt = await stack.submit(delay_s=3600)
    await report(receipt)
    await stack.append_log(receipt, 0, "secret\n", watchers=False)
    tabs = [await open_tab(receipt) for _ in range(2)]
    for tab in tabs:
        await tab.watch("log", receipt["token"], log=True)
        assert [error["code"] for error in await tab.wait_for("log", "error")] == ["forbidden"]
    await report(receipt, "succeeded")
    for tab in tabs:
        await tab.wait_for_status("log", "succeeded")
        assert await tab.received(receipt["id"], "error") == []
        assert await tab.received("log", "log") == []


async def test_job_is_unsubscribed_with_its_last_tab(open_tab: OpenTab, stack: Stack) -> None:
    """The leader unsubscribes from a job when the last tab that watches it closes or navigates away."""
    first, second, third = [await stack.submit(delay_s=3600) for _ in range(3)]
    leader = await open_tab(first)
    follower = await open_tab(first, second)
    third_tab = await open_tab(third)
    await wait_for_connections(stack, 1, watched=3)
    await third_tab.call(third["id"], "close")
    await wait_for_connections(stack, 1, watched=2)
    await watch(third_tab, third)
    await wait_for_connections(stack, 1, watched=3)
    await third_tab.page.goto("about:blank")
    await wait_for_connections(stack, 1, watched=2)
    await follower.page.close()
    await wait_for_connections(stack, 1, watched=1)
    assert leaders([leader]) == [leader]


async def test_leader_without_watches_serves_its_followers(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """A leader whose own watches are closed keeps the connection as long as a follower needs it."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await open_tab(receipt), await open_tab(receipt)
    await leader.call(receipt["id"], "close")
    await report(receipt)
    await follower.wait_for_status(receipt["id"], "running")
    assert leaders([leader, follower]) == [leader]
    await follower.call(receipt["id"], "close")
    await wait_for_connections(stack, 0)


async def test_follower_cancels_through_the_leader(open_tab: OpenTab, stack: Stack) -> None:
    """A follower cancels a job over the leader's connection, and both tabs receive the outcome."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await open_tab(receipt), await open_tab(receipt)
    await follower.call(receipt["id"], "cancel")
    for client in (leader, follower):
        await client.wait_for_status(receipt["id"], "cancelled")
    assert leader.sent[-1] == {"cancel": receipt["id"]}


async def test_followers_receive_connection_state_and_clock(open_tab: OpenTab, stack: Stack) -> None:
    """All tabs receive the changes of the connection and the offset of the server's clock."""
    receipt = await stack.submit(delay_s=3600)
    clock = "window.correctNow = Date.now; Date.now = () => correctNow() - 1e9;"
    tabs = [await open_tab(receipt, script=clock) for _ in range(3)]
    await stack.kill("notifier")
    for client in tabs:
        states = await client.wait_for(receipt["id"], "connection", 4)
        assert states == ["connecting", "live", "reconnecting", "live"]
        offset = await client.page.evaluate("(id) => watches[id].now() - correctNow()", receipt["id"])
        assert abs(offset) < 5_000
    await wait_until(lambda: len(leaders(tabs)) == 1)


async def test_error_reaches_only_its_tab(open_tab: OpenTab, stack: Stack) -> None:
    """The error about an invalid token reaches only the tab that uses the token."""
    good, bad = [await stack.submit(delay_s=3600) for _ in range(2)]
    leader, follower = await open_tab(good), await open_tab(good)
    unsigned, _, _ = bad["token"].rpartition(".")
    await follower.watch("bad", f"{unsigned}.{'A' * 86}")
    (error,) = await follower.wait_for("bad", "error")
    assert error["code"] == "invalid_token"
    assert await leader.received(good["id"], "error") == await follower.received(good["id"], "error") == []


async def test_tab_without_locks_has_its_own_connection(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """Without Web Locks, as on plain http, each tab has its own connection."""
    receipt = await stack.submit(delay_s=3600)
    tabs = [await open_tab(receipt, script=NO_LOCKS) for _ in range(2)]
    await report(receipt)
    for client in tabs:
        await client.wait_for_status(receipt["id"], "running")
    assert leaders(tabs) == tabs


async def test_leader_that_navigates_away_releases_the_connection(
    open_tab: OpenTab, stack: Stack, report: SendReport
) -> None:
    """A leader that navigates away releases the connection, and receives the newest snapshot when it is back."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await open_tab(receipt), await open_tab(receipt)
    await leader.page.goto("about:blank")
    await wait_until(lambda: leaders([follower]))  # no events arrive from the page that was left
    await report(receipt)
    await follower.wait_for_status(receipt["id"], "running")
    await leader.page.go_back()
    if not await leader.page.evaluate("Boolean(window.watches)"):
        await watch(leader, receipt)  # the page was not in the back/forward cache
    await leader.wait_for_status(receipt["id"], "running")
    await wait_for_connections(stack, 1)


async def test_frozen_leader_hands_over(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """A leader that the browser freezes releases the connection first, and is a follower after it resumes."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await open_tab(receipt), await open_tab(receipt)
    await leader.page.evaluate("document.dispatchEvent(new Event('freeze'))")
    await wait_until(lambda: leaders([leader, follower]) == [follower])
    await report(receipt)
    await follower.wait_for_status(receipt["id"], "running")
    assert {job["status"] for job in await leader.received(receipt["id"], "job")} == {"queued"}
    await leader.page.evaluate("document.dispatchEvent(new Event('resume'))")
    await leader.wait_for_status(receipt["id"], "running")
    assert leaders([leader, follower]) == [follower]


async def test_silent_leader_is_replaced(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """A leader that does not answer a new tab is replaced within seconds, and becomes a follower."""
    receipt = await stack.submit(delay_s=3600)
    leader = await open_tab(receipt)
    await leader.page.evaluate(MUTE)
    follower = await open_tab(receipt)
    assert len(leaders([follower])) == 1
    await leader.page.evaluate(UNMUTE)
    await wait_until(lambda: leaders([leader, follower]) == [follower])
    await report(receipt)
    for client in (leader, follower):
        await client.wait_for_status(receipt["id"], "running")


async def test_follower_detects_a_hanging_leader(open_tab: OpenTab, stack: Stack, report: SendReport) -> None:
    """A follower checks a silent leader and replaces it if it does not answer."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await open_tab(receipt), await open_tab()
    await follower.page.clock.install()
    await watch(follower, receipt)
    await leader.page.evaluate(MUTE)
    await follower.page.clock.fast_forward(20_000)  # the follower pings the leader
    await follower.page.clock.fast_forward(3_000)  # and the ping times out
    await wait_until(lambda: leaders([leader, follower]) == [follower])
    await report(receipt)
    await follower.wait_for_status(receipt["id"], "running")


async def test_list_of_an_owner_is_live_in_all_tabs(context: BrowserContext, stack: Stack) -> None:
    """While 50 jobs a second arrive, two tabs share the list of one owner; no row moves under the pointer."""
    owner = f"ada-{uuid.uuid4()}"
    pages = [await open_list(context, stack, owner) for _ in range(2)]
    await submit_steadily(stack, owner, ARRIVALS // 2)
    for page in pages:
        await expect(page.locator("li").first).to_contain_text(f"Job {ARRIVALS // 2 - 1}")
    await wait_for_connections(stack, 1)
    leader, follower = pages if await pages[0].evaluate("sockets.length") else pages[::-1]
    box = await follower.locator("li").nth(2).bounding_box()
    assert box is not None
    point = [box["x"] + 100, box["y"] + 20]
    await follower.mouse.move(*point)
    before = await follower.evaluate(POINTED_ROW, point)
    receipts = await submit_steadily(stack, owner, ARRIVALS // 2, start=ARRIVALS // 2)  # for longer than a second
    await expect(follower.locator("[part=fresh]")).to_be_visible()
    assert await follower.evaluate(POINTED_ROW, point) == before
    await follower.mouse.move(0, 0)
    newest = follower.locator("li").first
    await expect(newest).to_contain_text(f"Job {ARRIVALS - 1}")
    assert [await page.evaluate("shift <= 0.02") for page in pages] == [True, True]
    await leader.close()
    await stack.report(receipts[-1], status="running", progress={"current": 1, "total": 4})
    await expect(newest).to_contain_text("25 %")
    await stack.report(receipts[-1], 2, status="succeeded")
    await expect(newest).to_contain_text("Succeeded")
    await submit_steadily(stack, owner, 1, start=ARRIVALS)
    await expect(newest).to_contain_text(f"Job {ARRIVALS}")
    names = await follower.evaluate("document.querySelector('headway-jobs').jobs.map(({ name }) => name)")
    assert names == [f"Job {number}" for number in range(ARRIVALS, ARRIVALS - 50, -1)]
    await follower.close()
    await wait_for_connections(stack, 0, watched=0)


async def test_followers_rows_out_of_sight_are_not_watched(
    context: BrowserContext, open_tab: OpenTab, stack: Stack
) -> None:
    """A leader without a list asks the notifier to stop sending those jobs that a follower lists but does not show."""
    await open_tab(await stack.submit(delay_s=3600))
    owner = f"ada-{uuid.uuid4()}"
    follower = await open_list(context, stack, owner)
    await submit_steadily(stack, owner, 50)
    await expect(follower.locator("li")).to_have_count(50)

    async def few_watched() -> bool:
        return await stack.metric("notifier_watched_jobs") < 30

    await wait_until(few_watched)


async def open_list(context: BrowserContext, stack: Stack, owner: str) -> Page:
    """Open a page that shows only the list of an owner."""
    page = await context.new_page()
    await page.add_init_script(OBSERVE_SHIFTS)
    await page.add_init_script(COUNT_SOCKETS)
    await BrowserClient.opened(page, stack.url)
    await page.evaluate(SHOW_LIST, sign_list_token(stack, owner))
    await expect(page.get_by_text("No jobs yet.")).to_be_visible()
    return page


async def submit_steadily(stack: Stack, owner: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Submit jobs at a steady rate, each tenth of them of another owner as well; return the receipts."""
    clock = asyncio.get_running_loop().time
    began = clock()
    receipts = [{"id": str(uuid.uuid4())} for _ in range(count)]
    for number, receipt in enumerate(receipts):
        await asyncio.sleep(max(0, began + number / ARRIVALS_PER_S - clock()))
        labels = {"name": f"Job {start + number}", "owner": owner}
        await stack.record_submission(receipt, labels=labels)
        if number % 10 == 0:
            await stack.record_submission({"id": str(uuid.uuid4())}, labels={**labels, "owner": "bert"})
    return receipts
