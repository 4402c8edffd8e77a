"""The home page: the button, and the live list of the jobs that this browser has started."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Locator, Page, Route, WebSocket, expect

from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from tests.browser.conftest import PageErrors, SendReport
from tests.stack import Stack

pytestmark = pytest.mark.browser


def rows(page: Page) -> Locator:
    """Find the rows of the list."""
    return page.locator("#jobs li")


async def stored(page: Page, stack: Stack, text: str) -> None:
    """Open the home page with this in the browser's storage."""
    store = f"localStorage.getItem('headway-jobs') ?? localStorage.setItem('headway-jobs', {json.dumps(text)})"
    await page.add_init_script(store)
    await page.goto(stack.url)


async def remembering(page: Page, stack: Stack, *tokens: str) -> None:
    """Open the home page as if these jobs had been started there."""
    await stored(page, stack, json.dumps(tokens))


async def remembered(page: Page) -> list[str]:
    """Return the tokens that the browser keeps."""
    kept: list[str] = await page.evaluate("JSON.parse(localStorage.getItem('headway-jobs')) ?? []")
    return kept


async def test_started_job_is_listed(page: Page, stack: Stack) -> None:
    """A job that the button has started is in the list, live to its end, and leads back to its page."""
    errors = PageErrors(page)
    await page.goto(stack.url)
    await expect(page.locator("#started")).to_be_hidden()
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text("Running")
    link = page.url
    await page.go_back()
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page).locator("[part=status]")).to_have_text("Succeeded")
    await rows(page).get_by_role("link", name="countdown").click()
    await expect(page.locator("#status")).to_have_text("Succeeded")
    assert page.url == link
    assert errors.messages == []


async def test_shared_link_is_not_listed(page: Page, stack: Stack) -> None:
    """Whoever only opens a link has not started its job."""
    receipt = await stack.submit(delay_s=3600)
    await page.goto(receipt["links"]["page"])
    await expect(page.locator("#status")).to_have_text("Queued")
    await page.goto(stack.url)
    await expect(page.locator("#started")).to_be_hidden()
    assert await remembered(page) == []


async def test_rows_are_live_over_one_connection(page: Page, stack: Stack, report: SendReport) -> None:
    """Twenty rows show what happens to each, over one socket."""
    errors = PageErrors(page)
    sockets: list[WebSocket] = []
    receipts = [await stack.submit(delay_s=3600) for _ in range(20)]
    page.on("websocket", lambda socket: sockets.append(socket))
    await remembering(page, stack, *(receipt["token"] for receipt in receipts))
    await expect(rows(page).locator("[part=status]")).to_have_text(["Queued"] * 20)
    await report(receipts[3], progress={"current": 1, "total": 4, "message": "Quarter"})
    await expect(rows(page).nth(3).locator("[part=percent]")).to_have_text("25 %")
    await expect(rows(page).nth(3).locator("[part=message]")).to_have_text("Quarter")
    assert len(sockets) == 1
    assert errors.messages == []


async def test_row_cancels_its_job(page: Page, stack: Stack) -> None:
    """A job can be cancelled from the list."""
    receipt = await stack.submit(delay_s=3600)
    await remembering(page, stack, receipt["token"])
    await page.get_by_role("button", name="Cancel").click()
    await expect(rows(page).locator("[part=status]")).to_have_text("Cancelled")


async def test_forgotten_job_is_gone(context: BrowserContext, page: Page, stack: Stack) -> None:
    """*Forget* takes a job out of list and storage, in other tabs too, and leaves the focus on the next."""
    first, second = [(await stack.submit(delay_s=3600))["token"] for _ in range(2)]
    await remembering(page, stack, first, second)
    other = await context.new_page()
    await other.goto(stack.url)
    await expect(rows(other)).to_have_count(2)
    await rows(page).first.get_by_role("button", name="Forget countdown").click()
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page).get_by_role("button", name="Forget countdown")).to_be_focused()
    await expect(rows(other)).to_have_count(1)
    assert await remembered(page) == [second]
    await page.keyboard.press("Enter")
    await expect(page.locator("#started")).to_be_hidden()
    await expect(page.locator("#start")).to_be_focused()
    assert await remembered(page) == []


