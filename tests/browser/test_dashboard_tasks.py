"""What operators come for: each task by mouse and by keyboard alone, in at most three actions from the first view."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.dashboard import WAITING, Dashboard, open_dashboard
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

MAX_ACTIONS = 3
MAX_TABS = 60
REASON = "InvalidRow: customers.csv, row 211"
OUTAGE = 3  # jobs


class Operator:
    """An operator with a mouse, or with a keyboard alone, who counts the actions of a task."""

    def __init__(self, page: Page, dashboard: Dashboard, *, has_mouse: bool) -> None:
        self.page = page
        self._dashboard = dashboard
        self.name = "mouse" if has_mouse else "keyboard"
        self._has_mouse = has_mouse
        self._actions = 0

    async def begin(self) -> None:
        """Open the first view."""
        self._actions = 0
        await open_dashboard(self.page, self._dashboard)

    async def press(self, control: Locator) -> None:
        """Use a link or a button: click it, or reach it with the Tab key and press Enter."""
        self._count()
        await expect(control).to_be_visible()
        if self._has_mouse:
            return await control.click()
        for _ in range(MAX_TABS):
            if await control.evaluate("(element) => element === document.activeElement"):
                return await self.page.keyboard.press("Enter")
            await self.page.keyboard.press("Tab")
        raise AssertionError("the Tab key does not lead there")

    async def find(self, text: str, option: str) -> None:
        """Open the search, type a text, and choose what it finds; with a mouse, these are three actions."""
        self._count(3 if self._has_mouse else 1)
        if self._has_mouse:
            await self.page.get_by_role("button", name="Find").click()
        else:
            await self.page.keyboard.press("Control+k")
        await expect(self.page.get_by_role("combobox", name="Find")).to_be_focused()
        await self.page.keyboard.type(text)
        found = self.page.get_by_role("option", name=option)
        await expect(found).to_be_visible()
        if self._has_mouse:
            return await found.click()
        for _ in range(MAX_TABS):
            if await found.get_attribute("aria-selected") == "true":
                return await self.page.keyboard.press("Enter")
            await self.page.keyboard.press("ArrowDown")
        raise AssertionError("the arrow keys do not lead there")

    async def confirm(self) -> None:
        """Press the button of a question."""
        await self.press(self.page.get_by_role("dialog").get_by_role("button", name="Run again"))

    def _count(self, actions: int = 1) -> None:
        self._actions += actions
        assert self._actions <= MAX_ACTIONS


@pytest.fixture(params=["mouse", "keyboard"])
async def operator(request: pytest.FixtureRequest, page: Page, dashboard: Dashboard) -> Operator:
    """Return an operator before the first view."""
    return Operator(page, dashboard, has_mouse=request.param == "mouse")


async def test_what_failed_and_why_and_run_it_again(operator: Operator, dashboard: Dashboard) -> None:
    """The list of failures says why a job has failed, and its page has the traceback and runs it again."""
    name = f"Letter by {operator.name}"
    receipt = await dashboard.submit(name, "outage")
    await dashboard.wait_for(name, "failed")
    page = operator.page
    await operator.begin()
    await operator.press(page.get_by_role("link", name=re.compile("^Failed")))
    await expect(page.get_by_text(REASON).first).to_be_visible()
    await operator.press(page.get_by_role("link", name=name))
    await expect(page.get_by_text("Traceback (most recent call last)")).to_be_visible()
    await operator.press(page.get_by_role("button", name="Run again", exact=True))
    await expect(page.locator(".notice")).to_contain_text("again")
    assert (await dashboard.live(f"/live/jobs/{receipt['id']}"))["generation"] == 1


async def test_run_all_of_them_again(operator: Operator, dashboard: Dashboard) -> None:
    """Failures are grouped by their cause, and those of one cause run again at once."""
    names = [f"Letter {number} by {operator.name}" for number in range(OUTAGE)]
    for name in names:
        await dashboard.submit(name, "outage")
    for name in names:
        await dashboard.wait_for(name, "failed")
    page = operator.page
    await operator.begin()
    await operator.press(page.get_by_role("link", name="Group failures"))
    await operator.press(page.get_by_role("button", name=re.compile("ConnectionError in outage")))
    await operator.confirm()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Redrive jobs")
    for name in names:

        async def has_run_again(name: str = name) -> bool:
            return bool((await dashboard.wait_for(name, "failed"))["generation"])

        await wait_until(has_run_again)


async def test_where_is_the_export_and_what_waits(operator: Operator, dashboard: Dashboard) -> None:
    """The search finds the job of a customer; the tab of what waits says since when."""
    page = operator.page
    await operator.begin()
    await operator.find("customer 7 export", "Export orders 2026")
    await expect(page.get_by_role("heading", name="Export orders 2026")).to_be_visible()
    await operator.begin()
    await expect(page.locator(".facts")).to_contain_text("oldest")
    await operator.press(page.get_by_role("link", name=re.compile("^Waiting")))
    await expect(page.get_by_role("row").filter(has_text=WAITING)).to_contain_text(re.compile(r"\d+ (s|min)"))


async def test_follow_the_log_of_a_running_job(operator: Operator) -> None:
    """A running job is two steps away, and its log is on its page."""
    page = operator.page
    await operator.begin()
    await operator.press(page.get_by_role("link", name=re.compile("^Running")))
    await operator.press(page.get_by_role("link", name="Crawl autumn catalogue"))
    await expect(page.get_by_text("https://example.org/page-312")).to_be_visible()


async def test_start_a_kind_by_its_form(operator: Operator) -> None:
    """The form of a kind is two steps away, and starts a job whose page opens."""
    page = operator.page
    await operator.begin()
    await operator.press(page.get_by_role("link", name=re.compile("^Kinds")))
    await operator.press(page.get_by_role("link", name="Run report"))
    await expect(page.get_by_label("title")).to_be_focused()
    await page.keyboard.type("October")
    await operator.press(page.get_by_role("button", name="Run", exact=True))
    await expect(page.get_by_role("heading", level=1)).to_contain_text("report")
    await expect(page.locator("main .status").first).to_contain_text("Succeeded")
