"""The views of kinds, workers, groups of failures and the poison queue, with a real system."""

from __future__ import annotations

import re

import msgspec
import pytest
from playwright.async_api import Page, Route, expect

from headway.azure.job_queue import API_VERSION, JobQueue
from headway.contracts import Timestamp
from tests.browser.conftest import lose_first_answer
from tests.browser.dashboard import LARGE_NUMBER, Dashboard, check_looks, open_dashboard
from tests.browser.dashboard_jobs import ReportPlan
from tests.waiting import wait_until

pytestmark = pytest.mark.browser


async def test_a_kind_is_run_by_its_form(page: Page, dashboard: Dashboard) -> None:
    """The form has a field for each part of the payload; what is left out has its default."""
    await open_dashboard(page, dashboard, "/kinds")
    row = page.locator("tr", has=page.get_by_role("link", name="report", exact=True))
    await expect(row.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("^[1-9] jobs? in 24 hours, 0 failed")
    )
    await check_looks(page)
    await row.get_by_role("link", name="Run report").click()
    form = page.get_by_role("form", name="Run report")
    await expect(form.get_by_label("title")).to_be_focused()
    await expect(row).to_have_attribute("aria-current", "true")
    await form.get_by_role("button", name="Run").click()
    await expect(page).to_have_url(dashboard.url("/kinds/report"))  # the title is missing
    await form.get_by_label("title").fill("Year \u202e 2026")
    await form.get_by_label("format").select_option("csv")
    await form.get_by_label("copies").fill("21")
    await form.get_by_role("button", name="Run").click()
    await expect(page).to_have_url(dashboard.url("/kinds/report"))  # there are too many copies
    await form.get_by_label("copies").fill("3")
    for region in ("eu", "asia"):
        await form.get_by_role("group", name="regions").get_by_label(region).check()
    await form.get_by_label("Name of the job").fill("Run by a form")
    await check_looks(page)
    async with page.expect_response("**/jobs") as response:
        await form.get_by_role("button", name="Run").click()
    receipt = await (await response.value).json()
    dashboard.jobs["Run by a form"] = receipt["id"]
    await expect(page).to_have_url(dashboard.url(f"/jobs/{receipt['id']}"))
    snapshot = await dashboard.wait_for("Run by a form", "succeeded")
    plan = ReportPlan("Year \u202e 2026", format="csv", copies=3, regions=["asia", "eu"])
    assert msgspec.convert(snapshot["result"], ReportPlan) == plan


async def test_a_payload_that_is_not_flat_is_edited_as_json(page: Page, dashboard: Dashboard) -> None:
    """Its numbers arrive as they were typed, what is not JSON is not sent, and a repeated request is the same job."""
    await open_dashboard(page, dashboard, "/kinds/export")
    form = page.get_by_role("form", name="Run export")
    field = form.get_by_label("Payload as JSON")
    await expect(field).to_be_focused()
    await field.fill("{'result': 1}")
    await field.press("ArrowLeft")
    await page.keyboard.insert_text("\u202e")
    await page.keyboard.type(" ")
    await expect(field).to_have_value("{'result': 1\\u202e }")
    await form.get_by_role("button", name="Run").click()
    await expect(form.get_by_role("alert")).to_contain_text("This is not valid JSON.")
    await field.fill(f'{{"result": {LARGE_NUMBER}}}')
    ids = await lose_first_answer(page, "**/jobs")
    await form.get_by_role("button", name="Run").click()
    await expect(form.get_by_role("alert")).to_contain_text("It is not known whether the job was started.")
    await form.get_by_role("button", name="Run").click()
    await page.wait_for_url(f"**/dashboard/jobs/{ids[0]}")
    assert ids == [ids[0]] * 2
    dashboard.jobs["Run as JSON"] = ids[0]
    assert (await dashboard.wait_for("Run as JSON", "succeeded"))["result"] == LARGE_NUMBER


@pytest.mark.parametrize("begun", ["", '{"title": "Begun"}'])
async def test_a_form_has_fields_once_a_worker_brings_them(page: Page, dashboard: Dashboard, begun: str) -> None:
    """A form that was opened before a worker of the kind was known gets its fields; a payload that was begun stays."""

    async def without_schemas(route: Route) -> None:
        answer = await (await route.fetch()).json()
        await route.fulfill(json={**answer, "kinds": [{**kind, "schema": None} for kind in answer["kinds"]]})

    await page.route("**/live/kinds", without_schemas)
    await open_dashboard(page, dashboard, "/kinds/report")
    form = page.get_by_role("form", name="Run report")
    as_json, title = form.get_by_label("Payload as JSON"), form.get_by_label("title")
    await expect(as_json).to_be_focused()
    await expect(form.get_by_role("button", name="Edit as")).to_be_hidden()
    if begun:
        await as_json.fill(begun)
    await page.unroute("**/live/kinds")
    await page.evaluate("dispatchEvent(new Event('online'))")
    if begun:
        await expect(form.get_by_role("button", name="Edit as fields")).to_be_visible()
        await expect(as_json).to_be_focused()
        await expect(as_json).to_have_value(begun)
        await form.get_by_role("button", name="Edit as fields").click()
    await expect(title).to_be_focused()
    await expect(as_json).to_be_hidden()


