"""The examples of docs/show-progress.md with htmx, with `watchJob`, and without Headway's script.

`test_element.py` has the examples in a plain page, and `test_react.py` those with React.
"""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser import embedding
from tests.browser.conftest import PageErrors, SendReport
from tests.browser.embedding import code_blocks, fill_in, part, wait_for_watched_jobs
from tests.browser.fake_site import FakeSite
from tests.browser.npm import PACKAGES
from tests.stack import Stack, running
from tests.waiting import free_ports, is_listening, wait_until

pytestmark = pytest.mark.browser

sites, stack, allowed_site = embedding.sites, embedding.stack, embedding.allowed_site

_, WATCH_JOB, SHOW_LOG, _, EVENT_SOURCE, WEBSOCKET = code_blocks("js")
TRANSPORTS = {"stream": EVENT_SOURCE, "socket": WEBSOCKET}

# A function with the names that an example uses; `show` records the snapshots.
WRAPPER = """({{ links, token }}) => {{
  window.snapshots = [];
  const show = (job) => window.snapshots.push(job);
  {example}
}}"""


@pytest.mark.parametrize("package", ["htmx.org", "htmx.org-2"])
async def test_htmx_inserts_the_element(
    page: Page, stack: Stack, allowed_site: FakeSite, report: SendReport, package: str
) -> None:
    """The element in the response to a button is live; when its job ends, htmx fetches the next fragment once."""
    errors = PageErrors(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
    receipt = await stack.submit(delay_s=3600)
    _, _, button, fragment = code_blocks("html")
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


async def test_page_is_served_as_documented(page: Page, tmp_path: Path) -> None:
    """The two commands run the system and serve the plain page, which shows its job."""
    (commands,) = code_blocks("text")
    (port,) = free_ports(1)
    start_system, serve = commands.replace("8500", str(port)).splitlines()
    variable, _, origin = start_system.removesuffix(" make up").partition("=")
    async with running(tmp_path / "state", GRACE_S="0", DRAIN_S="0", **{variable: origin}) as stack:
        receipt = await stack.submit(payload={"steps": 2, "delay_s": 0.1})
        html, *_ = code_blocks("html")
        (tmp_path / "index.html").write_text(fill_in(html, stack, receipt["token"]))
        server = await asyncio.create_subprocess_exec(*shlex.split(serve, comments=True), cwd=tmp_path)
        try:
            await wait_until(lambda: is_listening(port))
            await page.goto(origin)
            await expect(part(page, "status")).to_have_text("Succeeded")
        finally:
            server.terminate()
            await server.wait()


async def test_watch_job_moves_a_bar(page: Page, stack: Stack, allowed_site: FakeSite, report: SendReport) -> None:
    """A page of another site moves its bar with the job, and shows the result at its end."""
    errors = PageErrors(page)
    receipt = await stack.submit(delay_s=3600)
    script = f'<script type="module">{fill_in(WATCH_JOB, stack, receipt["token"])}</script>'
    allowed_site.pages = {"/": f"<!doctype html><title>x</title><progress max=100></progress>{script}"}
    await page.goto(allowed_site.origin)
    bar = page.locator("progress")
    await report(receipt, progress={"current": 1, "total": 2})
    await expect(bar).to_have_js_property("value", 50)
    await expect(bar).not_to_have_class("stale")
    await report(receipt, "succeeded", result="42")
    await expect(page.locator("body")).to_have_text("Ready: 42")
    assert errors.messages == []


async def test_watch_job_shows_a_log(page: Page, stack: Stack, allowed_site: FakeSite, report: SendReport) -> None:
    """The example appends each piece as text."""
    errors = PageErrors(page)
    receipt = await stack.submit(delay_s=3600)
    script = f'<script type="module">{fill_in(SHOW_LOG, stack, receipt["token"])}</script>'
    allowed_site.pages = {"/": f"<!doctype html><title>x</title><pre></pre>{script}"}
    await page.goto(allowed_site.origin)
    await report(receipt)
    await stack.append_log(receipt, 0, "<b>one</b>\n")
    await report(receipt, "succeeded")
    await stack.append_log(receipt, 11, "two\n")
    await expect(page.locator("pre.ended")).to_have_text("<b>one</b>\ntwo\n")
    assert errors.messages == []


async def test_watch_job_explains_an_error(page: Page, stack: Stack, allowed_site: FakeSite) -> None:
    """The example shows why a job cannot be watched."""
    script = f'<script type="module">{fill_in(WATCH_JOB, stack, "nonsense")}</script>'
    allowed_site.pages = {"/": f"<!doctype html><title>x</title><progress max=100></progress>{script}"}
    await page.goto(allowed_site.origin)
    await expect(page.locator("body")).to_contain_text("token")


# Connections that open, and then receive nothing, as behind a proxy whose server is frozen.
SILENT_CONNECTIONS = """() => {
  window.opened = 0;
  class Silent extends EventTarget {
    constructor() {
      super();
      window.opened++;
      setTimeout(() => this.onmessage?.({ data: '{"hello":{"now":"2026-01-01T00:00:00.000Z","silence_s":50}}' }));
    }
    send() {}
    close() {}
  }
  window.WebSocket = window.EventSource = Silent;
}"""


@pytest.mark.parametrize("example", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_page_without_the_script_notices_silence(page: Page, example: str) -> None:
    """The example opens another connection when the server has been silent for too long, again and again."""
    await page.clock.install()
    await page.evaluate(SILENT_CONNECTIONS)
    links = {"events": "https://jobs.example/events", "socket": "wss://jobs.example/live"}
    await page.evaluate(WRAPPER.format(example=example), {"links": links, "token": "t"})
    await page.clock.run_for(45_000)
    assert await page.evaluate("opened") == 1
    await page.clock.run_for(3 * 65_000)
    assert await page.evaluate("opened") > 2


async def start(page: Page, stack: Stack, example: str) -> None:
    """Submit a job and run an example for it in the submitter's home page."""
    receipt = await stack.submit(payload={"steps": 20, "delay_s": 0.2})
    await page.goto(stack.url)
    await page.evaluate(WRAPPER.format(example=example), {name: receipt[name] for name in ("links", "token")})


async def wait_for_status(page: Page, *statuses: str) -> list[dict[str, Any]]:
    """Wait until the last snapshot has one of these statuses; return all snapshots."""

    async def reached() -> list[dict[str, Any]]:
        snapshots: list[dict[str, Any]] = await page.evaluate("snapshots")
        return snapshots if snapshots and snapshots[-1]["status"] in statuses else []

    snapshots: list[dict[str, Any]] = await wait_until(reached)
    return snapshots


@pytest.mark.parametrize("example", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_page_without_the_script_shows_each_snapshot(page: Page, stack: Stack, example: str) -> None:
    """The example follows a job until it succeeds, without errors in the page."""
    errors = PageErrors(page)
    await start(page, stack, example)
    snapshots = await wait_for_status(page, "succeeded")
    versions = [snapshot["version"] for snapshot in snapshots]
    assert versions == sorted(set(versions))
    assert len(versions) > 2
    assert errors.messages == []


@pytest.mark.parametrize("example", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_page_without_the_script_reconnects(page: Page, stack: Stack, example: str) -> None:
    """The example receives the outcome although the notifier is killed while the job runs."""
    await start(page, stack, example)
    await wait_for_status(page, "running")
    await stack.kill("notifier")
    versions = [snapshot["version"] for snapshot in await wait_for_status(page, "succeeded")]
    assert versions == sorted(set(versions))
