"""Fixtures: a real Chromium, the complete system, and pages that record what they have shown."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Route, async_playwright, expect

from tests.browser.dashboard import TRACE_URL, Dashboard, run_dashboard
from tests.browser.live_site import LiveSite, run_live_site
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, free_ports, wait_until

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Parts of the address bar are pages themselves, and a renderer is started for the next page. Each new window does that,
# although nothing needs it, and it takes longer than most pages of the tests. Chromium reads only the last list of
# features, and Playwright sends one.
LAUNCHER = """#!/bin/sh
for argument; do
  shift
  case $argument in
    --disable-features=*) argument=$argument,WebUIOmniboxPopup,WebUIOmniboxAimPopup,SpareRendererForSitePerProcess ;;
  esac
  set -- "$@" "$argument"
done
exec "{executable}" "$@"
"""
LOG = logging.getLogger(__name__)
TIMEOUT_MS = PATIENCE_S * 1000

# Record each state that the job page shows, and each change of its notice that it is reconnecting.
RECORD_RENDERS = """
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

SendReport = Callable[..., Awaitable[None]]

ABORTED = "net::ERR_ABORTED"  # the page was left during the request, for example while its icon was loading


class PageErrors:
    """The errors of a page: console errors and warnings, uncaught exceptions, failed requests."""

    def __init__(self, page: Page) -> None:
        self.messages: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._add(str(error)))
        page.on("requestfailed", lambda request: self._on_request_failed(f"{request.url}: {request.failure}"))
        page.on(
            "response",
            lambda response: self._add(f"{response.url}: {response.status}", failed=response.status >= 400),
        )

    def _on_console(self, line: ConsoleMessage) -> None:
        is_icon = line.location["url"].endswith("/favicon.ico")  # which Chromium looks for if a document names none
        self._add(line.text, failed=line.type in ("error", "warning") and not is_icon)

    def _add(self, message: str, *, failed: bool = True) -> None:
        if failed:
            self.messages.append(message)

    def _on_request_failed(self, message: str) -> None:
        self._add(message, failed=not message.endswith(ABORTED))


async def open_page(page: Page, url: str) -> None:
    """Open a page of a server that is just starting."""

    async def is_open() -> bool:
        try:
            await page.goto(url)
        except Error:  # no server listens yet
            return False
        return True

    await wait_until(is_open)


async def page_value(page: Page, expression: str, argument: Any = None) -> Any:
    """Wait until an expression, or a function of an argument, is truthy in a page; return its value.

    A page's content security policy refuses what `Page.wait_for_function` does from its second look on: to evaluate a
    string within the page.
    """
    return await wait_until(lambda: page.evaluate(expression, argument))


async def lose_first_answer(page: Page, url: str) -> list[str]:
    """Lose the first answer to a submission; return the ids of the jobs in all answers, as they arrive."""
    ids: list[str] = []

    async def pass_on(route: Route) -> None:
        answer = await route.fetch()
        ids.append((await answer.json())["id"])
        if len(ids) == 1:
            await route.abort()
        else:
            await route.fulfill(response=answer)

    await page.route(url, pass_on)
    return ids


def forge_signature(token: str) -> str:
    """Return a token with the same claims and a wrong signature."""
    unsigned, _, signature = token.rpartition(".")
    return f"{unsigned}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def launcher(executable: str, folder: Path) -> Path:
    """Write a script that starts Chromium without features that no test needs; return its path."""
    script = folder / "chromium"
    script.write_text(LAUNCHER.replace("{executable}", executable))
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """Run Chromium for the session: the machine's own if there is one, otherwise Playwright's."""
    expect.set_options(timeout=TIMEOUT_MS)
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    executable = found and launcher(found, tmp_path_factory.mktemp("chromium"))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=ARGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for one module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("browser"), **env) as stack:
        yield stack


@pytest.fixture(scope="session")
async def dashboard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dashboard]:
    """Run a system with an open dashboard and jobs in every state, for all tests of the dashboard."""
    async with run_dashboard(tmp_path_factory.mktemp("dashboard"), TRACE_URL=TRACE_URL) as dashboard:
        yield dashboard


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Open a browser window with empty storage."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light", locale="en-US")
    context.set_default_timeout(TIMEOUT_MS)
    await context.add_init_script(RECORD_RENDERS)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    """Open a tab. What it fails to load is in the output of a failed test."""
    page = await context.new_page()
    page.on(
        "requestfailed",
        lambda request: LOG.warning("not loaded: %s: %s", request.url.partition("?")[0], request.failure),  # no token
    )
    return page


@pytest.fixture
def report(stack: Stack) -> SendReport:
    """Send reports as a worker does, on a job submitted with a delay so that the real worker does not receive it."""
    sequence = 0

    async def send(receipt: dict[str, Any], status: str = "running", **fields: Any) -> None:
        nonlocal sequence
        sequence += 1
        verdict = await stack.report(receipt, sequence, status=status, **fields)
        assert verdict["accepted"], verdict

    return send


@pytest.fixture(scope="module")
async def running_site() -> AsyncIterator[LiveSite]:
    """Run the pages with a notifier that sends the tests' snapshots."""
    async with run_live_site(free_ports(1)[0]) as site:
        yield site


@pytest.fixture
async def site(running_site: LiveSite) -> LiveSite:
    """Return the site, whose notifier answers."""
    running_site.answers = True
    return running_site


@pytest.fixture(scope="module")
async def ports() -> list[int]:
    """Choose the ports of the proxy and the notifier."""
    return free_ports(2)
