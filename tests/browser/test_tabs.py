"""Tabs of one origin share one connection, and lose nothing when the tab that has it closes, freezes or leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from playwright.async_api import BrowserContext

from tests.browser.client import WATCH, Client
from tests.browser.conftest import Report
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

NO_LOCKS = "delete Navigator.prototype.locks"
# A tab that hangs says nothing, and keeps its locks.
MUTE = (
    "() => { window.say = BroadcastChannel.prototype.postMessage; BroadcastChannel.prototype.postMessage = () => {}; }"
)
UNMUTE = "() => { BroadcastChannel.prototype.postMessage = say; }"

Open = Callable[..., Coroutine[Any, Any, Client]]


@pytest.fixture
def tab(context: BrowserContext, stack: Stack) -> Open:
    """Open tabs in one window, each of which watches some jobs under their ids."""

    async def tab(*receipts: dict[str, Any], script: str = "") -> Client:
        page = await context.new_page()
        if script:
            await page.add_init_script(script)
        client = Client(page)
        await page.goto(stack.url)
        await watch(client, *receipts)
        return client

    return tab


async def watch(client: Client, *receipts: dict[str, Any]) -> None:
    """Watch jobs in a tab under their ids, until all of them have been seen."""
    watches = [{"name": receipt["id"], "token": receipt["token"]} for receipt in receipts]
    await client.page.evaluate(f"(all) => Promise.all(all.map({WATCH}))", watches)
    for receipt in receipts:
        await client.hears(receipt["id"], "job")


async def connections(stack: Stack, count: int, watched: int | None = None) -> None:
    """Wait until the notifier has so many connections, and so many watched jobs."""

    async def settled() -> bool:
        enough = watched is None or await stack.metric("notifier_watched_jobs") == watched
        return enough and await stack.metric("notifier_connections") == count

    await wait_until(settled)


def leading(clients: list[Client]) -> list[Client]:
    """Return the tabs that have an open socket."""
    return [client for client in clients if not all(socket.is_closed() for socket in client.sockets)]


async def test_ten_tabs_are_one_connection(tab: Open, stack: Stack, report: Report) -> None:
    """Ten tabs with twenty jobs each are one connection; when the leading one closes, the others miss nothing."""
    shared, *own = [[await stack.submit(delay_s=3600) for _ in range(count)] for count in (15, *[5] * 10)]
    tabs = [await tab(*shared, *more) for more in own]
    await connections(stack, 1, watched=65)
    (leader,) = leading(tabs)
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
            await client.sees(receipt["id"], "succeeded")
            await client.versions(receipt["id"])
    assert len(leading([client for client, _ in others])) == 1
    left = {receipt["id"] for _, receipts in others for receipt in receipts}
    await connections(stack, 1, watched=len(left))
    for client, _ in others:
        await client.page.close()
    await connections(stack, 0, watched=0)


async def test_new_leader_names_what_was_seen(tab: Open, stack: Stack, report: Report) -> None:
    """The tab that takes over asks for what is newer than the tabs have, theirs and its own."""
    mine, yours = [await stack.submit(delay_s=3600) for _ in range(2)]
    leader, heir, other = await tab(mine), await tab(mine), await tab(yours)
    for receipt in (mine, yours):
        await report(receipt)
    seen = [await heir.sees(mine["id"], "running"), await other.sees(yours["id"], "running")]
    await leader.page.close()
    await wait_until(lambda: len(heir.sent) == 2)
    assert {message["watch"]: message["version"] for message in heir.sent} == {
        receipt["token"]: snapshot["version"] for receipt, snapshot in zip((mine, yours), seen, strict=True)
    }
    assert other.sockets == []


async def test_tabs_come_and_go(tab: Open, stack: Stack) -> None:
    """A job is given back to the server when the last tab that shows it closes or goes elsewhere."""
    first, second, third = [await stack.submit(delay_s=3600) for _ in range(3)]
    leader = await tab(first)
    follower = await tab(first, second)
    leaver = await tab(third)
    await connections(stack, 1, watched=3)
    await leaver.call(third["id"], "close")
    await connections(stack, 1, watched=2)
    await watch(leaver, third)
    await connections(stack, 1, watched=3)
    await leaver.page.goto("about:blank")
    await connections(stack, 1, watched=2)
    await follower.page.close()
    await connections(stack, 1, watched=1)
    assert leading([leader]) == [leader]


async def test_leader_without_jobs_serves_the_others(tab: Open, stack: Stack, report: Report) -> None:
    """A leading tab whose own watches are closed keeps the connection up for as long as others need it."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await tab(receipt), await tab(receipt)
    await leader.call(receipt["id"], "close")
    await report(receipt)
    await follower.sees(receipt["id"], "running")
    assert leading([leader, follower]) == [leader]
    await follower.call(receipt["id"], "close")
    await connections(stack, 0)


