"""The React bindings in server-rendered pages, with the React examples of docs/show-progress.md."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser import embedding
from tests.browser.conftest import PageErrors, SendReport, forge_signature
from tests.browser.embedding import code_blocks, fill_in, part, sign_list_token, wait_for_watched_jobs
from tests.browser.fake_site import FakeSite
from tests.browser.npm import build, build_server, create_react_app, render
from tests.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

sites, stack, allowed_site = embedding.sites, embedding.stack, embedding.allowed_site

# Record each text that the page shows.
RECORD_TEXTS = """
window.texts = [];
new MutationObserver(() => texts.push(document.querySelector("main").textContent))
  .observe(document.querySelector("main"), { subtree: true, childList: true, characterData: true });
"""

# React's development version runs the effects of StrictMode twice and reports what differs from the server.
MODES = ("production", "development")

OpenScene = Callable[[str, str], Awaitable[None]]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Path:
    """Build the application for the server and, in each mode, for the browser; return its folder."""
    examples = [fill_in(example, stack) for example in code_blocks("tsx")]
    app = create_react_app(tmp_path_factory.mktemp("react"), *examples)
    build_server(app)
    for mode in MODES:
        build(app, mode)
    return app


@pytest.fixture(params=MODES)
async def open_scene(
    request: pytest.FixtureRequest,
    app: Path,
    page: Page,
    allowed_site: FakeSite,
    stack: Stack,
) -> AsyncIterator[OpenScene]:
    """Return a function that opens a page which the server has rendered; the page must cause no errors."""
    folder = app / "dist" / request.param
    scripts = {f"/{path.relative_to(folder)}": path.read_text() for path in folder.rglob("*.js")}
    errors = PageErrors(page)

    async def open_scene(view: str, token: str) -> None:
        scene = json.dumps({"view": view, "token": token, "url": stack.env["LIVE_URL"]})
        html = (folder / "index.html").read_text().replace("/* scene */", scene)
        allowed_site.pages = {**scripts, "/": html.replace("<!-- rendered -->", render(app, scene))}
        await page.goto(allowed_site.origin)

    yield open_scene
    assert errors.messages == []


async def hydrate(page: Page) -> None:
    """Hydrate the scene that the server has rendered."""
    await page.evaluate("hydrate()")


async def show(page: Page, **changes: Any) -> None:
    """Render the scene with changes."""
    await page.evaluate("(changes) => show(changes)", changes)


async def wait_for_callbacks(page: Page, *expected: list[str]) -> None:
    """Wait until the component has called these callbacks, with these statuses or codes, and no others."""

    async def received() -> bool:
        return len(await page.evaluate("received")) >= len(expected)

    await wait_until(received)
    assert await page.evaluate("received") == list(expected)


async def test_callbacks_work_after_hydration(
    open_scene: OpenScene, page: Page, stack: Stack, report: SendReport
) -> None:
    """A component that React hydrates calls its callbacks with each newer state, and defines the element itself."""
    receipt = await stack.submit_recorded()
    await open_scene("callbacks", receipt["token"])
    assert await page.evaluate("customElements.get('headway-job') === undefined")
    await hydrate(page)
    calls = [["onChange", "queued"]]
    await wait_for_callbacks(page, *calls)
    await report(receipt)
    calls.append(["onChange", "running"])
    await wait_for_callbacks(page, *calls)
    await report(receipt, "succeeded")
    calls += [["onChange", "succeeded"], ["onEnd", "succeeded"]]
    await wait_for_callbacks(page, *calls)
    assert await page.evaluate("element === document.querySelector('headway-job.export')")


async def test_events_before_hydration_are_not_lost(
    open_scene: OpenScene, page: Page, stack: Stack, report: SendReport
) -> None:
    """A component calls its callbacks with the state that the element reached before React hydrated it, once."""
    receipt, second = [await stack.submit_recorded() for _ in range(2)]
    await open_scene("callbacks", receipt["token"])
    await page.evaluate("importElement()")
    await report(receipt, "succeeded")
    await expect(part(page, "status")).to_have_text("Succeeded")
    await hydrate(page)
    calls = [["onChange", "succeeded"], ["onEnd", "succeeded"]]
    await wait_for_callbacks(page, *calls)
    await show(page, token=second["token"])
    await wait_for_callbacks(page, *calls, ["onChange", "queued"])


async def test_error_before_hydration_is_not_lost(open_scene: OpenScene, page: Page, stack: Stack) -> None:
    """A component calls `onError` with the element's error, also if the error is older than the hydration."""
    receipt = await stack.submit_recorded()
    await open_scene("callbacks", forge_signature(receipt["token"]))
    await page.evaluate("importAll()")
    await expect(part(page, "error")).not_to_be_empty()
    await hydrate(page)
    await wait_for_callbacks(page, ["onError", "invalid_token"])
    await show(page, token=None)
    await wait_for_callbacks(page, ["onError", "invalid_token"], ["onError", "no_token"])