async def test_what_cannot_be_watched_any_more_drops_out(page: Page, stack: Stack) -> None:
    """Jobs whose time is over are not listed, nor is what is no token; with the next job they leave the storage."""
    receipt = await stack.submit(delay_s=3600)
    now = Timestamp.now()
    past = Grant(job_id=receipt["id"], kind="old", submitted_at=now.after(-7200), expires_at=now.after(-3600))
    expired = TokenSigner((stack.folder / "keys" / "token.pem").read_text()).sign(past)
    await remembering(page, stack, expired, "nonsense", receipt["token"])
    await expect(rows(page)).to_have_count(1)
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text("Succeeded")
    kept = await remembered(page)
    assert len(kept) == 2
    assert kept[1] == receipt["token"]


@pytest.mark.parametrize("text", ["nonsense", '{"a": 1}', "[1, null, {}]", "null"])
async def test_spoilt_storage_is_no_list(page: Page, stack: Stack, text: str) -> None:
    """Whatever is found in the storage, the page works."""
    errors = PageErrors(page)
    await stored(page, stack, text)
    await expect(page.locator("#started")).to_be_hidden()
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text("Succeeded")
    assert len(await remembered(page)) == 1
    assert errors.messages == []


async def test_list_has_an_end(page: Page, stack: Stack) -> None:
    """The browser keeps the tokens of fifty jobs, the newest first."""
    receipt = await stack.submit(delay_s=3600)
    pem = (stack.folder / "keys" / "token.pem").read_text()
    now = Timestamp.now()
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(50)]
    signer = TokenSigner(pem)
    times: dict[str, Any] = {"kind": "many", "submitted_at": now, "expires_at": now.after(3600)}
    tokens = [signer.sign(Grant(job_id=job_id, **times)) for job_id in ids]  # type: ignore[arg-type]
    await remembering(page, stack, *tokens)
    await page.evaluate("async (token) => (await import('/assets/history.js')).remember(token)", receipt["token"])
    assert await remembered(page) == [receipt["token"], *tokens[:49]]


async def test_refusal_is_told_in_place(page: Page, stack: Stack) -> None:
    """When no job is started the page says why, and the button can be pressed again."""

    async def refuse(route: Route) -> None:
        problem = {"status": 503, "code": "unavailable", "detail": "The queue is unavailable; try again."}
        await route.fulfill(status=503, json=problem)

    await page.goto(stack.url)
    await page.route("**/jobs", refuse, times=1)
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.get_by_role("alert")).to_have_text("No job was started. The queue is unavailable; try again.")
    await page.get_by_role("button", name="Start a new job").click()
    await expect(page.locator("#status")).to_have_text("Succeeded")


async def test_button_needs_no_script(stack: Stack, context: BrowserContext) -> None:
    """Without JavaScript the button is a plain form, which leads to the job's page."""
    browser = context.browser
    assert browser is not None
    async with await browser.new_context(java_script_enabled=False) as plain:
        page = await plain.new_page()
        await page.goto(stack.url)
        await page.get_by_role("button", name="Start a new job").click()
        await expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}#[\w.-]+$"))


async def test_narrow_screen_needs_no_sideways_scrolling(page: Page, stack: Stack, report: SendReport) -> None:
    """At 360 px the list is no wider than the screen, whatever a worker writes."""
    long = "W" * 120
    await page.set_viewport_size({"width": 360, "height": 740})
    receipt = await stack.submit(kind=long, delay_s=3600)
    await remembering(page, stack, receipt["token"])
    progress = {"current": 123_456_789_012, "total": 923_456_789_012, "unit": long[:32], "message": long}
    await report(receipt, "failed", progress=progress, error={"type": long, "message": long})
    await expect(rows(page).locator("[part=error]")).to_contain_text(long)
    assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