async def test_follower_cancels(tab: Open, stack: Stack) -> None:
    """A tab without a connection of its own cancels through the one that has it, and both see that."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await tab(receipt), await tab(receipt)
    await follower.call(receipt["id"], "cancel")
    for client in (leader, follower):
        await client.sees(receipt["id"], "cancelled")
    assert leader.sent[-1] == {"cancel": receipt["id"]}


async def test_tabs_know_the_same(tab: Open, stack: Stack) -> None:
    """All tabs hear how the connection fares, and keep the server's clock."""
    receipt = await stack.submit(delay_s=3600)
    clock = "window.right = Date.now; Date.now = () => right() - 1e9;"
    tabs = [await tab(receipt, script=clock) for _ in range(3)]
    await stack.kill("notifier")
    for client in tabs:
        states = await client.hears(receipt["id"], "connection", 4)
        assert states == ["connecting", "live", "reconnecting", "live"]
        offset = await client.page.evaluate("(id) => watches[id].now() - right()", receipt["id"])
        assert abs(offset) < 5_000
    await wait_until(lambda: len(leading(tabs)) == 1)


async def test_error_reaches_its_tab(tab: Open, stack: Stack) -> None:
    """A token that opens nothing is told to the tab that has it, and to no other."""
    good, bad = [await stack.submit(delay_s=3600) for _ in range(2)]
    leader, follower = await tab(good), await tab(good)
    head, _, _ = bad["token"].rpartition(".")
    await follower.watch("bad", f"{head}.{'A' * 86}")
    (error,) = await follower.hears("bad", "error")
    assert error["code"] == "invalid_token"
    assert await leader.told(good["id"], "error") == await follower.told(good["id"], "error") == []


async def test_tab_without_locks_connects_by_itself(tab: Open, stack: Stack, report: Report) -> None:
    """Where the browser cannot share, as on plain http, a tab has a connection of its own."""
    receipt = await stack.submit(delay_s=3600)
    tabs = [await tab(receipt, script=NO_LOCKS) for _ in range(2)]
    await report(receipt)
    for client in tabs:
        await client.sees(receipt["id"], "running")
    assert leading(tabs) == tabs


async def test_leader_that_leaves_comes_back(tab: Open, stack: Stack, report: Report) -> None:
    """A leading tab that goes elsewhere gives the connection up, and is shown the newest when it comes back."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await tab(receipt), await tab(receipt)
    await leader.page.goto("about:blank")
    await wait_until(lambda: leading([follower]))  # of the other nothing is heard any more
    await report(receipt)
    await follower.sees(receipt["id"], "running")
    await leader.page.go_back()
    if not await leader.page.evaluate("Boolean(window.watches)"):
        await watch(leader, receipt)  # the browser has not kept the page
    await leader.sees(receipt["id"], "running")
    await connections(stack, 1)


async def test_frozen_leader_hands_over(tab: Open, stack: Stack, report: Report) -> None:
    """A leading tab that the browser freezes gives the connection up first, and follows when it wakes."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await tab(receipt), await tab(receipt)
    await leader.page.evaluate("document.dispatchEvent(new Event('freeze'))")
    await wait_until(lambda: leading([leader, follower]) == [follower])
    await report(receipt)
    await follower.sees(receipt["id"], "running")
    assert [job["status"] for job in await leader.told(receipt["id"], "job")] == ["queued"]
    await leader.page.evaluate("document.dispatchEvent(new Event('resume'))")
    await leader.sees(receipt["id"], "running")
    assert leading([leader, follower]) == [follower]


async def test_silent_leader_is_replaced(tab: Open, stack: Stack, report: Report) -> None:
    """A leading tab that hangs is replaced within seconds by one that asks it in vain, and follows when it wakes."""
    receipt = await stack.submit(delay_s=3600)
    leader = await tab(receipt)
    await leader.page.evaluate(MUTE)
    follower = await tab(receipt)
    assert len(leading([follower])) == 1
    await leader.page.evaluate(UNMUTE)
    await wait_until(lambda: leading([leader, follower]) == [follower])
    await report(receipt)
    for client in (leader, follower):
        await client.sees(receipt["id"], "running")


async def test_hanging_leader_is_noticed(tab: Open, stack: Stack, report: Report) -> None:
    """A tab that has followed for long notices when the leading one hangs."""
    receipt = await stack.submit(delay_s=3600)
    leader, follower = await tab(receipt), await tab()
    await follower.page.clock.install()
    await watch(follower, receipt)
    await leader.page.evaluate(MUTE)
    await follower.page.clock.fast_forward(20_000)  # it asks
    await follower.page.clock.fast_forward(3_000)  # and has no answer
    await wait_until(lambda: leading([leader, follower]) == [follower])
    await report(receipt)
    await follower.sees(receipt["id"], "running")
