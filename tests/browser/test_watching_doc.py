"""The browser examples of docs/watching.md, run as they stand there in a page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Page

from dev.environment import ROOT
from tests.browser.conftest import PageErrors
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

DOC = (ROOT / "docs" / "watching.md").read_text()
STREAM, SOCKET = re.findall(r"^```js\n(.*?)^```$", DOC, re.DOTALL | re.MULTILINE)
EXAMPLES = {"stream": STREAM, "socket": f"{SOCKET}\nwatch(socket, token, show);"}

# What the examples expect to be there, and what stays behind of them.
AROUND = """({{ live, socket, id, token }}) => {{
  window.shown = [];
  const show = (job) => window.shown.push(job);
  {example}
}}"""


async def start(page: Page, stack: Stack, example: str) -> None:
    """Submit a job and run an example for it in a page of the submitter."""
    receipt = await stack.submit(payload={"steps": 20, "delay_s": 0.2})
    await page.goto(stack.url)
    links = {"live": f"{stack.env['LIVE_URL']}/live", "socket": receipt["links"]["socket"]}
    await page.evaluate(AROUND.format(example=example), {**links, "id": receipt["id"], "token": receipt["token"]})


async def shown(page: Page, *statuses: str) -> list[dict[str, Any]]:
    """Wait until a snapshot with one of these is shown; return all."""

    async def seen() -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = await page.evaluate("shown")
        return jobs if jobs and jobs[-1]["status"] in statuses else []

    jobs: list[dict[str, Any]] = await wait_until(seen)
    return jobs


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
async def test_an_example_shows_the_job_to_its_end(page: Page, stack: Stack, example: str) -> None:
    """Each newer snapshot is shown, and nothing goes wrong; that a stream is closed counts as aborted."""
    errors = PageErrors(page)
    await start(page, stack, example)
    jobs = await shown(page, "succeeded")
    versions = [job["version"] for job in jobs]
    assert versions == sorted(set(versions))
    assert len(versions) > 3
    assert errors.messages == []


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
async def test_an_example_reconnects(page: Page, stack: Stack, example: str) -> None:
    """The notifier is killed while the job runs, and the example sees the rest."""
    await start(page, stack, example)
    await shown(page, "running")
    await stack.kill("notifier")
    versions = [job["version"] for job in await shown(page, "succeeded")]
    assert versions == sorted(set(versions))
