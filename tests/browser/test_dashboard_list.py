"""The dashboard's list of jobs: live and still, its tabs, filters, hours and empty states."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from headway.contracts import Timestamp
from tests.browser.conftest import PageErrors
from tests.browser.dashboard import LOST, SHOWN_HOSTILE_NAME, WAITING, Dashboard, check_looks, inspect, open_dashboard
from tests.browser.dashboard_list_site import DashboardListSite, run_dashboard_list_site
from tests.browser.job_states import ENDED, ERROR, PROGRESS, RUNNING, after
from tests.browser.probes import OBSERVE_SHIFTS
from tests.waiting import free_ports, wait_until

pytestmark = pytest.mark.browser

ARRIVALS = 2000 if os.environ.get("LONG") else 150
ARRIVALS_PER_S = 50
HOUR_S = 3600
FAILED = ENDED | {"status": "failed", "error": ERROR}
NAMES = "[...document.querySelectorAll('[data-id] .what a')].map((link) => link.textContent)"
WRONG_FILTERS = {
    "owner=a+b": "Owner cannot be used: “a b” is not the name of an owner.",
    "until=2026-13-01T00:00Z": "Time cannot be used: “2026-13-01T00:00Z” is not a time such as 2026-01-31T09:30:00Z.",
}
# Return what a user points at: the name of the row, and where it is.
POINTED = """() => {
  const row = document.elementFromPoint(600, 500).closest("[data-id]");
  return [row.querySelector("a").textContent, row.getBoundingClientRect().top];
}"""


class JobsView:
    """The view of all jobs in a page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.rows = page.locator("[data-id]")
        self.fresh = page.locator(".fresh")
        self.notice = page.locator(".list-bar > [role=status]")

    def row(self, name: str) -> Locator:
        """Locate the row of a job."""
        return self.rows.filter(has=self.page.get_by_role("link", name=name, exact=True))

    def tab(self, name: str) -> Locator:
        """Locate the tab of a status."""
        return self.page.get_by_label("Status").get_by_role("link", name=name)

    def chip(self, name: str) -> Locator:
        """Locate the chip of a filter."""
        return self.page.get_by_label("Filters").get_by_role("button", name=name)

    async def names(self) -> list[str]:
        """Return the names of the jobs in the rows."""
        names: list[str] = await self.page.evaluate(NAMES)
        return names


@pytest.fixture
async def view(page: Page) -> JobsView:
    """Return the view of a page that observes shifts of its layout."""
    await page.add_init_script(OBSERVE_SHIFTS)
    return JobsView(page)


@pytest.fixture(scope="module")
async def running_site() -> AsyncIterator[DashboardListSite]:
    """Run the dashboard with a notifier that sends the test's list."""
    async with run_dashboard_list_site(free_ports(1)[0]) as site:
        yield site


@pytest.fixture
async def site(running_site: DashboardListSite) -> DashboardListSite:
    """Return a site without jobs."""
    running_site.reset()
    return running_site