async def test_component_receives_the_snapshot_that_the_page_has(
    open_scene: OpenScene, page: Page, stack: Stack
) -> None:
    """A component calls `onChange` for a job that the page already watches, without waiting for a newer snapshot."""
    receipt = await stack.submit_recorded()
    await open_scene("callbacks", receipt["token"])
    await page.evaluate("new Promise((resolve) => watchJob(scene, resolve))")
    await hydrate(page)
    await wait_for_callbacks(page, ["onChange", "queued"])


async def test_component_of_the_document_shows_the_job(
    open_scene: OpenScene, page: Page, stack: Stack, report: SendReport
) -> None:
    """The example links to the result; another token shows another job, and no token closes the connection."""
    first, second = [await stack.submit_recorded() for _ in range(2)]
    link = page.get_by_role("link", name="Download")
    await open_scene("component", first["token"])
    await hydrate(page)
    await report(first, progress={"current": 1, "total": 2})
    await expect(page.get_by_role("progressbar", name="Export of March")).to_have_attribute("aria-valuenow", "50")
    await expect(link).to_have_count(0)
    await report(first, "succeeded", result={"link": "/march.csv"})
    await expect(link).to_have_attribute("href", "/march.csv")
    await show(page, token=second["token"])
    await expect(part(page, "status")).to_have_text("Queued")
    await expect(link).to_have_count(0)
    await wait_for_watched_jobs(stack, 1)
    await show(page, token=None)
    await wait_for_watched_jobs(stack, 0)


async def test_hook_of_the_document_follows_the_job(
    open_scene: OpenScene, page: Page, stack: Stack, report: SendReport
) -> None:
    """The hook returns each status; a new token closes the old watch, and unmounting closes the last one."""
    first, second = [await stack.submit_recorded() for _ in range(2)]
    status = page.locator("output")
    await open_scene("hook", first["token"])
    await expect(page.get_by_text("Connecting…")).to_be_visible()
    await hydrate(page)
    for next_status in ("running", "retrying", "succeeded"):
        await report(first, next_status)
        await expect(status).to_have_text(next_status)
    await show(page, token=second["token"])
    await expect(status).to_have_text("queued")
    await wait_for_watched_jobs(stack, 1)
    await show(page, token="nonsense")
    await expect(page.get_by_role("alert")).to_have_text("This is not a watch token.")
    await wait_for_watched_jobs(stack, 0)
    await show(page, token=second["token"])
    await expect(status).to_have_text("queued")
    await page.get_by_role("button", name="Cancel").click()
    await expect(status).to_have_text("cancelled")
    await show(page, view="component", token=None)
    await wait_for_watched_jobs(stack, 0)


async def test_hook_keeps_the_snapshot_of_a_job_with_a_new_token(
    open_scene: OpenScene, page: Page, stack: Stack, report: SendReport
) -> None:
    """A renewed token does not clear the state; a token of another job never shows the state of the old one."""
    first, second = [await stack.submit_recorded() for _ in range(2)]
    url, headers = f"{stack.url}/jobs/{first['id']}/token", {"Authorization": f"Bearer {first['token']}"}
    async with stack.session.post(url, json={"scope": "watch"}, headers=headers) as response:
        renewed = (await response.json())["token"]
    await report(first)
    await open_scene("hook", first["token"])
    await hydrate(page)
    await expect(page.locator("output")).to_have_text("running")
    await page.evaluate(RECORD_TEXTS)
    await show(page, token=renewed)
    await report(first, "retrying")
    await expect(page.locator("output")).to_have_text("retrying")
    await show(page, token=second["token"])
    await expect(page.locator("output")).to_have_text("queued")
    texts = await page.evaluate("texts")
    assert [text.split()[0] for text in texts] == ["retrying", "Connecting…", "queued"]


async def test_hook_for_lists_of_the_document_follows_the_list(
    open_scene: OpenScene, page: Page, stack: Stack, allowed_site: FakeSite
) -> None:
    """The hook gets a token from the site, and returns the jobs of its owner; unmounting closes the list."""
    owner = f"ada-{uuid.uuid4()}"
    receipts = [{"id": str(uuid.uuid4())} for _ in range(2)]
    await open_scene("list", "")
    await expect(page.get_by_text("Loading…")).to_be_visible()
    allowed_site.pages["/jobs-token"] = json.dumps({"token": sign_list_token(stack, owner)})
    await hydrate(page)
    for number, receipt in enumerate(receipts):
        await stack.record_submission(receipt, labels={"name": f"Export {number}", "owner": owner})
    await expect(page.get_by_role("listitem")).to_have_text(["Export 1: queued", "Export 0: queued"])
    await stack.report(receipts[0])
    await expect(page.get_by_role("listitem")).to_have_text(["Export 1: queued", "Export 0: running"])
    await wait_for_watched_jobs(stack, 2)
    await show(page, view="component", token=None)
    await wait_for_watched_jobs(stack, 0)
