"""What operators come to the dashboard for: each task in at most three actions from the first view.

An action is a click, a key that does something, or a form that is filled and sent.
"""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, ViewportSize, expect

from tests.browser.dashboard import WAITING, Dashboard, inspect, open_dashboard

pytestmark = pytest.mark.browser

MAX_ACTIONS = 3
MAX_TABS = 250  # to a control of a page, by keyboard
ZOOMED = ViewportSize(width=640, height=400)  # a window of 1280 by 800 pixels at 200 %
HAS_FOCUS = "control => control === document.activeElement"
# Return what hides the control that has the focus, or a part of it, None if it is visible.
OBSCURED = """() => {
  const { activeElement: control } = document;
  const { left, right, top, bottom } = control.getBoundingClientRect();
  const within = left >= 0 && right <= innerWidth && bottom > 0 && top < innerHeight;
  const middle = [(left + right) / 2, (Math.max(top, 0) + Math.min(bottom, innerHeight)) / 2];
  const shown = document.elementFromPoint(...middle);
  if (within && (control.contains(shown) || shown?.contains(control))) return null;
  return `${control.outerHTML} is behind ${shown?.outerHTML.slice(0, 200)}`;
}"""


class Operator(ABC):
    """A person before the first view. Each action is counted, and none loses the focus."""

    def __init__(self, page: Page, dashboard: Dashboard) -> None:
        self.page = page
        self.dashboard = dashboard
        self._actions = 0

    async def open(self) -> None:
        """Open the first view."""
        await open_dashboard(self.page, self.dashboard)
        await expect(self.page.locator("[data-id]").first).to_be_visible()

    def _act(self) -> None:
        self._actions += 1
        assert self._actions <= MAX_ACTIONS

    async def choose(self, control: Locator) -> None:
        """Use a link or a button."""
        self._act()
        await self._use(control)

    async def choose_tab(self, name: str) -> None:
        """Show the jobs of a status."""
        await self.choose(self.page.get_by_label("Status").get_by_role("link", name=name))
        await expect(self.page.get_by_role("table", name="Jobs")).not_to_have_attribute("aria-busy", "true")
        await self.see(self.page.locator("[data-id]").first)

    async def open_job(self, name: str) -> None:
        """Open a job of the list."""
        await self.choose(self.page.get_by_role("link", name=name, exact=True))
        await self.see(self.page.get_by_role("heading", level=1, name=name))

    @abstractmethod
    async def find(self, text: str) -> None:
        """Open the first result of the search."""

    async def send(self, field: Locator, text: str, button: Locator) -> None:
        """Fill the first field of a form, which has the focus, and send the form."""
        await expect(field).to_be_focused()
        self._act()
        await self.page.keyboard.type(text)
        await self._use(button)

    @abstractmethod
    async def scroll_down(self) -> None:
        """Scroll to the end of the page."""

    async def see(self, outcome: Locator) -> None:
        """Wait for the outcome of an action; something has the focus then."""
        await expect(outcome).to_be_visible()
        await expect(self.page.locator(":focus")).to_be_attached()

    @abstractmethod
    async def _use(self, control: Locator) -> None:
        """Press a button or follow a link."""


class WithMouse(Operator):
    """An operator who clicks."""

    async def find(self, text: str) -> None:
        await self.choose(self.page.get_by_role("button", name="Find"))
        await self.see(self.page.get_by_role("combobox"))
        await self.page.keyboard.type(text)
        await self.choose(self.page.get_by_role("option").first)

    async def see(self, outcome: Locator) -> None:
        await super().see(outcome)
        assert await inspect(self.page) == []

    async def scroll_down(self) -> None:
        self._act()
        await self.page.mouse.move(400, 400)  # above the card with the progress
        await self.page.mouse.wheel(0, 3000)

    async def _use(self, control: Locator) -> None:
        await control.click()


class WithKeyboard(Operator):
    """An operator who has no mouse."""

    async def find(self, text: str) -> None:
        self._act()
        await self.page.keyboard.press("Control+k")
        await self.see(self.page.get_by_role("combobox"))
        self._act()
        await self.page.keyboard.type(text)
        await expect(self.page.get_by_role("group", name="Jobs")).to_be_visible()
        await self.page.keyboard.press("Enter")

    async def scroll_down(self) -> None:
        self._act()
        await self.page.keyboard.press("End")

    async def _use(self, control: Locator) -> None:
        await expect(control).to_be_visible()
        for _ in range(MAX_TABS):
            if await control.evaluate(HAS_FOCUS):
                return await self.page.keyboard.press("Enter")
            await self.page.keyboard.press("Tab")
        pytest.fail(f"not reached by Tab: {control}")


@pytest.fixture(params=[WithMouse, WithKeyboard])
async def operator(request: pytest.FixtureRequest, page: Page, dashboard: Dashboard) -> Operator:
    """Return an operator before the first view is opened."""
    operator: Operator = request.param(page, dashboard)
    return operator


@pytest.fixture
async def failed(dashboard: Dashboard) -> str:
    """Submit a job that fails; return its name."""
    name = f"Letter {uuid.uuid4().hex[:8]}"
    await dashboard.submit(name, "outage")
    await dashboard.wait_for(name, "failed")
    return name


