"""Every state of the home page's list: accessible, quiet, and still while its jobs change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from headway.contracts import Timestamp
from tests.browser.job_states import DAY_S, ERROR, PROGRESS
from tests.browser.live_site import LiveSite
from tests.browser.probes import INSPECT, OBSERVE_SHIFTS, RECORD_ANNOUNCEMENTS, axe
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

TOPS = "[...document.querySelectorAll('#jobs li')].map((row) => row.getBoundingClientRect().top)"

STATES: list[dict[str, Any]] = [
    {"status": "running", "progress": PROGRESS},
    {"status": "running", "progress": PROGRESS | {"message": "Resizing a large photo. " * 40}},
    {"status": "retrying", "error": ERROR, "attempt": 2},
    {"status": "failed", "error": ERROR},
    {"status": "succeeded", "progress": PROGRESS, "result": 10},
]


async def open_list(page: Page, site: LiveSite, count: int) -> list[str]:
    """Open the home page with jobs in all states, which were started at the same time; return their ids."""
    now = Timestamp.now()
    times = {"started_at": str(now), "updated_at": str(now), "due_at": str(now.after(DAY_S))}
    jobs = []
    for number in range(count):
        state = STATES[number % len(STATES)]
        finished = str(now) if state["status"] in ("failed", "succeeded") else None
        jobs.append(site.add_job(**times, **state, version=1, finished_at=finished))
    tokens = json.dumps([token for _, token in jobs])
    await page.add_init_script(f"localStorage.setItem('headway-jobs', {json.dumps(tokens)})")
    await page.goto(site.origin)
    await expect(page.locator("#jobs [part=status]")).to_have_count(count)
    await expect(page.locator("#jobs").get_by_text("Connecting")).to_have_count(0)
    return [job_id for job_id, _ in jobs]


async def test_list_is_accessible(page: Page, site: LiveSite) -> None:
    """Axe finds no fault in the empty list, in one with all states, and beside an error, and nothing is cut off."""
    await page.set_viewport_size({"width": 320, "height": 800})
    await page.emulate_media(reduced_motion="reduce")
    await page.goto(site.origin)
    await page.evaluate(axe())
    assert await page.evaluate(INSPECT) == []
    await open_list(page, site, len(STATES))
    await page.evaluate(axe())
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(INSPECT) == []
    await page.get_by_role("button", name="Start a new job").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert").filter(has_text="No job was started.")).to_be_visible()
    assert await page.evaluate(INSPECT) == []
    await expect(page.get_by_role("button", name="Start a new job")).to_be_focused()


async def test_buttons_name_their_jobs(page: Page, site: LiveSite) -> None:
    """Each button of the list has its own name, also where jobs of one kind were started at the same time."""
    await open_list(page, site, len(STATES))
    names = [line.strip() for line in (await page.locator("#jobs").aria_snapshot()).splitlines() if "button" in line]
    buttons = [name for name in names if "Show" not in name]
    assert len(buttons) == len(STATES) + 3  # Forget everywhere, and Cancel while a job has not ended
    assert len(set(buttons)) == len(buttons), buttons
    assert all("thumbnails" in name and "submitted" in name for name in buttons), buttons


async def test_list_is_silent_until_a_change(page: Page, site: LiveSite) -> None:
    """A screen reader hears nothing of the list when it loads, and then each change with the name of the job."""
    await page.add_init_script(RECORD_ANNOUNCEMENTS)
    ids = await open_list(page, site, 14)
    assert await page.evaluate("announcements") == []
    await site.show(ids[0], status="succeeded", finished_at=str(Timestamp.now()))
    await wait_until(lambda: page.evaluate("announcements.length"))
    announcements = await page.evaluate("announcements")
    assert all("Succeeded" in text for text in announcements), announcements


@pytest.mark.parametrize("width", [360, 1440])
async def test_list_does_not_shift(page: Page, site: LiveSite, width: int) -> None:
    """Nothing moves while the messages of the jobs come and go, and while the connection is lost and back."""
    await page.set_viewport_size({"width": width, "height": 800})
    ids = await open_list(page, site, len(STATES))
    tops = await page.evaluate(TOPS)
    await page.evaluate(OBSERVE_SHIFTS.replace("buffered: true", "buffered: false"))
    for number in range(6):
        message = "Resizing a large photo. " * 40 if number % 2 else "Short"
        await site.show(ids[0], progress=PROGRESS | {"message": message})
        await expect(page.locator("#jobs li").first.locator("[part=message]")).to_contain_text(message.strip())
        assert await page.evaluate(TOPS) == tops
    await site.disconnect()
    await expect(page.get_by_text("Reconnecting…").first).to_be_visible()
    assert await page.evaluate(TOPS) == tops
    site.answers = True
    await expect(page.get_by_text("Reconnecting…")).to_have_count(0)
    assert await page.evaluate("shift") == 0


async def test_changes_in_another_tab_keep_the_focus(page: Page, site: LiveSite) -> None:
    """A row that another tab adds moves no focus; one that it removes moves it to the neighbor."""
    await open_list(page, site, 3)
    other = await page.context.new_page()
    await other.goto(site.origin)
    forget = page.locator("#jobs li").nth(1).get_by_role("button", name="Forget")
    await forget.focus()
    _, token = site.add_job()
    await other.evaluate("async (token) => (await import('/assets/history.js')).remember(token)", token)
    await expect(page.locator("#jobs li")).to_have_count(4)
    await expect(page.locator("#jobs li").nth(2).get_by_role("button", name="Forget")).to_be_focused()
    await other.locator("#jobs li").nth(1).get_by_role("button", name="Forget").click()
    await expect(page.locator("#jobs li")).to_have_count(3)
    await expect(page.locator("#jobs li").nth(2).get_by_role("button", name="Forget")).to_be_focused()


async def test_finished_jobs_are_cleared(page: Page, site: LiveSite) -> None:
    """Rows of finished jobs say how long these took. One button removes them, keeps the focus, and says how many."""
    ids = await open_list(page, site, len(STATES))
    await expect(page.locator("#jobs li").last.locator(".took")).to_have_text("took 0 s")
    clear = page.get_by_role("button", name="Clear finished")
    await clear.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#jobs li")).to_have_count(3)
    await expect(page.get_by_role("status").filter(has_text="2 jobs removed")).to_be_visible()
    await expect(clear).to_be_focused()
    await expect(clear).to_have_attribute("aria-disabled", "true")
    for job_id in ids[:3]:
        await site.show(job_id, status="succeeded", finished_at=str(Timestamp.now()))
    await expect(clear).to_have_attribute("aria-disabled", "false")
    await expect(page.locator("#jobs [part=status]")).to_have_text(["Succeeded"] * 3)
    await page.keyboard.press("Enter")
    await expect(page.locator("#started")).to_be_hidden()
    await expect(page.locator("#start")).to_be_focused()
    assert await page.evaluate("localStorage.getItem('headway-jobs')") == "[]"


async def test_failed_request_is_explained(page: Page, site: LiveSite) -> None:
    """An answer that is no JSON, and a missing one, are explained in words."""

    async def answer_with_a_page(route: Route) -> None:
        await route.fulfill(status=502, body="<h1>Bad gateway</h1>")

    await page.goto(site.origin)
    await page.route("**/jobs", answer_with_a_page, times=1)
    await page.get_by_role("button", name="Start a new job").click()
    alert = page.get_by_role("alert")
    await expect(alert).to_have_text("No job was started. The server answered with status 502; try again.")
    await page.route("**/jobs", lambda route: route.abort(), times=1)
    await page.get_by_role("button", name="Start a new job").click()
    await expect(alert).to_have_text(
        "It is not known whether the job was started. The server cannot be reached; try again."
    )


async def test_button_has_a_border_in_forced_colors(page: Page, site: LiveSite) -> None:
    """The button that starts a job has a visible border in forced colors."""
    await page.emulate_media(forced_colors="active")
    await page.goto(site.origin)
    button = page.locator("#start")
    await expect(button).to_have_css("border-top-style", "solid")
    read = "(button) => [getComputedStyle(button).borderTopColor, getComputedStyle(document.body).backgroundColor]"
    border, background = await button.evaluate(read)
    assert border != background
