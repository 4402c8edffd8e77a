"""The home page: the button that starts a job, and the live list of the jobs that this browser has started."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Locator, Page, Route, WebSocket, expect

from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from tests.browser.conftest import PageErrors, SendReport, lose_first_answer
from tests.stack import Stack

pytestmark = pytest.mark.browser

STARTED = re.compile("Running|Succeeded")


def rows(page: Page) -> Locator:
    """Locate the rows of the list."""
    return page.locator("#jobs li")


async def open_with_storage(page: Page, stack: Stack, text: str) -> None:
    """Open the home page with a text in the browser's storage."""
    store = f"localStorage.getItem('headway-jobs') ?? localStorage.setItem('headway-jobs', {json.dumps(text)})"
    await page.add_init_script(store)
    await page.goto(stack.url)


async def open_with_jobs(page: Page, stack: Stack, *tokens: str) -> None:
    """Open the home page as if these jobs had been started there."""
    await open_with_storage(page, stack, json.dumps(tokens))


async def stored_tokens(page: Page) -> list[str]:
    """Return the tokens in the browser's storage."""
    tokens: list[str] = await page.evaluate("JSON.parse(localStorage.getItem('headway-jobs')) ?? []")
    return tokens


async def test_started_job_is_listed(page: Page, stack: Stack) -> None:
    """A job that the button has started is listed, with live progress and a link to its page."""
    errors = PageErrors(page)
    await page.goto(stack.url)
    await expect(page.locator("#started")).to_be_hidden()
    await expect(page.get_by_role("contentinfo").get_by_role("link")).to_have_attribute("href", "/dashboard")
    with stack.frozen("worker"):
        await page.get_by_role("button", name="Start a new job").click()
        await expect(page.locator("#status")).to_have_text("Queued")
    await expect(page.locator("#status")).to_have_text("Running")
    link = page.url
    await page.go_back()
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page).locator("[part=status]")).to_have_text("Succeeded")
    await rows(page).get_by_role("link", name="countdown").click()
    await expect(page.locator("#status")).to_have_text("Succeeded")
    assert page.url == link
    assert errors.messages == []


async def test_job_can_have_a_name(page: Page, stack: Stack) -> None:
    """The name of the form is the heading of the job's page, and names the job and its button in the list."""
    errors = PageErrors(page)
    await page.goto(stack.url)
    await page.get_by_label("Name of the job").fill("Export of <b>March</b>")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Export of <b>March</b>")
    await page.go_back()
    await expect(page.get_by_label("Name of the job")).to_be_empty()
    await expect(rows(page).get_by_role("link", name="Export of <b>March</b>")).to_be_visible()
    await expect(rows(page).get_by_role("button", name="Forget Export of <b>March</b>, submitted")).to_be_visible()
    assert errors.messages == []