async def arrive(site: DashboardListSite, count: int) -> None:
    """Add running jobs at a steady rate."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(count):
        await site.add(**RUNNING)
        await asyncio.sleep(max(0, start + number / ARRIVALS_PER_S - loop.time()))


async def test_rows_show_each_job(page: Page, view: JobsView, dashboard: Dashboard) -> None:
    """A row has what an operator asks next; tabs have counts; no state has a fault that axe finds."""
    errors = PageErrors(page)
    await open_dashboard(page, dashboard)
    rows: dict[str, list[str | re.Pattern[str]]] = {
        "Invoices of March": ["Running", "371 of 400", "92 %"],
        "Sync ledger": ["Retrying", re.compile(r"Next attempt in (\d+ min|1 h)"), "1 of 5", "The ledger is locked"],
        "Nightly report": ["Queued", re.compile(r"Starts in (5 h \d+ min|6 h)")],
        "Import customers.csv": ["Failed", "Stopped at 64 %", "3 of 3", "'twelve' is not a number"],
        WAITING: ["Queued", "Waiting for a worker"],
        LOST: ["Running", "Worker lost"],
        "Crawl summer catalogue": ["Cancelled", "Never started"],
        "Crawl spring catalogue": ["Succeeded", "30 pages"],
    }
    for name, texts in rows.items():
        await view.row(name).scroll_into_view_if_needed()
        for text in texts:
            await expect(view.row(name)).to_contain_text(text)
    assert SHOWN_HOSTILE_NAME in await view.names()
    await expect(view.tab("Running")).to_contain_text(re.compile(r"\d"))  # other tests have jobs that run, too
    found = {"light": await inspect(page)}
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size({"width": 360, "height": 800})
    found["dark and narrow"] = await inspect(page)
    await page.emulate_media(forced_colors="active")
    await view.chip("Last 24 hours").click()
    found["forced colors"] = await inspect(page)
    await page.goto(dashboard.url("?status=succeeded"))
    await expect(view.tab("Succeeded")).to_be_in_viewport(ratio=0.9)
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert errors.messages == []


async def test_filters_are_in_the_url(page: Page, view: JobsView, dashboard: Dashboard) -> None:
    """Tabs and chips narrow the list, with the mouse and by keyboard; the URL and the browser's history lead back."""
    await open_dashboard(page, dashboard)
    await view.tab("Failed").click()
    await expect(page).to_have_url(dashboard.url("?status=failed"))
    await expect(page).to_have_title("Failed jobs · Headway")
    await expect(view.row("Letter to Ada")).to_be_visible()
    await expect(view.row("Invoices of March")).to_have_count(0)
    await view.chip("Kind").press("Enter")
    await page.get_by_role("dialog").get_by_role("link", name="import").press("Enter")
    await expect(view.rows).to_have_count(2)
    await expect(view.chip("Kind: import")).to_be_focused()
    await expect(page.locator(".list [role=status]").last).to_have_text("2 jobs")
    await view.tab("All").click()
    await page.get_by_role("link", name="Remove the filter: Kind").click()
    await view.chip("Tag").click()
    await page.get_by_role("textbox", name="Tag").fill("csv")
    await page.keyboard.press("Enter")
    await expect(view.rows).to_have_count(2)
    await view.chip("Tag: csv").click()
    await page.get_by_role("textbox", name="Another tag").fill("nowhere")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(dashboard.url("?tag=csv&tag=nowhere"))
    await expect(page.get_by_text("No job matches these filters.")).to_be_visible()
    await page.get_by_role("link", name="Clear filters").press("Enter")
    await expect(page.locator(".filters button").first).to_be_focused()
    await expect(view.row("Letter to Ada")).to_be_visible()
    await page.go_back()
    await page.go_back()
    await expect(view.row("Export orders 2026")).to_be_visible()
    await view.chip("Error").click()
    await page.get_by_role("link", name="InvalidRow").click()
    await expect(view.rows).to_have_count(1)
    await page.get_by_role("link", name="Clear filters").click()
    await expect(page).to_have_url(dashboard.url("?status=failed"))
    await page.reload()
    await expect(view.row("Letter to Ada")).to_be_visible()


async def test_a_filter_that_is_wrong_is_named(page: Page, view: JobsView, dashboard: Dashboard) -> None:
    """The list says in words what is wrong with the URL, and leads out; so do the groups of failures."""
    alert = page.locator(".list .empty [role=alert]")
    for query, problem in WRONG_FILTERS.items():
        await open_dashboard(page, dashboard, f"?{query}")
        await expect(alert).to_have_text(f"The filter {problem}")
    await expect(page.get_by_role("table")).to_have_count(0)
    await check_looks(page)
    await page.get_by_role("link", name="Group failures").click()
    await expect(page.locator(".failures")).to_contain_text(problem)
    await page.go_back()
    await page.get_by_role("link", name="Clear the filters").click()
    await expect(page).to_have_url(dashboard.url())
    await expect(view.row("Letter to Ada")).to_be_visible()