async def test_workers_say_what_they_run(page: Page, dashboard: Dashboard) -> None:
    """A worker that stops posting itself is silent, and leaves the page after a while; a link marks its row."""
    await open_dashboard(page, dashboard, "/workers")
    row = page.get_by_role("row").nth(1)
    await expect(row).to_contain_text("2 of 16")
    await expect(row).not_to_have_attribute("aria-current", "true")
    await page.evaluate("(id) => { location.hash = id; }", await row.locator(".worker code").text_content())
    await expect(row).to_have_attribute("aria-current", "true")
    await row.get_by_text("more").click()
    await row.get_by_role("link", name="report", exact=True).hover()
    await check_looks(page)

    async def list_none(seconds_later: float) -> None:
        answer = {"now": str(Timestamp.now().after(seconds_later)), "workers": []}
        await page.route("**/live/workers", lambda route: route.fulfill(json=answer))

    await list_none(60)
    await expect(row).to_contain_text("Silent, last heard")
    await expect(page.get_by_text("0 of 0 slots busy on 0 workers")).to_be_visible()
    await list_none(660)
    await expect(page.get_by_text("No worker runs.")).to_be_visible()
    await expect(row).to_have_count(0)
    await page.unroute("**/live/workers")
    await page.route("**/live/workers", lambda route: route.abort())
    await expect(page.get_by_text("The workers cannot be read now.")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "request_path"), [("/kinds", "/live/kinds"), ("/workers", "/live/workers"), ("/poison", "/poison")]
)
async def test_rows_that_are_not_current_can_be_read(
    page: Page, dashboard: Dashboard, path: str, request_path: str
) -> None:
    """While the rows cannot be read again, they look different, but still have enough contrast."""
    await open_dashboard(page, dashboard, path)
    await expect(page.locator(".fleet tbody tr").first).to_be_visible()
    await page.route(f"**{request_path}", lambda route: route.abort())
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(page.locator(".fleet[data-stale]")).to_be_visible()
    await check_looks(page)


async def test_a_long_message_is_cut_in_the_name_of_its_group(page: Page, dashboard: Dashboard) -> None:
    """If the type of an error says nothing, its message names the group: its beginning, if it is long."""
    await dashboard.submit("Letter to a long name", "deliver", {"to": "long " * 30}, tags=["long-name"])
    await dashboard.wait_for("Letter to a long name", "failed")
    await open_dashboard(page, dashboard, "?group=failures&tag=long-name")
    await expect(page.locator(".group-title bdi")).to_have_text(re.compile(r"^The address of long .{60,80}…$"))
    await expect(page.locator(".group-messages")).to_contain_text("does not exist.")


async def test_a_long_name_leaves_space_for_the_reason(page: Page, dashboard: Dashboard) -> None:
    """A poisoned job has its name as elsewhere, without marks that turn it, and the reason beside it is readable."""
    shown = "W" * 199
    await dashboard.submit(f"\u202e{shown}", "secret")
    await dashboard.wait_for(f"\u202e{shown}", "failed")
    await open_dashboard(page, dashboard, "/poison")
    row = page.get_by_role("row", name=shown)
    await expect(row.get_by_role("link")).to_have_text(shown)
    for width in (1280, 800):
        await page.set_viewport_size({"width": width, "height": 800})
        box = await row.locator(".reason").bounding_box()
        assert box is not None
        assert box["width"] >= 100
    await row.get_by_role("button", name="Discard…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    await expect(row).to_have_count(0)


async def test_poisoned_jobs_say_why_and_leave(page: Page, dashboard: Dashboard) -> None:
    """A job of the queue has its true error, is run again or discarded, and what cannot be read only discarded."""
    await dashboard.submit("Rotate old keys", "secret")
    await dashboard.wait_for("Rotate old keys", "failed")
    async with JobQueue.connect(dashboard.stack.env["QUEUE_CONNECTION_STRING"], "jobs-poison", API_VERSION) as poison:
        await poison.send("<b>not a message</b>", delay_s=0)
    await open_dashboard(page, dashboard, "/poison")
    row = page.get_by_role("row", name="Rotate old keys")
    await expect(row).to_contain_text("ValueError: the payload is not kept")
    await expect(page.get_by_role("row", name="Import customers.csv")).to_contain_text(f'"limit":{LARGE_NUMBER}')
    unreadable = page.get_by_role("row", name="Unreadable message")
    await expect(unreadable.get_by_role("button")).to_have_text(["Discard…"])
    await check_looks(page)
    await row.get_by_role("button", name="Run again").click()

    async def has_failed_again() -> bool:
        snapshot = await dashboard.live(f"/live/jobs/{dashboard.jobs['Rotate old keys']}")
        return (snapshot["status"], snapshot["generation"]) == ("failed", 1)

    await wait_until(has_failed_again)
    await expect(row).to_have_count(1)
    for each in (row, unreadable):
        await each.get_by_role("button", name="Discard…").click()
        await page.get_by_role("dialog").get_by_role("button", name="Discard").click()
        await expect(each).to_have_count(0)
    await expect(page.get_by_role("heading", name="Poison")).to_be_focused()