async def test_shared_link_is_not_listed(page: Page, stack: Stack) -> None:
    """The page of a job that another browser has started does not add the job to the list."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#status")).to_have_text("Queued")
    await page.goto(stack.url)
    await expect(page.locator("#started")).to_be_hidden()
    assert await stored_tokens(page) == []


async def test_rows_are_live_over_one_connection(page: Page, stack: Stack, report: SendReport) -> None:
    """Each of twenty rows shows the progress of its job, and all share one WebSocket."""
    errors = PageErrors(page)
    sockets: list[WebSocket] = []
    receipts = [await stack.submit(delay_s=3600) for _ in range(20)]
    page.on("websocket", lambda socket: sockets.append(socket))
    await open_with_jobs(page, stack, *(receipt["token"] for receipt in receipts))
    await expect(rows(page).locator("[part=status]")).to_have_text(["Queued"] * 20)
    await report(receipts[3], progress={"current": 1, "total": 4, "message": "Quarter"})
    await expect(rows(page).nth(3).locator("[part=percent]")).to_have_text("25 %")
    await expect(rows(page).nth(3).locator("[part=message]")).to_have_text("Quarter")
    assert len(sockets) == 1
    assert errors.messages == []


async def test_job_is_cancelled_from_the_list(page: Page, stack: Stack) -> None:
    """Each row has a button that cancels its job."""
    receipt = await stack.submit(delay_s=3600)
    await open_with_jobs(page, stack, receipt["token"])
    await page.get_by_role("button", name="Cancel").click()
    await expect(rows(page).locator("[part=status]")).to_have_text("Cancelled")


async def test_forget_removes_a_job(context: BrowserContext, page: Page, stack: Stack) -> None:
    """*Forget* removes a job from the list of every tab and from the storage, and moves the focus to the next row."""
    first, second = [(await stack.submit(delay_s=3600))["token"] for _ in range(2)]
    await open_with_jobs(page, stack, first, second)
    other = await context.new_page()
    await other.goto(stack.url)
    await expect(rows(other)).to_have_count(2)
    await rows(page).first.get_by_role("button", name="Forget countdown").click()
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page).get_by_role("button", name="Forget countdown")).to_be_focused()
    await expect(rows(other)).to_have_count(1)
    assert await stored_tokens(page) == [second]
    await page.keyboard.press("Enter")
    await expect(page.locator("#started")).to_be_hidden()
    await expect(page.locator("#start")).to_be_focused()
    assert await stored_tokens(page) == []


async def test_expired_and_malformed_tokens_are_not_listed(page: Page, stack: Stack) -> None:
    """They are removed from the storage when the next job is started."""
    receipt = await stack.submit(delay_s=3600)
    now = Timestamp.now()
    grant = Grant(job_id=receipt["id"], kind="old", submitted_at=now.after(-7200), expires_at=now.after(-3600))
    expired = TokenSigner((stack.folder / "keys" / "token.pem").read_text()).sign(grant)
    await open_with_jobs(page, stack, expired, "nonsense", receipt["token"])
    await expect(rows(page)).to_have_count(1)
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text(STARTED)
    tokens = await stored_tokens(page)
    assert len(tokens) == 2
    assert tokens[1] == receipt["token"]


@pytest.mark.parametrize("text", ["nonsense", '{"a": 1}', "[1, null, {}]", "null"])
async def test_invalid_storage_is_ignored(page: Page, stack: Stack, text: str) -> None:
    """The page shows no list and starts jobs as usual."""
    errors = PageErrors(page)
    await open_with_storage(page, stack, text)
    await expect(page.locator("#started")).to_be_hidden()
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text(STARTED)
    assert len(await stored_tokens(page)) == 1
    assert errors.messages == []


async def test_list_is_limited(page: Page, stack: Stack) -> None:
    """The browser stores the tokens of the newest fifty jobs, the newest first."""
    receipt = await stack.submit(delay_s=3600)
    now = Timestamp.now()
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(50)]
    signer = TokenSigner((stack.folder / "keys" / "token.pem").read_text())
    times: dict[str, Any] = {"kind": "many", "submitted_at": now, "expires_at": now.after(3600)}
    tokens = [signer.sign(Grant(job_id=job_id, **times)) for job_id in ids]  # type: ignore[arg-type]
    await open_with_jobs(page, stack, *tokens)
    await page.evaluate("async (token) => (await import('/assets/history.js')).remember(token)", receipt["token"])
    assert await stored_tokens(page) == [receipt["token"], *tokens[:49]]


async def test_error_of_a_submission_is_shown(page: Page, stack: Stack) -> None:
    """If the submitter starts no job, the page shows the reason, and the button can be used again."""

    async def reject(route: Route) -> None:
        problem = {"status": 503, "code": "unavailable", "detail": "The queue is unavailable; try again."}
        await route.fulfill(status=503, json=problem)

    await page.goto(stack.url)
    await page.route("**/jobs", reject, times=1)
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.get_by_role("alert")).to_have_text("No job was started. The queue is unavailable; try again.")
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text(STARTED)


async def test_lost_answer_starts_no_second_job(page: Page, stack: Stack) -> None:
    """A repeated request is the same job; after it, the same form starts another one."""
    await page.goto(stack.url)
    ids = await lose_first_answer(page, "**/jobs")
    start = page.get_by_role("button", name="Start a new job")
    await start.click()
    await expect(page.get_by_role("alert")).to_contain_text("It is not known whether the job was started.")
    await start.click()
    await page.wait_for_url(f"**/jobs/{ids[0]}*")
    await page.go_back()
    await start.click()
    await page.wait_for_url(lambda url: "/jobs/" in url and len(ids) == 3)
    assert ids[1] == ids[0] != ids[2]


async def test_button_works_without_javascript(stack: Stack, context: BrowserContext) -> None:
    """Without JavaScript the button submits a form and leads to the job's page."""
    browser = context.browser
    assert browser is not None
    async with await browser.new_context(java_script_enabled=False) as context_without_javascript:
        page = await context_without_javascript.new_page()
        await page.goto(stack.url)
        await page.get_by_role("button", name="Start a new job").click()
        await expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}#[\w.-]+$"))


async def test_narrow_screen_does_not_scroll_sideways(page: Page, stack: Stack, report: SendReport) -> None:
    """At a width of 360 px the list fits the screen, however long the texts of a job are."""
    long_text = "W" * 120
    await page.set_viewport_size({"width": 360, "height": 740})
    receipt = await stack.submit(kind=long_text, delay_s=3600)
    await open_with_jobs(page, stack, receipt["token"])
    progress = {"current": 123_456_789_012, "total": 923_456_789_012, "unit": long_text[:32], "message": long_text}
    await report(receipt, "failed", progress=progress, error={"type": long_text, "message": long_text})
    await expect(rows(page).locator("[part=error]")).to_contain_text(long_text)
    assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