async def test_an_hour_filters(page: Page, view: JobsView, dashboard: Dashboard) -> None:
    """The chart says when failures peaked; a click shows the hour, and another one all hours again."""
    await open_dashboard(page, dashboard, "?status=failed")
    await expect(page.locator("figcaption")).to_contain_text("failed, most of them at")
    hours = page.get_by_role("toolbar", name="Hours")
    await hours.get_by_role("link").first.focus()
    await page.keyboard.press("End")
    await expect(hours.get_by_role("link").last).to_be_focused()
    peak = hours.get_by_role("link", name="of them failed").last
    await peak.focus()
    await expect(page.locator("figcaption")).to_contain_text("of them failed")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(r"\?status=failed&since=[^&]+&until=[^&]+$"))
    await expect(view.rows.first).to_contain_text("Failed")
    await expect(peak).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(dashboard.url("?status=failed"))


ORDER = """
- heading "Jobs" [level=1]
- navigation "Status"
- group "Filters"
- figure
- table "Jobs":
  - rowgroup:
    - row:
      - columnheader
      - columnheader "Status"
      - columnheader "Job"
      - columnheader "Progress"
      - columnheader "Attempt"
      - columnheader "Waited"
      - columnheader "Took"
      - columnheader "Age"
      - columnheader "Error"
  - rowgroup:
    - row:
      - cell:
        - checkbox "Select Export 0"
      - cell "Running"
      - cell "Export 0 export · 00000000":
        - link "Export 0"
      - cell "4 of 10 photos · Resizing photo-0004.jpg 40 %"
      - cell "1"
"""


