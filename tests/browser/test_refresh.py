"""Data that is read every few seconds, once for all parts of a page that show it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Page

from headway.contracts import Timestamp
from tests.browser.live_site import LiveSite

pytestmark = pytest.mark.browser

# `requests` has the function that answers each request; `shown` what the rare and the frequent subscriber have shown.
START = """async () => {
  const { Refresh } = await import("/assets/refresh.js");
  Object.assign(globalThis, { requests: [], shown: [[], []] });
  globalThis.refresh = new Refresh(() => new Promise((...answer) => requests.push(answer)));
  refresh.subscribe((data, error) => shown[0].push(error?.message ?? data), 30_000);
  globalThis.leave = refresh.subscribe((data) => shown[1].push(data));
}"""

# Return how often an operator's changes were reported after requests to the notifier and to the submitter.
COUNT_ACTIONS = """async () => {
  const { Api } = await import("/assets/api.js");
  const api = new Api({ tokens: () => async () => "token" });
  let count = 0;
  api.onAction = () => count++;
  const counts = [];
  for (const options of [{}, { method: "POST" }]) {
    await api.live("/live/jobs", {}, options);
    await api.submitter("/poison", options);
    counts.push(count);
  }
  return counts;
}"""


class Refreshed:
    """A page with a `Refresh`, whose time only passes when a test lets it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def requests_after(self, duration_ms: int) -> int:
        """Return how many requests there have been after some more time."""
        await self.page.clock.run_for(duration_ms)
        count: int = await self.page.evaluate("requests.length")
        return count

    async def answer(self, number: int, data: str) -> list[list[str]]:
        """Answer a request, and return what has been shown."""
        shown: list[list[str]] = await self.page.evaluate(
            "async ([number, data]) => [requests[number][0](data), await null, await null, await null, shown].at(-1)",
            [number, data],
        )
        return shown

    async def run(self, script: str) -> Any:
        """Run a script."""
        return await self.page.evaluate(f"() => {{ {script} }}")


@pytest.fixture
async def refreshed(page: Page, site: LiveSite) -> Refreshed:
    """Return a page whose data are read."""
    site.page = "<!doctype html><title>Refresh</title><main></main>"
    await page.clock.install()
    await page.goto(f"{site.origin}/embedding")
    await page.clock.pause_at(Timestamp.now() / 1000 + 60)
    await page.evaluate(START)
    return Refreshed(page)


async def test_data_is_read_once_for_all_that_show_it(refreshed: Refreshed) -> None:
    """As often as one of them needs it; what is known is shown at once, and an answer to an earlier request never."""
    assert await refreshed.requests_after(1) == 1
    assert await refreshed.answer(0, "a") == [["a"], ["a"]]
    assert await refreshed.requests_after(4_999) == 1
    assert await refreshed.requests_after(1) == 2
    await refreshed.run("refresh.after(1000)")  # while a request is on its way
    assert await refreshed.answer(1, "before the action") == [["a"], ["a"]]
    assert await refreshed.requests_after(1_000) == 3
    assert await refreshed.answer(2, "b") == [["a", "b"], ["a", "b"]]
    await refreshed.run("leave(); leave = refresh.subscribe((data) => shown[1].push(data + ' again'))")
    assert await refreshed.requests_after(1) == 3
    assert await refreshed.run("return shown[1].at(-1)") == "b again"
    await refreshed.run("leave()")
    assert await refreshed.requests_after(5_000) == 4
    await refreshed.run("requests[3][1](new Error('away'))")
    assert await refreshed.requests_after(5_000) == 5  # sooner, to know when it works again
    assert await refreshed.answer(4, "c") == [["a", "b", "away", "c"], ["a", "b", "b again"]]
    assert await refreshed.requests_after(29_999) == 5
    assert await refreshed.requests_after(1) == 6


async def test_nothing_is_read_while_the_page_is_hidden(refreshed: Refreshed) -> None:
    """The data is read at once when the page is visible again, or when the browser is online again."""
    hide = "Object.defineProperty(document, 'hidden', { value: true, configurable: true }); "
    change = "document.dispatchEvent(new Event('visibilitychange'));"
    await refreshed.run(hide + change)
    assert await refreshed.requests_after(60_000) == 0
    await refreshed.run(f"delete document.hidden; {change}")
    assert await refreshed.requests_after(0) == 1
    await refreshed.run(hide + change)
    assert await refreshed.answer(0, "a") == [["a"], ["a"]]
    assert await refreshed.requests_after(60_000) == 1
    await refreshed.run(f"delete document.hidden; {change}")
    await refreshed.run("dispatchEvent(new Event('online'))")
    assert await refreshed.requests_after(0) == 3
    assert await refreshed.answer(1, "before it was online") == [["a"], ["a"]]
    assert await refreshed.answer(2, "b") == [["a", "b"], ["a", "b"]]


async def test_data_that_cannot_be_shown_is_read_again(refreshed: Refreshed) -> None:
    """After an error of one view, others show the data, and it may show the next one."""
    throw = "refresh.subscribe(() => { throw new Error('The data is odd.'); });"
    await refreshed.run(f"addEventListener('error', (event) => event.preventDefault()); leave(); {throw}")
    await refreshed.run("leave = refresh.subscribe((data) => shown[1].push(data))")
    assert await refreshed.requests_after(1) == 1
    assert await refreshed.answer(0, "a") == [["a"], ["a"]]
    assert await refreshed.requests_after(5_000) == 2


async def test_changes_of_an_operator_are_reported(page: Page, site: LiveSite) -> None:
    """Counts are outdated after a change by either service, such as a cancellation, and not after a read."""
    site.page = "<!doctype html><title>Actions</title>"
    await page.route(re.compile("/live/jobs$|/poison$"), lambda route: route.fulfill(json={}))
    await page.goto(f"{site.origin}/embedding")
    assert await page.evaluate(COUNT_ACTIONS) == [0, 2]