@pytest.fixture
async def crawl(dashboard: Dashboard, tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """Run a job until the file that is returned with its name exists."""
    name, end = f"Crawl {uuid.uuid4().hex[:8]}", tmp_path / "end"
    await dashboard.submit(name, "crawl", {"pages": 200, "until": str(end)})
    await dashboard.wait_for(name, "running")
    yield name, end
    end.touch()
    await dashboard.wait_for(name, "succeeded")


async def wait_for_second_run(dashboard: Dashboard, name: str) -> None:
    """Wait until a job was run again, and has failed again."""
    snapshot = await dashboard.wait_for(name, "failed", generation=1)
    assert snapshot["attempt"] == 1


async def test_what_failed_and_why_and_run_it_again(operator: Operator, failed: str) -> None:
    """The failed jobs of the last day have their true errors in the list; a job has the traceback, and runs again."""
    await operator.open()
    await operator.choose_tab("Failed")
    page = operator.page
    await expect(page.get_by_role("button", name="Last 24 hours")).to_be_visible()
    await expect(page.locator("figcaption")).to_contain_text("failed, most of them at")
    row = page.get_by_role("row", name=failed)
    await expect(row).to_contain_text("ConnectionError: The mail server does not answer")
    await operator.open_job(failed)
    await expect(page.get_by_role("group", name="Traceback")).to_contain_text("raise ConnectionError(")
    await operator.choose(page.get_by_role("button", name="Run again", exact=True))
    await operator.see(page.locator(".notice").filter(has_text="runs again"))
    await wait_for_second_run(operator.dashboard, failed)


async def test_run_all_again(operator: Operator, failed: str) -> None:
    """All jobs that failed for the same cause run again."""
    await operator.open()
    page = operator.page
    await operator.choose(page.get_by_role("link", name="Group failures"))
    await operator.see(page.get_by_role("link", name="ConnectionError in outage"))
    await operator.choose(page.get_by_role("button", name="again: ConnectionError in outage"))
    await operator.see(page.get_by_role("dialog"))
    await operator.choose(page.get_by_role("dialog").get_by_role("button", name="Run again"))
    await page.wait_for_url("**/dashboard/jobs/*")
    await operator.see(page.get_by_role("heading", level=1))
    await wait_for_second_run(operator.dashboard, failed)


async def test_where_is_the_export(operator: Operator) -> None:
    """The export of a customer is found by words, and says where it is and what it has brought."""
    await operator.open()
    await operator.find("customer 7 export")
    page = operator.page
    await operator.see(page.get_by_role("heading", level=1, name="Export orders 2026"))
    await expect(page.locator(".status.tag")).to_have_text("Succeeded")
    result = page.get_by_role("group", name="Result")
    await expect(result.get_by_role("link", name="https://example.org/orders.zip")).to_be_visible()


async def test_what_waits_and_since_when(operator: Operator) -> None:
    """Each waiting job says what it waits for and since when; the frame has the oldest one."""
    await operator.open()
    await operator.choose_tab("Queued")
    row = operator.page.get_by_role("row", name=WAITING)
    await expect(row).to_contain_text("Waiting for a worker")
    submitted_at = (await operator.dashboard.wait_for(WAITING, "queued"))["submitted_at"]
    await expect(row.locator("time")).to_have_attribute("datetime", submitted_at)
    await expect(operator.page.locator(".facts")).to_contain_text("oldest")


async def test_follow_a_log(operator: Operator, crawl: tuple[str, Path]) -> None:
    """The log of a running job shows its last line, and the next one as soon as the job has written it."""
    name, end = crawl
    await operator.open()
    await operator.choose_tab("Running")
    await operator.open_job(name)
    log = operator.page.get_by_role("region", name="Log")
    await expect(log.get_by_text("page-200")).to_be_visible()
    await operator.scroll_down()
    await expect(log.get_by_text("page-200")).to_be_in_viewport()
    await asyncio.to_thread(end.touch)
    last = log.get_by_text("The catalogue is complete")
    await operator.see(last)
    await expect(last).to_be_in_viewport()


async def test_start_a_kind(operator: Operator) -> None:
    """A kind runs by its form; the job that starts is shown."""
    await operator.open()
    page = operator.page
    await operator.choose(page.get_by_label("Dashboard").get_by_role("link", name="Kinds"))
    run = page.get_by_role("link", name="Run report")
    await operator.see(run)
    await operator.choose(run)
    form = page.get_by_role("form", name="Run report")
    await operator.see(form)
    await operator.send(form.get_by_label("title"), "Year 2026", form.get_by_role("button", name="Run"))
    await page.wait_for_url("**/dashboard/jobs/*")
    await operator.see(page.locator(".status.tag"))
    await expect(page.get_by_text('title: "Year 2026"').first).to_be_visible()


@pytest.mark.parametrize("path", ["?status=failed", "/kinds/report"])
async def test_zoomed_pages_hide_no_control(page: Page, dashboard: Dashboard, path: str) -> None:
    """At 200 %, each control is visible when it gets the focus, also above the bar for selected jobs."""
    await page.set_viewport_size(ZOOMED)
    await page.emulate_media(forced_colors="active", reduced_motion="reduce")
    await open_dashboard(page, dashboard, path)
    await expect(page.locator("[data-id], form").first).to_be_visible()
    obscured = []
    for key in ["Tab"] * 40 + ["j", "x", "j", "j"]:
        await page.keyboard.press(key)
        if key == "x" and path.startswith("?"):
            await expect(page.get_by_role("region", name="Selected jobs")).to_have_css("position", "sticky")
        obscured.append(await page.evaluate(OBSCURED))
    assert [each for each in obscured if each] == []