async def test_screen_readers_find_a_table(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """The accessibility tree has the parts of the view in their order, and a table, also where rows are blocks."""
    await site.add(**RUNNING)
    await page.goto(f"{site.origin}/dashboard")
    await expect(view.rows).to_have_count(1)
    await expect(page.locator("main .list")).to_match_aria_snapshot(ORDER)
    await page.set_viewport_size({"width": 360, "height": 800})
    await expect(page.get_by_role("cell", name="Running")).to_be_visible()
    await expect(page.get_by_role("columnheader", name="Progress")).to_have_count(1)


async def test_rows_stay_while_jobs_arrive(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """While 50 jobs a second arrive, no row moves; a button shows the newer ones, and has counted them."""
    await site.add(60, **RUNNING)
    await page.goto(f"{site.origin}/dashboard")
    await expect(view.rows).to_have_count(50)
    await page.mouse.move(600, 500)
    pointed = await page.evaluate(POINTED)
    await view.rows.nth(3).get_by_role("checkbox").check()
    await site.add(2, **RUNNING)
    await expect(view.fresh).to_have_text("2 new jobs")
    await site.show(59, progress=PROGRESS | {"current": 7, "percent": 70.0})
    await expect(view.rows.first).to_contain_text("7 of 10 photos")
    await arrive(site, ARRIVALS)
    await expect(view.fresh).to_have_text("50+ new jobs")
    await page.mouse.move(600, 500)
    assert await page.evaluate(POINTED) == pointed
    assert await page.evaluate("shift") <= 0.02
    await view.fresh.press("Enter")
    await expect(view.rows.first).to_contain_text(f"Export {61 + ARRIVALS}")
    await expect(view.rows.first.get_by_role("link")).to_be_focused()
    await expect(view.fresh).to_be_hidden()
    await expect(page.get_by_role("checkbox", checked=True)).to_have_count(0)


async def test_a_job_that_ends_keeps_its_row(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """A job that no longer matches keeps its row, also its selection and focus, until the operator updates the list."""
    await site.add(4, **RUNNING)
    await page.goto(f"{site.origin}/dashboard?status=running")
    boxes = view.rows.get_by_role("checkbox")
    await boxes.nth(0).check()
    await boxes.nth(2).click(modifiers=["Shift"])
    await expect(page.locator("[data-selected]")).to_have_count(3)
    await page.get_by_label("Select all rows").check()
    await expect(page.locator("[data-selected]")).to_have_count(4)
    await site.show(1, **(FAILED | {"error": {"type": "InternalError", "message": "The job failed unexpectedly."}}))
    await site.leave(1)
    await expect(view.fresh).to_have_text("Update the list")
    await expect(view.rows.nth(2)).to_contain_text("Failed")
    await view.rows.nth(2).get_by_role("link").focus()
    await page.keyboard.press("n")
    await expect(view.fresh).to_be_hidden()
    assert await view.names() == ["Export 3", "Export 2", "Export 0"]
    await expect(page.locator("[data-selected]")).to_have_count(3)
    site.sign_in("list details")
    await page.evaluate("sessionStorage.clear()")
    await page.reload()
    await expect(view.rows).to_have_count(4)
    await expect(page.get_by_role("checkbox")).to_have_count(0)


async def test_rows_of_a_narrow_list_have_one_height(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """A row keeps it when its job starts, fails or succeeds, so that none below moves."""
    await site.add(5, **RUNNING)
    await page.set_viewport_size({"width": 360, "height": 1200})
    await page.goto(f"{site.origin}/dashboard")
    await expect(view.rows).to_have_count(5)
    await page.evaluate("window.shift = 0")
    await site.show(4, **FAILED | {"error": ERROR | {"message": "It is not a number. " * 20}})
    await site.show(3, **ENDED)
    await site.show(2, status="queued", started_at=None, progress=None)
    await site.show(1, status="retrying", due_at=after(60), error=ERROR)
    await expect(view.rows.nth(3)).to_contain_text("InvalidRow")
    await expect(view.rows.first).to_contain_text("not a number")
    heights = await page.evaluate("[...document.querySelectorAll('[data-id]')].map((row) => row.offsetHeight)")
    assert len(set(heights)) == 1, heights
    assert await page.evaluate("shift") == 0


async def test_times_are_those_of_the_reader_and_the_server(
    browser: Browser, site: DashboardListSite, dashboard: Dashboard
) -> None:
    """Times are in the reader's zone, which is named. Ages and ranges are right although the browser's clock is not."""
    context = await browser.new_context(timezone_id="Asia/Kolkata", locale="en-US")
    page = await context.new_page()
    view = JobsView(page)
    site.ahead_s = HOUR_S
    await site.add(**RUNNING)
    await page.goto(f"{site.origin}/dashboard")
    await expect(view.rows.first.locator(".age")).to_have_text("3 h")
    await expect(page.locator("figcaption")).to_contain_text(re.compile(r"Times: Asia/(Kolkata|Calcutta)\."))
    first_hour = Timestamp.parse(site.now()) // (1000 * HOUR_S) - 23
    await wait_until(lambda: site.filters[-1]["since"] == str(Timestamp(first_hour * 1000 * HOUR_S)))
    await view.chip("Last 24 hours").click()
    await page.get_by_label("From").fill("2026-11-30T10:00")
    await page.get_by_label("Until").fill("2026-11-30T11:00")
    await page.get_by_role("button", name="Apply").click()
    await expect(view.chip("Nov 30, 10:00")).to_contain_text(re.compile(r"Nov 30, 10:00\s\W\s11:00\sAM"))
    limits = {"since": "2026-11-30T04:30:00.000Z", "until": "2026-11-30T05:30:00.000Z"}
    await wait_until(lambda: {name: site.filters[-1].get(name) for name in limits} == limits)
    await view.chip("Nov 30, 10:00").click()
    await expect(page.get_by_label("From")).to_have_value("2026-11-30T10:00")

    job = await dashboard.live(f"/live/jobs/{dashboard.jobs['Letter 3']}")  # of three hours ago
    await page.clock.install(time=Timestamp.now() / 1000 + HOUR_S)
    await page.goto(dashboard.url(dashboard.job_path("Letter 3")))
    submitted = page.locator("dl > div").filter(has=page.get_by_text("Submitted", exact=True))
    local = datetime.fromisoformat(job["submitted_at"]).astimezone(ZoneInfo("Asia/Kolkata"))
    await expect(submitted).to_contain_text(f"{local:%-I:%M:%S}")
    await expect(submitted).to_contain_text("3 h ago")
    await expect(submitted.locator("time")).to_have_attribute("title", re.compile(r"GMT\+5:30$"))
    await context.close()


async def test_bar_is_busy_while_it_acts(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """Until all requests are answered, the bar shows how many are, whatever arrives, and accepts no further click."""
    await site.add(3, **RUNNING)
    await page.goto(f"{site.origin}/dashboard")
    for number in range(2):
        await view.rows.nth(number).get_by_role("checkbox").check()
    cancelled: list[str] = []
    released = asyncio.Event()

    async def answer(route: Route) -> None:
        if route.request.method == "POST":
            cancelled.append(route.request.url)
            if len(cancelled) == 2:
                await released.wait()
        await route.fulfill(json=site.jobs[0])

    await page.route(re.compile("/live/jobs/0000"), answer)
    bar, dialog = page.get_by_role("region", name="Selected jobs"), page.get_by_role("dialog")
    cancel = bar.get_by_role("button", name="Cancel")
    await cancel.click()
    await dialog.get_by_role("button", name="Cancel the jobs").click()
    await expect(bar.get_by_role("status")).to_have_text("1 of 2 …")
    await site.show(0, progress=PROGRESS | {"current": 7, "percent": 70.0})
    await expect(view.rows.last).to_contain_text("7 of 10 photos")
    await expect(bar.get_by_role("status")).to_have_text("1 of 2 …")
    await cancel.click(force=True)
    await expect(dialog).to_have_count(0)
    released.set()
    await expect(page.locator(".notice")).to_contain_text("2 cancelled.")
    await expect(bar).to_be_hidden()
    assert len(set(cancelled)) == len(cancelled) == 2


async def test_rows_of_another_filter_can_be_read(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """Until the list of a new filter comes, the rows of the old one stay, with enough contrast."""
    await site.add(3, **RUNNING)
    await page.goto(f"{site.origin}/dashboard")
    await expect(view.rows).to_have_count(3)
    await page.context.set_offline(True)
    await view.tab("Failed").click()
    await expect(page.get_by_role("table", name="Jobs")).to_have_attribute("aria-busy", "true")
    assert await inspect(page) == []
    await page.context.set_offline(False)


async def test_lists_share_a_token(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """Another tab requests another list with the same token."""
    await page.clock.install()
    await site.add(**RUNNING)
    await page.goto(f"{site.origin}/dashboard")
    await expect(view.rows).to_have_count(1)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    await page.clock.fast_forward(60_000)  # a token that is refused at once is not replaced at once
    for name in ("Running", "Queued"):
        await view.tab(name).click()
        await expect(page.get_by_role("table", name="Jobs")).not_to_have_attribute("aria-busy", "true")
    assert len(site.filters) >= 3
    assert f"{site.origin}/tokens" not in urls


async def test_the_last_hour_goes_on(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """For an operator who comes back, a list of the last hour begins where the last hour begins now."""
    await site.add(**RUNNING)
    await page.goto(f"{site.origin}/dashboard?range=1h")
    await expect(view.rows).to_have_count(1)
    site.ahead_s = 61

    async def come_back() -> bool:
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        return bool(site.filters[-1]["since"] > site.filters[0]["since"])

    await wait_until(come_back)


async def test_all_that_match_are_those_of_the_filter_at_once(
    page: Page, view: JobsView, site: DashboardListSite
) -> None:
    """What can be done with all jobs follows from the filter as soon as a row is selected."""
    await site.add(3, **FAILED)
    await page.clock.install()
    await page.goto(f"{site.origin}/dashboard?status=failed")
    await expect(view.rows).to_have_count(3)
    await page.clock.pause_at(Timestamp.now() / 1000 + 60)  # from now on, nothing renders the view
    await page.keyboard.press("j")
    await page.keyboard.press("x")
    bar = page.get_by_role("region", name="Selected jobs")
    await bar.get_by_role("button", name="Select all that match").click()
    await expect(bar.get_by_role("button", name="Run all again")).to_be_visible()
    await expect(bar.get_by_role("button", name="Cancel")).to_have_text("Cancel")  # none of these
    await expect(bar).not_to_contain_text("Choose Failed")


async def test_hidden_errors_are_read_for_visible_rows(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """A row shows the true error that is hidden from users; only visible rows ask for it, and once."""
    hidden = FAILED | {"error": {"type": "InternalError", "message": "The job failed unexpectedly."}}
    await site.add(60, **hidden)
    site.errors = {job["id"]: {"type": "KeyError", "message": "'zip'"} for job in site.jobs}
    await page.route("**/details", lambda route: route.abort(), times=1)  # this one is read again
    await page.goto(f"{site.origin}/dashboard?status=failed")
    await expect(view.rows.first).to_contain_text("KeyError: 'zip'")
    await page.get_by_role("button", name="Show older jobs").click()
    await expect(view.rows).to_have_count(60)
    await page.get_by_role("link", name="Export 0", exact=True).focus()
    await expect(view.rows.last).to_contain_text("KeyError: 'zip'")
    assert len(site.details) == len(set(site.details)) < 60
    assert len(site.watched) < 40


async def test_rows_stay_while_groups_load(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """The rows are there until the groups of failures are, and if those cannot be loaded."""
    await site.add(2, **FAILED)
    await page.route("**/assets/failure-groups.js", lambda route: route.abort(), times=1)
    await page.goto(f"{site.origin}/dashboard?status=failed")
    await page.get_by_role("link", name="Group failures").click()
    await expect(page.locator(".notice.error")).to_contain_text("The failures could not be shown.")
    await expect(view.rows.first).to_be_visible()
    await page.reload()
    await expect(page.locator(".failures")).to_be_visible()
    await expect(view.rows).to_have_count(0)
    await page.get_by_role("link", name="Show the jobs").click()
    await expect(view.rows).to_have_count(2)


async def test_a_list_without_jobs_helps(page: Page, view: JobsView, site: DashboardListSite) -> None:
    """Without jobs there is a command that submits one; without a worker, how to start one; a lag is said in words."""
    site.workers = 0
    await page.goto(f"{site.origin}/dashboard")
    await expect(page.locator("pre")).to_contain_text(f"curl {site.origin}/jobs")
    assert await inspect(page) == []
    await site.add()
    await expect(view.row("Export 0")).to_be_visible()
    site.about |= {"waiting": 1_000_000, "queue": 999_000, "oldest": after(-7200)}
    site.ended |= {"submitted": 1_000_000, "failed": 12}
    site.complete = False
    await page.reload()
    await expect(page.get_by_text("1,000,000 jobs wait, and no worker runs.")).to_be_visible()
    await expect(view.tab("Queued")).to_have_text("Queued 1,000,000")
    await expect(view.tab("Failed")).to_have_text("Failed 12")
    await expect(view.notice).to_have_text("Jobs may be missing: the index is being repaired.")
    assert await inspect(page) == []
    await view.tab("Queued").click()
    await expect(page.get_by_text("One job has waited for 2 h")).to_be_visible()
    site.about |= {"retrying": 1}  # which may be the oldest one, and is in another list
    await expect(page.get_by_text("One job has waited")).to_be_hidden()
    await expect(page.get_by_role("table", name="Jobs")).not_to_have_attribute("aria-busy", "true")
    await site.disconnect()
    await expect(view.notice).to_have_text("Reconnecting…")
    await expect(view.row("Export 0")).to_be_visible()
