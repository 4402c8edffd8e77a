"""The dashboard's view of one job: its progress, its attempts to scale, its error, and the facts beside them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from headway.contracts import MAX_STEPS, Timestamp
from tests.browser.dashboard import (
    HOSTILE_NAME,
    LARGE_NUMBER,
    LOST,
    MARKUP,
    SHOWN_HOSTILE_NAME,
    TRACE_URL,
    Dashboard,
    check_looks,
    inspect,
    open_dashboard,
    resume_session,
)

pytestmark = pytest.mark.browser

FAILED = "Import customers.csv"
TRACEBACK = "".join(f'\n  File "smtp.py", line {number}' for number in range(1, 61))


def section(page: Page, title: str) -> Locator:
    """Return a card or a group of facts by its title."""
    return page.locator("section").filter(has=page.get_by_role("heading", name=title, exact=True))


async def open_job(page: Page, dashboard: Dashboard, name: str) -> None:
    """Open the view of a job, and wait until its details are shown."""
    await open_dashboard(page, dashboard, dashboard.job_path(name))
    await expect(section(page, "Payload")).to_be_visible()


async def test_failed_job_shows_why_and_with_what(page: Page, dashboard: Dashboard) -> None:
    """The view of a failed job has the true error of each attempt, its traceback, its steps, and the payload."""
    await open_job(page, dashboard, FAILED)
    await expect(page).to_have_title(f"Failed · {FAILED} · Headway")
    await expect(page.get_by_role("heading", level=1)).to_have_text(FAILED)
    error = "InvalidRow: customers.csv, row 211: 'twelve' is not a number"
    lanes = section(page, "Timeline").get_by_role("listitem")
    assert await lanes.count() in (3, 4)  # a worker that has just started keeps the job waiting
    for number in (1, 2):
        await expect(lanes.filter(has_text=f"Attempt {number}")).to_contain_text(f"Failed: {error} · Then waited ")
    await expect(lanes.filter(has_text="Attempt 3")).to_contain_text(f"Failed: {error}")
    card = section(page, "Error")
    await expect(card).to_contain_text("raise InvalidRow(")
    await card.get_by_role("button", name="Copy error").click()
    await expect(section(page, "Steps of attempt 3").get_by_role("listitem")).to_contain_text(
        ["Read the file", "Import the rows"]
    )
    await expect(section(page, "Payload")).to_contain_text(f"limit: {LARGE_NUMBER}")
    await expect(section(page, "Checkpoint")).to_contain_text("row: 200")
    await expect(section(page, "Log")).to_contain_text("Reading customers.csv, 400 rows")
    story = [FAILED, "Timeline", "Error", "Steps of attempt 3", "Log"]
    facts = ["Times", "Labels", "Ran on", "Payload", "Checkpoint"]
    headings = await page.locator("main").get_by_role("heading").all_inner_texts()
    assert [heading for heading in headings if not heading.startswith("Attempt")] == [*story, *facts]
    tag = section(page, "Labels").get_by_role("link", name="csv")
    assert "tag=csv" in (await tag.get_attribute("href") or "")
    await check_looks(page)


SHOW_STEPS = """
async (count) => {
  const { JobSteps } = await import("/assets/job-steps.js");
  const steps = new JobSteps();
  const time = new Date().toISOString();
  const times = { started_at: time, ended_at: time };
  const kept = Array.from({ length: count }, (_, index) => ({ name: `Step ${index}`, ...times }));
  steps.render({ attempt: 1, status: "succeeded", finished_at: time, updated_at: time }, kept, Date.now());
  document.body.replaceChildren(steps.element);
  return document.body.innerText;
}
"""


@pytest.mark.parametrize(("count", "is_said"), [(MAX_STEPS - 1, False), (MAX_STEPS, True)])
async def test_steps_that_are_left_out_are_mentioned(
    page: Page, dashboard: Dashboard, count: int, is_said: bool
) -> None:
    """A job with many steps keeps the newest ones only."""
    await page.goto(dashboard.url())
    text = await page.evaluate(SHOW_STEPS, count)
    assert f"Step {count - 1}" in text
    assert (f"Only the newest {MAX_STEPS} are kept." in text) is is_said


async def test_no_text_of_a_job_is_markup(page: Page, dashboard: Dashboard) -> None:
    """A hostile name, a result with markup and addresses, and a payload that was not kept are shown as text."""
    await open_job(page, dashboard, HOSTILE_NAME)
    await expect(page.get_by_role("heading", level=1)).to_have_text(SHOWN_HOSTILE_NAME.strip())
    await expect(section(page, "Payload")).to_contain_text(f'to: "{MARKUP}"')
    await check_looks(page)
    await open_job(page, dashboard, "Export orders 2026")
    result = section(page, "Result")
    await expect(result).to_contain_text(f"count: {LARGE_NUMBER}")
    await expect(result.get_by_role("link")).to_have_text(["https://example.org/orders.zip"])
    await expect(section(page, "Error")).to_be_hidden()
    assert await inspect(page) == []
    await open_job(page, dashboard, "Rotate the keys")
    await expect(section(page, "Payload")).to_contain_text("The payload was not kept: its kind says so")


async def test_job_is_followed_live(page: Page, dashboard: Dashboard) -> None:
    """Attempts, progress and the end of a job appear as they happen, and the focus of a button that goes is kept."""
    receipt = await dashboard.submit("Live job", "countdown", {}, delay_s=3600)
    await open_job(page, dashboard, "Live job")
    timeline = section(page, "Timeline")
    await expect(timeline).to_contain_text("Starts in")
    await expect(section(page, "Payload")).to_contain_text("is kept when an attempt fails")

    async def report(sequence: int, **fields: Any) -> None:
        lease = str(Timestamp.now().after(3600))
        verdict = await dashboard.stack.report(receipt, sequence, **{"attempt": 1, "lease_until": lease, **fields})
        assert verdict["accepted"]

    await report(1, progress={"current": 1, "total": 4, "unit": "files"})
    await expect(timeline.get_by_role("listitem").filter(has_text="Attempt 1")).to_contain_text("Running")
    await expect(page).to_have_title("25 % · Live job · Headway")
    due = str(Timestamp.now().after(900))
    error = {"type": "Retry", "message": "The mail server is busy."}
    details = {"message": "The mail server is busy.", "traceback": f"Traceback:{TRACEBACK}"}
    await report(2, status="retrying", due_at=due, error=error, details=details, error_type="Retry")
    await expect(timeline).to_contain_text("Failed: The mail server is busy. · Next attempt in ")
    await expect(page.get_by_role("button", name="Show all")).to_be_visible()
    is_cut = "box => box.scrollHeight > box.clientHeight + 1"
    assert await page.locator(".error-text").evaluate(is_cut)
    await page.get_by_role("button", name="Show all").click()
    await expect(page.get_by_role("button", name="Show less")).to_have_attribute("aria-expanded", "true")
    assert not await page.locator(".error-text").evaluate(is_cut)
    await report(3, attempt=2, delivery=2, progress={"current": 3, "total": 4, "unit": "files"})
    await expect(timeline.get_by_role("listitem").filter(has_text="Attempt 2")).to_contain_text("Running")
    await page.get_by_role("button", name="Cancel").focus()
    await report(4, attempt=2, delivery=2, status="succeeded", result={"sent": 4})
    await expect(section(page, "Result")).to_contain_text("sent: 4")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await expect(page.get_by_role("group", name="Actions").get_by_role("button")).to_have_text(
        ["Run again…", "Share", "Erase…"]
    )


async def test_the_trace_of_a_job_is_a_link(page: Page, dashboard: Dashboard) -> None:
    """It leads to the program that `TRACE_URL` names; without the setting, the id is a text."""
    trace_id, body = "0af7651916cd43dd8448eb211c80319c", {"kind": "report", "payload": {}, "name": "Traced"}
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    async with dashboard.stack.session.post(f"{dashboard.stack.url}/jobs", json=body, headers=headers) as response:
        dashboard.jobs["Traced"] = (await response.json())["id"]
    await dashboard.wait_for("Traced", "failed")
    await open_job(page, dashboard, "Traced")
    place = section(page, "Ran on")
    await expect(place.get_by_role("link", name=trace_id)).to_have_attribute(
        "href", TRACE_URL.replace("{trace_id}", trace_id)
    )
    await place.get_by_role("button", name="Copy trace id").click()

    async def without_url(route: Route) -> None:
        await route.fulfill(content_type="text/javascript", body="export const traceUrl = null;")

    await page.route("**/trace-url.js", without_url)
    await page.reload()
    await expect(place).to_contain_text(trace_id)
    await expect(place.get_by_role("link", name=trace_id)).to_have_count(0)


async def test_operator_acts_on_the_job(page: Page, dashboard: Dashboard) -> None:
    """By keys and buttons, an operator runs a job again, cancels it and erases it; the page shows each at once."""
    await dashboard.submit("Acted on", "deliver", {"to": "Ada"})
    await dashboard.wait_for("Acted on", "failed")
    await open_job(page, dashboard, "Acted on")
    await expect(page.get_by_role("button", name="Run again with changes…")).to_be_visible()
    await page.keyboard.press("r")
    await expect(section(page, "Labels")).to_contain_text("Run again1 time")
    await expect(section(page, "Timeline").get_by_role("listitem").filter(has_text="Attempt 1")).to_have_count(2)
    await expect(section(page, "Timeline")).to_contain_text("Then run again after")
    acted = section(page, "Who acted").get_by_role("listitem")
    await expect(acted).to_contain_text(["Run again without an API key"])
    await page.get_by_role("button", name="Erase…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Erase").click()
    await expect(section(page, "Payload")).to_contain_text("The payload was erased.")
    await expect(acted.first).to_contain_text("Erased without an API key")
    assert await inspect(page) == []
    await dashboard.submit("To cancel", "deliver", {"to": "Ada"}, delay_s=3600)
    await open_job(page, dashboard, "To cancel")
    await page.get_by_role("button", name="Cancel", exact=True).focus()
    await page.keyboard.press("c")
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    await expect(page.locator(".status.tag")).to_have_text("Cancelled")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await expect(acted).to_contain_text(["Cancelled without an API key"])


async def test_times_in_another_script_do_not_turn_the_text_beside_them(browser: Browser, dashboard: Dashboard) -> None:
    """In an Arabic browser the words beside a time stay in their order: the line is English."""
    async with await browser.new_context(locale="ar-EG") as context:
        page = await context.new_page()
        await open_job(page, dashboard, FAILED)
        submitted = section(page, "Times").locator("dd").first
        await expect(submitted).to_contain_text("ago")
        assert await submitted.evaluate("(element) => element.matches(':dir(ltr)')")


async def test_an_erased_job_has_no_log_and_no_payload(page: Page, dashboard: Dashboard) -> None:
    """What is erased leaves the page of the operator who erases it, and of another one who reads it."""
    await dashboard.submit("To erase", "import", {"file": "secret.csv"})
    await dashboard.wait_for("To erase", "failed")
    pages = [page, await page.context.new_page()]
    for each in pages:
        await open_job(each, dashboard, "To erase")
        await expect(section(each, "Log")).to_contain_text("Reading secret.csv")
        await expect(section(each, "Payload")).to_contain_text("secret.csv")
    await page.get_by_role("button", name="Erase…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Erase").click()
    for each in pages:
        await expect(section(each, "Log")).to_contain_text("its log has been erased or lost")
        await expect(section(each, "Payload")).to_contain_text("The payload was erased.")
        await expect(each.get_by_text("secret.csv")).to_have_count(0)


async def test_shows_who_acted(page: Page, dashboard: Dashboard) -> None:
    """The newest action is first, with the name of the API key. Details that could not be read are requested again."""
    acts = [
        {"action": "cancel", "by": "<b>night shift</b>", "at": "2026-01-01T00:00:00.000Z"},
        {"action": "erase", "by": "anyone", "at": "2026-01-02T00:00:00.000Z"},
    ]

    async def add_actions(route: Route) -> None:
        response = await route.fetch()
        await route.fulfill(response=response, json={**await response.json(), "actions": acts, "kept": False})

    async def fail(route: Route) -> None:
        await route.fulfill(status=503, json={"detail": "The store is not available.", "code": "unavailable"})

    await page.route("**/details", fail)
    await open_dashboard(page, dashboard, dashboard.job_path(FAILED))
    await expect(section(page, "Details")).to_contain_text("could not be read. The store is not available.")
    await expect(section(page, "Payload")).to_be_hidden()
    await page.unroute("**/details")
    await page.route("**/details", add_actions)
    await page.get_by_role("button", name="Try again").click()
    items = section(page, "Who acted").get_by_role("listitem")
    await expect(items).to_contain_text(["Erased without an API key", "Cancelled by <b>night shift</b>"])
    await expect(section(page, "Payload")).to_contain_text("The payload was erased.")
    await expect(section(page, "Details")).to_be_hidden()


async def test_says_what_it_cannot_show(page: Page, dashboard: Dashboard) -> None:
    """An address without an id, a job without a record and a lost connection are explained."""
    await open_dashboard(page, dashboard, "/jobs/9ac3f7")
    await expect(page.get_by_role("heading", level=1)).to_have_text("No such job")
    assert await inspect(page) == []
    await open_dashboard(page, dashboard, "/nowhere")
    await expect(page).to_have_title("No such page · Headway")
    await page.get_by_role("link", name="All jobs").click()
    await expect(page.get_by_role("table", name="Jobs")).to_be_visible()
    await open_dashboard(page, dashboard, f"/jobs/{uuid.uuid4()}")
    await expect(page.locator(".job-notice")).to_contain_text("no record of this job")
    assert await inspect(page) == []
    await open_job(page, dashboard, LOST)
    await expect(page.locator(".status.tag")).to_have_attribute("data-tone", "lost")
    await page.context.set_offline(True)
    notice = page.locator(".job-notice")
    await expect(notice).to_contain_text("This is the state of")
    await expect(section(page, "Timeline").locator(".axis")).not_to_contain_text("now")
    assert await inspect(page) == []
    await page.context.set_offline(False)
    await expect(notice).to_be_hidden()
    await expect(section(page, "Timeline").locator(".axis")).to_contain_text("now")


async def test_a_session_that_may_only_look_has_no_actions(page: Page, dashboard: Dashboard) -> None:
    """With a token for `list details`, a job shows everything but what an operator could do with it."""
    await resume_session(page, await dashboard.new_token("list details"))
    await open_job(page, dashboard, FAILED)
    await expect(section(page, "Error")).to_contain_text("raise InvalidRow(")
    await expect(page.locator("[data-ended] .lanes")).to_contain_text("Attempt 3")
    await expect(page.get_by_role("button", name="Run again")).to_have_count(0)
    await expect(section(page, "Log")).to_contain_text("Reading customers.csv")
