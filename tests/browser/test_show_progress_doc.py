"""The htmx example of docs/show-progress.md, run with htmx. `test_react.py` has the React examples."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser import embedding
from tests.browser.conftest import PageErrors, SendReport
from tests.browser.embedding import code_blocks, fill_in, part, wait_for_watched_jobs
from tests.browser.fake_site import FakeSite
from tests.browser.npm import PACKAGES
from tests.stack import Stack

pytestmark = pytest.mark.browser

sites, stack, allowed_site = embedding.sites, embedding.stack, embedding.allowed_site


@pytest.mark.parametrize("package", ["htmx.org", "htmx.org-2"])
async def test_htmx_inserts_the_element(
    page: Page, stack: Stack, allowed_site: FakeSite, report: SendReport, package: str
) -> None:
    """The element in the response to a button is live; when its job ends, htmx fetches the next fragment once."""
    errors = PageErrors(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
    receipt = await stack.submit(delay_s=3600)
    _, button, fragment = code_blocks("html")
    scripts = f'<script src="/htmx.js"></script><script type="module" src="{stack.url}/assets/headway.js"></script>'
    allowed_site.pages = {
        "/": f"<!doctype html><title>x</title>{scripts}{button}",
        "/htmx.js": (PACKAGES / package / "dist" / "htmx.min.js").read_text(),
        "/exports": fill_in(fragment, stack, receipt["token"]),
        "/exports/march": "<b>Ready</b>",
    }
    await page.goto(allowed_site.origin)
    await page.get_by_role("button", name="Export").click()
    await expect(page.locator("#exports headway-job")).to_contain_text("Export of March")
    await report(receipt, progress={"current": 1, "total": 2})
    await expect(part(page, "percent")).to_have_text("50 %")
    await report(receipt, "succeeded")
    await expect(page.locator("#exports")).to_have_text("Ready")
    await wait_for_watched_jobs(stack, 0)
    exports = f"{allowed_site.origin}/exports"
    assert [request for request in requests if exports in request] == [f"POST {exports}", f"GET {exports}/march"]
    assert errors.messages == []
