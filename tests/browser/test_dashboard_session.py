"""The session of the dashboard: keys, roles, tokens that are renewed or refused, tabs, and services that are away."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from headway.contracts import Timestamp
from tests.browser.dashboard import check_looks, inspect
from tests.browser.dashboard_site import DashboardSite, run_dashboard_site
from tests.waiting import free_ports, wait_until

pytestmark = pytest.mark.browser

# Open a session, and ask for another token several times at once, because the server has refused the one that all have.
RENEW_AT_ONCE = """async () => {
  const { Session } = await import("/assets/session.js");
  const session = new Session(() => {});
  await session.resume();
  const refused = session.token;
  const tokens = await Promise.all([1, 2, 3].map(() => session.current(refused)));
  const next = await session.current(tokens[0]); // is refused, too
  return [new Set(tokens).size, tokens.includes(refused), next === tokens[0]];
}"""


@pytest.fixture(scope="module")
async def running_dashboard_site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DashboardSite]:
    """Run the dashboard with API keys."""
    async with run_dashboard_site(tmp_path_factory.mktemp("keys"), free_ports(1)[0]) as site:
        yield site


@pytest.fixture
def keyed(running_dashboard_site: DashboardSite) -> DashboardSite:
    """Return the site, which answers."""
    running_dashboard_site.reset()
    return running_dashboard_site


async def sign_in(page: Page, key: str = "ops") -> None:
    """Type a key into the form and send it."""
    await page.get_by_label("API key").fill(key)
    await page.keyboard.press("Enter")


async def open_signed_in(page: Page, site: DashboardSite, path: str = "", key: str = "ops") -> None:
    """Open the dashboard and sign in."""
    await page.goto(f"{site.url}{path}")
    await sign_in(page, key)
    await expect(page.locator(".live")).to_have_text("Live")


async def token_of(page: Page) -> str:
    """Return the token of the tab."""
    token: str = await page.evaluate("JSON.parse(sessionStorage.getItem('headway-dashboard')).token")
    return token


async def test_sign_in_exchanges_the_key_for_a_token(page: Page, keyed: DashboardSite) -> None:
    """A wrong key is refused in words; the key is in no storage, and the token neither in the URL nor in the page."""
    await page.goto(f"{keyed.url}?status=failed")
    await expect(page.get_by_label("API key")).to_be_focused()
    await expect(page.get_by_label("API key")).to_have_attribute(
        "autocomplete", "off"
    )  # browsers would offer to keep it
    for key in ("key with … 🔑", "wrong"):
        await sign_in(page, key)
        await expect(page.locator("#key-problem")).to_have_text(re.compile("^This API key is not known"))
    await expect(page.get_by_label("API key")).to_be_focused()
    await check_looks(page)
    await sign_in(page)
    await expect(page.locator(".account")).to_contain_text("alice")
    assert page.url == f"{keyed.url}?status=failed"
    storage = await page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])")
    assert '"ops"' not in storage
    assert await token_of(page) not in await page.content()
    await page.reload()
    await expect(page.locator(".account")).to_contain_text("alice")


async def test_key_without_the_role_reads_only(page: Page, keyed: DashboardSite) -> None:
    """Another key shows the dashboard, which says once that it is read-only, and asks for nothing that is refused."""
    await page.clock.install()
    await page.goto(keyed.url)
    await expect(page.get_by_label("API key")).to_be_focused()
    await page.clock.pause_at(Timestamp.now() / 1000 + 60)
    await sign_in(page, "app")
    await expect(page.locator(".account")).to_contain_text("(read-only)")
    await expect(page.locator(".notice")).to_contain_text("does not have the role operate")
    await page.clock.run_for(1)
    await expect(page.get_by_role("link", name="Retrying")).to_have_text("Retrying 3")
    await wait_until(lambda: "/live/kinds" in keyed.requests)
    assert keyed.requests.count("/live/kinds") == 1  # for the frame and the list together
    assert {"/live/workers", "/poison"}.isdisjoint(keyed.requests)


async def test_expired_session_keeps_the_page(page: Page, keyed: DashboardSite) -> None:
    """When the key of a session is gone, the page stays and says why; with another key it goes on at the same URL."""
    await page.clock.install()
    await open_signed_in(page, keyed, "/kinds?range=7d")
    keyed.write_keys("new operate\n")
    keyed.refused.add(await token_of(page))
    await page.clock.fast_forward(6000)  # until the next poll
    await expect(page.get_by_role("dialog")).to_contain_text("does not exist any more")
    await expect(page.get_by_label("API key")).to_be_focused()
    await expect(page.locator(".rail nav")).to_be_visible()
    await page.keyboard.press("Escape")
    assert await inspect(page) == []
    await sign_in(page, "new")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page.locator(".live")).to_have_text("Live")
    assert page.url == f"{keyed.url}/kinds?range=7d"


async def test_refused_token_is_renewed_once(page: Page, keyed: DashboardSite) -> None:
    """Requests that are refused at once share one renewal, and a new token that is refused is not renewed at once."""
    await open_signed_in(page, keyed)
    before = keyed.requests.count("/tokens")
    assert await page.evaluate(RENEW_AT_ONCE) == [1, False, True]
    assert keyed.requests.count("/tokens") == before + 1


async def test_token_is_renewed_before_it_expires(page: Page, keyed: DashboardSite) -> None:
    """After half of its lifetime the token is renewed; a computer that slept for less than that does the same."""
    await page.clock.install()
    await open_signed_in(page, keyed)
    token = await token_of(page)
    await page.clock.fast_forward("31:00")

    async def is_renewed() -> bool:
        return await token_of(page) != token

    await wait_until(is_renewed)
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_tabs_share_the_session(page: Page, context: BrowserContext, keyed: DashboardSite) -> None:
    """A new tab asks for no key, and signing out ends the session in all tabs."""
    await open_signed_in(page, keyed)
    other = await context.new_page()
    await other.goto(keyed.url)
    await expect(other.locator(".account")).to_contain_text("alice")
    await other.get_by_role("button", name="Sign out").click()
    for tab in (other, page):
        await expect(tab.get_by_role("heading", name="Sign in")).to_be_visible()
        assert json.loads(await tab.evaluate("JSON.stringify({...sessionStorage})")).get("headway-dashboard") is None


async def test_sign_out_ends_the_session_of_a_page_that_was_left(
    page: Page, context: BrowserContext, keyed: DashboardSite
) -> None:
    """The browser restores that page, or keeps it; neither it nor a tab that is signed out goes on with the session."""
    await open_signed_in(page, keyed)
    other = await context.new_page()
    await other.goto(keyed.url)
    await expect(other.locator(".account")).to_contain_text("alice")
    await page.goto("about:blank")
    await other.get_by_role("button", name="Sign out").click()
    await page.go_back()
    for tab in (page, other):
        await expect(tab.get_by_role("heading", name="Sign in")).to_be_visible()
    await sign_in(page)
    await expect(other.locator(".account")).to_contain_text("alice")
    await page.reload()
    await expect(page.locator(".account")).to_contain_text("alice")
    await page.evaluate("localStorage.setItem('headway-dashboard', Date.now())")
    await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def read_again(page: Page, site: DashboardSite) -> None:
    """Advance the clock until the list is read again."""
    count = site.requests.count("/live/jobs")
    await page.clock.run_for(5_000)
    await wait_until(lambda: site.requests.count("/live/jobs") > count)


async def test_token_without_a_time_is_not_renewed_at_once(page: Page, keyed: DashboardSite) -> None:
    """Its lifetime is the one that was requested."""
    requests = 0

    async def issue(route: Route) -> None:
        nonlocal requests
        requests += 1
        if requests < 10:
            await route.fulfill(json={"token": "e30.eyJmaWx0ZXIiOnt9LCJzY29wZSI6Imxpc3QgZGV0YWlscyJ9.x"})

    await page.route("**/tokens", issue)
    await page.clock.install()
    await page.goto(keyed.url)
    await expect(page.locator(".live")).to_have_text("Live")
    for _ in range(4):
        await read_again(page, keyed)
    assert requests == 1


async def test_says_what_is_away_and_what_is_missing(page: Page, keyed: DashboardSite) -> None:
    """The frame shows how much waits, that jobs may be missing, and since when the notifier was not heard, and why."""
    await page.clock.install()
    keyed.answer["complete"] = False
    await open_signed_in(page, keyed)
    await expect(page.locator(".facts")).to_contain_text("1,000,000 waiting")
    await expect(page.locator(".facts")).to_contain_text("Jobs may be missing")
    keyed.redis_is_up = False
    await page.clock.fast_forward(20_000)
    await expect(page.locator(".live")).to_have_text(re.compile(r"^Last heard [2-5]\d s ago$"))
    await expect(page.get_by_role("status").filter(has_text="The notifier cannot read Redis")).to_have_count(1)
    assert await inspect(page) == []
    await page.context.set_offline(True)
    await expect(page.get_by_role("status").filter(has_text="This browser is offline")).to_have_count(1)
    keyed.redis_is_up = True
    await page.context.set_offline(False)
    await expect(page.locator(".live")).to_have_text("Live")


async def test_missing_connection_is_said_once(page: Page, keyed: DashboardSite) -> None:
    """The frame says that nothing was heard, and the reason in one place."""
    keyed.redis_is_up = False
    await page.goto(keyed.url)
    await sign_in(page)
    await expect(page.locator(".state > p").filter(has_text="The notifier cannot read Redis")).to_have_count(1)
    await expect(page.locator(".live")).to_have_text("Not connected")


async def test_server_that_is_away_at_the_start(page: Page, keyed: DashboardSite) -> None:
    """If no token can be requested, the page says so, and opens with its button."""
    await page.route("**/tokens", lambda route: route.abort())
    await page.goto(keyed.url)
    await expect(page.get_by_role("heading", name="The dashboard could not be opened")).to_be_visible()
    await expect(page.locator("main")).to_contain_text("The server cannot be reached")
    assert await inspect(page) == []
    await page.unroute("**/tokens")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_label("API key")).to_be_focused()
