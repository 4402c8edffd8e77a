"""The browser examples of docs/http-api.md, run unchanged in a page."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.conftest import PageErrors
from tests.documents import Document
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

STREAM, SOCKET = [example.text for example in Document("docs/http-api.md").examples("js")]
EXAMPLES = {"stream": STREAM, "socket": f"{SOCKET}\nwatch(socket, token, show);"}

# A function with the names that an example uses; `show` records the snapshots.
WRAPPER = """({{ live, socket, id, token }}) => {{
  window.snapshots = [];
  const show = (job) => window.snapshots.push(job);
  {example}
}}"""


async def start(page: Page, stack: Stack, example: str) -> None:
    """Submit a job and run an example for it in the submitter's home page."""
    receipt = await stack.submit(payload={"steps": 20, "delay_s": 0.2})
    await page.goto(stack.url)
    links = {"live": f"{stack.env['LIVE_URL']}/live", "socket": receipt["links"]["socket"]}
    await page.evaluate(WRAPPER.format(example=example), {**links, "id": receipt["id"], "token": receipt["token"]})


async def wait_for_status(page: Page, *statuses: str) -> list[dict[str, Any]]:
    """Wait until the last snapshot has one of these statuses; return all snapshots."""

    async def reached() -> list[dict[str, Any]]:
        snapshots: list[dict[str, Any]] = await page.evaluate("snapshots")
        return snapshots if snapshots and snapshots[-1]["status"] in statuses else []

    snapshots: list[dict[str, Any]] = await wait_until(reached)
    return snapshots


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
async def test_example_shows_each_newer_snapshot(page: Page, stack: Stack, example: str) -> None:
    """The example follows a job until it succeeds, without errors in the page."""
    errors = PageErrors(page)
    await start(page, stack, example)
    snapshots = await wait_for_status(page, "succeeded")
    versions = [snapshot["version"] for snapshot in snapshots]
    assert versions == sorted(set(versions))
    assert len(versions) > 3
    assert errors.messages == []


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
async def test_example_reconnects(page: Page, stack: Stack, example: str) -> None:
    """The example receives the outcome although the notifier is killed while the job runs."""
    await start(page, stack, example)
    await wait_for_status(page, "running")
    await stack.kill("notifier")
    versions = [snapshot["version"] for snapshot in await wait_for_status(page, "succeeded")]
    assert versions == sorted(set(versions))
