"""The frame of the dashboard: the session, the views and their URLs, the search, the help, and what the page loads."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.dashboard import Dashboard

pytestmark = pytest.mark.browser


async def test_opens_without_a_key(page: Page, dashboard: Dashboard) -> None:
    """Where the submitter is open, the dashboard opens without a key."""
    await page.goto(dashboard.url())
    await expect(page.locator(".live")).to_have_text("Live")
    names = {job["job"]["name"] for job in (await dashboard.live("/live/jobs?limit=200"))["jobs"]}
    assert names == set(dashboard.jobs)
