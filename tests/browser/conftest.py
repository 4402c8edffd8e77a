"""Fixtures: a real Chromium, the whole real system behind it, and pages that remember what they have shown."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.stack import JOBS, Stack, running

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 20_000

# Each different state that the job's page shows, and each change of its notice that it reconnects.
RECORD = """
window.renders = [];
window.notices = [];
new MutationObserver(() => {
  const main = document.querySelector("main");
  const notice = document.querySelector("#connection");
  if (notice && notice.hidden === (window.notices.at(-1) ?? false)) window.notices.push(!notice.hidden);
  if (!main?.dataset.version) return;
  const { version, status } = main.dataset;
  const shown = { version: Number(version), status, value: document.querySelector("#bar").value };
  if (JSON.stringify(shown) !== JSON.stringify(window.renders.at(-1))) window.renders.push(shown);
}).observe(document, { subtree: true, childList: true, attributes: true });
"""

Report = Callable[..., Awaitable[None]]

ABORTED = "net::ERR_ABORTED"  # a request whose page was left meanwhile, as for an icon that still loads


class Problems:
    """What goes wrong in a page: console errors and warnings, uncaught exceptions, failed requests."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        page.on("console", lambda told: self.found.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.on("requestfailed", lambda request: self._failed(f"{request.url}: {request.failure}"))
        page.on(
            "response",
            lambda answer: self.found.append(f"{answer.url}: {answer.status}") if answer.status >= 400 else None,
        )

    def _failed(self, told: str) -> None:
        if not told.endswith(ABORTED):
            self.found.append(told)


def forged(token: str) -> str:
    """Return a token that says the same under a signature that is not its own."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Run Chromium for the session: the machine's own, or else Playwright's."""
    expect.set_options(timeout=TIMEOUT_MS)
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=ARGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for one module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("browser"), **env) as stack:
        yield stack


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Open a browser window that nobody has used before."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    context.set_default_timeout(TIMEOUT_MS)
    await context.add_init_script(RECORD)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    """Open a tab."""
    return await context.new_page()


@pytest.fixture
def report(stack: Stack) -> Report:
    """Report as a worker does, on a job that is submitted with a delay, so that no real worker takes it meanwhile."""
    sequence = 0

    async def report(receipt: dict[str, Any], status: str = "running", **fields: Any) -> None:
        nonlocal sequence
        sequence += 1
        verdict = await stack.report(receipt, sequence, status=status, **fields)
        assert verdict["accepted"], verdict

    return report
