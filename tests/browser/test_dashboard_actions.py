"""What operators do in the dashboard: actions on one job and on many, by mouse and by keyboard, and by two at once."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect

from headway.contracts import Timestamp
from tests.browser.conftest import lose_first_answer
from tests.browser.dashboard import LARGE_NUMBER, Dashboard, check_looks, inspect, open_dashboard, resume_session
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

RTL_NAME = "\u202eرسلة <b>bold</b>" + " long" * 30


class Batch:
    """Failed jobs of a test, in a list of their own."""

    def __init__(self, dashboard: Dashboard) -> None:
        self.dashboard = dashboard
        self.tag = f"test-{uuid.uuid4().hex[:8]}"
        self.names: list[str] = []

    async def fail(self, *names: str) -> None:
        """Submit jobs that fail, one after the other, so that their order is known."""
        for name in names:
            full_name = f"{name} {self.tag}"
            await self.dashboard.submit(full_name, "deliver", {"to": name}, tags=[self.tag])
            await self.dashboard.wait_for(full_name, "failed")
            self.names.append(full_name)

    def job_id(self, name: str) -> str:
        """Return the id of a job."""
        return self.dashboard.jobs[f"{name} {self.tag}"]

    async def generation(self, name: str) -> int:
        """Return how many times a job was run again."""
        snapshot = await self.dashboard.live(f"/live/jobs/{self.job_id(name)}")
        generation: int = snapshot["generation"]
        return generation

    async def wait_for_generation(self, name: str, generation: int) -> None:
        """Wait until a job was run again this often, and has failed again."""

        async def has_failed() -> bool:
            snapshot = await self.dashboard.live(f"/live/jobs/{self.job_id(name)}")
            return bool(snapshot["generation"] == generation and snapshot["status"] == "failed")

        await wait_until(has_failed)

    async def redrive(self, name: str) -> None:
        """Run a job again as another operator does."""
        stack = self.dashboard.stack
        headers = {"Authorization": f"Bearer {await self.dashboard.token()}"}
        async with stack.session.post(f"{stack.url}/jobs/{self.job_id(name)}/redrive", headers=headers) as response:
            assert response.status == 202, await response.text()

    async def open(self, page: Page, status: str = "failed") -> None:
        """Open the list of the jobs."""
        await open_dashboard(page, self.dashboard, f"?status={status}&tag={self.tag}")
        await expect(page.locator("[data-id]")).to_have_count(len(self.names))

    def row(self, page: Page, name: str) -> Locator:
        """Return the row of a job."""
        return page.locator(f'[data-id="{self.job_id(name)}"]')


@pytest.fixture
def batch(dashboard: Dashboard) -> Batch:
    """Return a batch without jobs."""
    return Batch(dashboard)


def notice(page: Page, text: str) -> Locator:
    """Return a notice with a text."""
    return page.locator(".notice").filter(has_text=text)


async def focused_id(page: Page) -> str | None:
    """Return the id of the job whose row has the focus."""
    found: str | None = await page.evaluate("document.activeElement.closest('[data-id]')?.dataset.id ?? null")
    return found


async def test_a_job_runs_again_by_one_key(page: Page, dashboard: Dashboard, batch: Batch) -> None:
    """Keys lead to a row, run its job again, and leave the focus there; another operator who was faster is named."""
    await batch.fail("Ada", "Grace")
    await batch.open(page)
    await page.keyboard.press("j")
    assert await focused_id(page) == batch.job_id("Grace")  # the newest one
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("r")
    await expect(notice(page, "runs again")).to_be_visible()
    await batch.wait_for_generation("Ada", 1)
    assert await focused_id(page) == batch.job_id("Ada")
    assert await batch.generation("Grace") == 0

    async def be_faster(route: Route) -> None:
        await batch.redrive("Grace")
        await route.continue_()

    async def name_operators(route: Route) -> None:
        response = await route.fetch()
        acted = [("redrive", "ada", 1), ("redrive", "grace", 3), ("redrive", "edith", 2), ("cancel", "me", 4)]
        actions = [{"action": action, "by": by, "at": str(Timestamp.at(second))} for action, by, second in acted]
        await route.fulfill(response=response, json={**await response.json(), "actions": actions})

    await page.route("**/redrive", be_faster)
    await page.route("**/details", name_operators)
    await page.keyboard.press("k")
    assert await focused_id(page) == batch.job_id("Grace")  # no row has moved
    await page.keyboard.press("r")
    await expect(notice(page, "It was already run again by \u2068grace\u2069.")).to_be_visible()
    await batch.wait_for_generation("Grace", 1)


async def test_selected_jobs_run_again(page: Page, batch: Batch) -> None:
    """The summary has those that another operator has run again meanwhile; they stay selected, and run once."""
    await batch.fail("Ada", "Grace", "Edith")
    await batch.open(page)
    for key in ("j", "x", "j", "x"):
        await page.keyboard.press(key)
    bar = page.get_by_role("region", name="Selected jobs")
    await expect(bar).to_contain_text("2 selected")
    assert await inspect(page) == []
    await bar.get_by_role("button", name="Run again").click()
    await expect(page.get_by_role("heading", name="Run 2 jobs again?")).to_be_visible()
    await batch.redrive("Grace")
    await batch.wait_for_generation("Grace", 1)
    await page.get_by_role("dialog").get_by_role("button", name="Run again").click()
    await page.set_viewport_size({"width": 1280, "height": 400})  # with the bar at its end
    await expect(notice(page, "1 run again, 1 had changed.")).to_be_visible()
    await expect(bar).to_contain_text("1 selected")
    boxes = [await each.bounding_box() for each in (bar, notice(page, "1 run again"))]
    upper, lower = sorted((box for box in boxes if box), key=lambda box: box["y"])
    assert upper["y"] + upper["height"] <= lower["y"]  # the notice covers no button
    await batch.wait_for_generation("Edith", 1)
    assert [await batch.generation(name) for name in ("Ada", "Grace")] == [0, 1]
    await bar.get_by_role("button", name="Clear selection").click()
    await expect(bar).to_be_hidden()
    assert await focused_id(page) == batch.job_id("Grace")


async def test_all_jobs_of_a_filter_run_again(page: Page, batch: Batch) -> None:
    """The question has their number, and the action is a job, whose page opens; a repeated request is the same job."""
    await batch.fail("Ada", "Grace", RTL_NAME)
    await batch.open(page)
    await page.keyboard.press("j")
    await page.keyboard.press("x")
    await page.get_by_role("button", name="Select all").click()
    await page.get_by_role("button", name="Run all again").click()
    await expect(page.get_by_role("heading", name="Run 3 failed jobs again?")).to_be_visible()
    await expect(page.get_by_role("dialog")).to_contain_text(RTL_NAME.replace("\u202e", ""))
    assert await page.get_by_role("dialog").evaluate("(dialog) => dialog.scrollWidth <= dialog.clientWidth")
    await check_looks(page)
    ids = await lose_first_answer(page, "**/bulk")
    confirm = page.get_by_role("dialog").get_by_role("button", name="Run again")
    await confirm.click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("The server cannot be reached")
    await confirm.click()
    await page.wait_for_url(f"**/dashboard/jobs/{ids[0]}")
    assert ids == [ids[0]] * 2
    for name in ("Ada", "Grace", RTL_NAME):
        await batch.wait_for_generation(name, 1)


async def test_failures_in_groups(page: Page, batch: Batch) -> None:
    """A group has its messages, leads to the list of its jobs, and runs all of them again."""
    await batch.fail("Ada", "Ada", "Grace")
    await open_dashboard(page, batch.dashboard, f"?group=failures&tag={batch.tag}")
    group = page.locator(".group")
    await expect(group).to_have_count(1)
    await expect(group.locator(".group-count")).to_have_text("3")
    await expect(group).to_contain_text("2 \u00d7 The address of Ada does not exist.")
    assert await inspect(page) == []
    await expect(group.get_by_role("button", name="Run all 3 again")).to_be_visible()
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="Different messages in deliver")).to_be_focused()
    await page.keyboard.press("r")
    await expect(page.get_by_role("heading", name="Run 3 failed jobs again?")).to_be_visible()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/dashboard/jobs/*")
    await batch.wait_for_generation("Grace", 1)
    await page.go_back()
    await page.get_by_role("link", name="Different messages in deliver").click()
    await expect(page.locator("[data-id]")).to_have_count(3)
    await expect(page.get_by_role("table", name="Jobs")).to_be_focused()
    await open_dashboard(page, batch.dashboard, f"?group=failures&tag={batch.tag}&attempts_min=9")
    await expect(page.get_by_text("Nothing has failed in this time.")).to_be_visible()


async def test_a_payload_is_changed(page: Page, dashboard: Dashboard, batch: Batch) -> None:
    """A job runs again with another payload as a new job; numbers stay as they are written, and faults are named."""
    original = {"result": {"number": LARGE_NUMBER, "text": "\u202eabc"}}
    name = f"Export {batch.tag}"
    await dashboard.submit(name, "export", original, tags=[batch.tag])
    await dashboard.wait_for(name, "succeeded")
    batch.names.append(name)
    await batch.open(page, "succeeded")
    await page.keyboard.press("j")
    await page.keyboard.press("r")
    field = page.get_by_label("Payload (JSON)")
    text = json.dumps(original, indent=2)  # with `\u202e` instead of the character, which would reverse the text
    await expect(field).to_have_value(text)
    run = page.get_by_role("button", name="Run as a new job")
    await field.fill(f"{text},")
    await run.click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("This is not JSON.")
    await expect(field).to_be_focused()
    assert await inspect(page) == []
    await field.fill(text.replace("number", "other"))
    await run.click()
    link = notice(page, "runs again as a new job").get_by_role("link", name="Open the job")
    new_id = str(await link.get_attribute("href")).rpartition("/")[2]

    async def result() -> Any:
        snapshot = await dashboard.live(f"/live/jobs/{new_id}")
        return snapshot and snapshot["result"]

    assert await wait_until(result) == {"other": LARGE_NUMBER, "text": "\u202eabc"}


async def test_a_payload_that_was_not_kept(page: Page, dashboard: Dashboard) -> None:
    """If the payload was not kept, the dialog says so and asks for one."""
    await open_dashboard(page, dashboard, "?status=failed&kind=letters")
    await expect(page.locator("[data-id]").first).to_be_visible()
    await page.keyboard.press("j")
    newest = await focused_id(page)
    await page.keyboard.press("r")
    await expect(page.get_by_role("dialog")).to_contain_text("Its payload was not kept, so enter one")
    await expect(page.get_by_label("Payload (JSON)")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await focused_id(page) == newest


async def test_cancel_and_the_menu(page: Page, dashboard: Dashboard, batch: Batch) -> None:
    """A waiting job is cancelled after a question. The menu of a row has what applies to its job now."""
    name = f"Waiting {batch.tag}"
    await dashboard.submit(name, "deliver", {"to": "Ada"}, tags=[batch.tag], delay_s=3600)
    await dashboard.wait_for(name, "queued")
    batch.names.append(name)
    await batch.open(page, "queued")
    await page.keyboard.press("j")
    await page.keyboard.press(".")
    menu = page.get_by_role("menu")
    await expect(menu.get_by_role("menuitem")).to_have_text(["Open", "Cancel…", "Copy a link to share", "Copy the id"])
    assert await inspect(page) == []
    await page.keyboard.press("c")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Cancel the job").click()
    await expect(notice(page, "is cancelled")).to_be_visible()
    assert await focused_id(page) == dashboard.jobs[name]
    await expect(batch.row(page, "Waiting")).to_contain_text("Cancelled")
    await page.keyboard.press("c")
    await expect(notice(page, "It has ended before.")).to_be_visible()
    await page.keyboard.press(".")
    await expect(menu.get_by_role("menuitem").last).to_have_text("Erase…")
    await page.keyboard.press("Escape")
    assert await focused_id(page) == dashboard.jobs[name]
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.keyboard.press(".")
    await menu.get_by_role("menuitem", name="Copy a link to share").click()
    await expect(notice(page, "The link is copied.")).to_be_visible()
    link = str(await page.evaluate("navigator.clipboard.readText()"))
    path, _, token = link.partition("#")
    assert path == f"{dashboard.stack.url}/jobs/{dashboard.jobs[name]}"
    assert (await dashboard.stack.snapshot(dashboard.jobs[name], token))["status"] == "cancelled"
    await page.keyboard.press(".")
    await expect(menu.get_by_role("menuitem").first).to_be_focused()
    await page.keyboard.press("End")
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").get_by_role("button", name="Erase").click()
    await expect(notice(page, "is erased")).to_be_visible()


async def test_a_reader_cannot_act(page: Page, dashboard: Dashboard) -> None:
    """Without the role `operate`, there is nothing to select, keys that act do nothing, and the menu only opens."""
    await resume_session(page, await dashboard.new_token("list details"))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
    await open_dashboard(page, dashboard, "?status=failed&kind=deliver")
    await expect(page.locator("[data-id]").first).to_be_visible()
    for key in ("j", "x", "r", "c", "."):
        await page.keyboard.press(key)
    await expect(page.get_by_role("menuitem")).to_have_text(["Open", "Copy the id"])
    assert await page.get_by_role("checkbox").count() == 0
    await page.goto(dashboard.url("?group=failures"))
    await expect(page.get_by_role("link", name="Newest job").first).to_be_visible()
    assert await page.get_by_role("button", name="again").count() == 0
    assert [one for one in requests if one.startswith(("POST", "DELETE")) and "/tokens" not in one] == []
