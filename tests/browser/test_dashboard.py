"""The frame of the dashboard: what the page loads, the search, and the keys."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.conftest import PageErrors
from tests.browser.dashboard import SHOWN_HOSTILE_NAME, Dashboard, check_looks, inspect, open_dashboard

pytestmark = pytest.mark.browser

# Return the scripts and styles that the HTML names, and those that the page has loaded.
LOADED = """() => {
  const named = [...document.querySelectorAll("script, [rel=modulepreload], [rel=stylesheet]")];
  const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
  return [named.map(({ src, href }) => src || href), loaded.filter((name) => /[.](js|css)$/.test(name))];
}"""


async def test_first_view_is_one_round_trip_beyond_the_html(page: Page, dashboard: Dashboard) -> None:
    """The HTML names all scripts and styles of the first view; nothing is loaded from elsewhere, and nothing fails."""
    errors, urls = PageErrors(page), list[str]()
    page.on("request", lambda request: urls.append(request.url))
    response = await page.goto(dashboard.url())
    await expect(page.locator("main a[href^='/dashboard/jobs/']").first).to_be_visible()
    named, loaded = await page.evaluate(LOADED)
    assert sorted(set(loaded)) == sorted(named)
    own = (dashboard.stack.url, dashboard.stack.env["LIVE_URL"])
    assert [url for url in urls if not url.startswith(own)] == []
    assert errors.messages == []
    assert response is not None
    policy = (await response.all_headers())["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy


async def test_search_finds_and_opens_by_keyboard(page: Page, dashboard: Dashboard) -> None:
    """Ctrl K opens the search from anywhere; words find a job of an owner, and Enter opens it."""
    await open_dashboard(page, dashboard, dashboard.job_path("Import customers.csv"))
    loaded = asyncio.Event()

    async def delay(route: Route) -> None:
        await loaded.wait()
        await route.continue_()

    await page.route("**/live/jobs?limit=200", delay)
    await page.keyboard.press("Control+k")
    field = page.get_by_role("combobox", name="Find")
    await expect(field).to_be_focused()
    await expect(page.get_by_role("option", name="Poison queue")).to_be_visible()
    assert await inspect(page) == []
    await field.fill("customer:7")
    await expect(page.get_by_role("option", name=re.compile("jobs with this owner"))).to_be_visible()
    loaded.set()  # what is found later comes first, and is what Enter chooses
    await expect(page.get_by_role("option", name=re.compile("^Export orders 2026"))).to_be_visible()
    await expect(page.get_by_role("option").first).to_have_attribute("aria-selected", "true")
    await field.fill("customer 7 export")
    option = page.get_by_role("option", name=re.compile("^Export orders 2026"))
    await expect(option).to_have_attribute("aria-selected", "true")
    await expect(field).to_have_attribute("aria-activedescendant", str(await option.get_attribute("id")))
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(dashboard.url(dashboard.job_path("Export orders 2026")))
    await expect(page.locator("main h1")).to_be_focused()


async def test_what_is_typed_while_the_search_loads_is_in_its_field(page: Page, dashboard: Dashboard) -> None:
    """On a slow network no key is lost, none acts on the page, and none lands in a field that had the focus."""
    await open_dashboard(page, dashboard, "/kinds/export")
    payload = page.get_by_label("Payload as JSON")
    await expect(payload).to_be_focused()
    requested, answered = asyncio.Event(), asyncio.Event()

    async def delay(route: Route) -> None:
        requested.set()
        await answered.wait()
        await route.continue_()

    await page.route("**/assets/palette.js", delay)
    await page.keyboard.press("Control+k")
    await requested.wait()
    await page.keyboard.type("sync k?")
    await page.keyboard.press("Backspace")
    answered.set()
    await expect(page.get_by_role("combobox", name="Find")).to_have_value("sync k")
    await page.keyboard.type("e")
    await expect(page.get_by_role("combobox", name="Find")).to_have_value("sync ke")
    await page.keyboard.press("Escape")
    await expect(payload).to_be_focused()
    await expect(payload).to_have_value("{}")


async def test_search_by_id_kind_and_tag(page: Page, dashboard: Dashboard) -> None:
    """The beginning of an id, a kind, a tag and an owner are found; a whole id always; a name is never markup."""
    await open_dashboard(page, dashboard, dashboard.job_path("Import customers.csv"))
    await page.get_by_role("button", name="Find").click()
    field, job_id = page.get_by_role("combobox"), dashboard.jobs["Sync ledger"]
    for text, option in {
        job_id[:9]: re.compile("^Sync ledger"),
        "repor": re.compile(r"^report ?its numbers, and Run"),
        "run report": re.compile(r"^report ?its numbers, and Run"),
        "hostile": re.compile("^hostile ?jobs with this tag"),
        "customer:7": re.compile("^customer:7 ?jobs with this owner"),
        "d4c0ffee-0000-4000-8000-000000000001": re.compile("^Open this job"),
        "onerror": re.compile("^<img src=x"),
    }.items():
        await field.fill(text)
        await expect(page.get_by_role("option", name=option).first).to_be_visible()
    await check_looks(page)
    await expect(page.locator(".palette bdi").get_by_text(SHOWN_HOSTILE_NAME.strip())).to_be_visible()
    await field.fill("no such thing")
    await expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text("Nothing is found")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Find")).to_be_focused()


async def test_keys_are_listed_and_can_be_turned_off(page: Page, dashboard: Dashboard) -> None:
    """`?` lists the keys. Those without Ctrl can be turned off, and do nothing while a text is typed."""
    await open_dashboard(page, dashboard, dashboard.job_path("Import customers.csv"))
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    await page.keyboard.press("?")
    await expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    await expect(dialog).to_contain_text("Find a job, a kind or a tag")
    assert await inspect(page) == []
    await dialog.get_by_role("checkbox", name="Shortcuts of a single key").uncheck()
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await page.keyboard.press("?")
    await page.get_by_role("button", name="Shortcuts").click()
    await dialog.get_by_role("checkbox", name="Shortcuts of a single key").check()
    await page.keyboard.press("Control+k")
    await expect(page.get_by_role("combobox")).to_have_count(0)  # a dialog is open
    await page.keyboard.press("Escape")
    await page.keyboard.press("Control+k")
    await expect(page.get_by_role("combobox")).to_be_focused()
    await page.keyboard.press("?")
    await expect(page.get_by_role("combobox")).to_have_value("?")
    await expect(dialog).to_have_count(0)


async def test_frame_counts_what_there_is(page: Page, dashboard: Dashboard) -> None:
    """The links to the views have counts, and the page says what waits, since when, and how busy the workers are."""
    await open_dashboard(page, dashboard, dashboard.job_path("Import customers.csv"))
    nav = page.get_by_role("navigation", name="Dashboard")
    kinds = (await dashboard.live("/live/kinds"))["kinds"]
    await expect(nav.get_by_role("link", name=f"Kinds {len(kinds)}")).to_be_visible()
    await expect(nav.get_by_role("link", name="Workers 1")).to_be_visible()
    await expect(page.locator(".facts")).to_contain_text("of 16 slots busy")
    await expect(page.locator(".facts")).to_contain_text(re.compile(r"\d waiting, \d to retry · oldest \d+ (s|min)"))


async def test_order_for_screen_readers(page: Page, dashboard: Dashboard) -> None:
    """A link to the content comes first, then the search, the views and the state, and then the view."""
    await open_dashboard(page, dashboard)
    await expect(page.locator(".facts")).to_contain_text("waiting")
    tree = await page.locator("body").aria_snapshot()
    frame = ("- banner:", "Skip to the content", "Headway", 'button "Find"', 'navigation "Dashboard"', "status: Live")
    view = ("waiting", "- main:", 'heading "Jobs" [level=1]', 'link "All', "table")
    places = [tree.index(part) for part in (*frame, *view)]
    assert places == sorted(places)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
