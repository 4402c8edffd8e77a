"""What the dashboard follows with the token of its session: a job and its log, when the notifier refuses the token."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from playwright.async_api import Page, Request, WebSocketRoute, expect

from tests.browser.dashboard import OPERATOR_SCOPE, Dashboard, open_dashboard, resume_session
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

# Record the texts of the page of a job that say that something is wrong.
RECORD_MESSAGES = """() => {
  window.messages = [];
  const shown = () => [...document.querySelectorAll(".job-notice, .log-note, .notice")].filter(({ hidden }) => !hidden);
  const record = () => messages.push(...shown().map(({ textContent }) => textContent).filter(Boolean));
  new MutationObserver(record).observe(document.body, { subtree: true, childList: true, attributes: true });
  record();
}"""


class Wire:
    """The connection of a page to the notifier, which may refuse the tokens of all watches."""

    def __init__(self) -> None:
        self.refuses = False
        self.watches: list[dict[str, Any]] = []  # the requests of the page
        self._socket: WebSocketRoute | None = None

    async def join(self, page: Page) -> None:
        """Stand between the page and the notifier."""
        await page.route_web_socket(re.compile("/live$"), self._on_socket)

    def refuse(self, job_id: str) -> None:
        """Refuse the token of a job's watch."""
        assert self._socket is not None
        error = {"code": "token_expired", "message": "The token has expired.", "job_id": job_id}
        self._socket.send(json.dumps({"error": error}))

    def _on_socket(self, socket: WebSocketRoute) -> None:
        self._socket = socket
        server = socket.connect_to_server()

        def on_message(text: str | bytes) -> None:
            message = json.loads(text)
            if "watch" in message:
                self.watches.append(message)
            if "watch" in message and self.refuses:
                self.refuse(message["job_id"])
            else:
                server.send(text)

        socket.on_message(on_message)


class RunningJob:
    """A job of this test that runs, and its log."""

    def __init__(self, dashboard: Dashboard) -> None:
        self.id = str(uuid.uuid4())
        self.path = f"/jobs/{self.id}"
        self._stack = dashboard.stack
        self._size = 0

    async def start(self) -> None:
        """Report as the worker of the job."""
        assert (await self._stack.report({"id": self.id}))["accepted"]

    async def append(self, text: str) -> None:
        """Append a line to the log."""
        line = f"{text}\n"
        await self._stack.append_log({"id": self.id}, self._size, line, watchers=False)
        self._size += len(line)


@pytest.fixture
async def job(dashboard: Dashboard) -> RunningJob:
    """Return a job that runs and has logged a line."""
    job = RunningJob(dashboard)
    await job.start()
    await job.append("first")
    return job


@pytest.fixture
async def wire(page: Page, dashboard: Dashboard) -> Wire:
    """Return the connection of the page, which goes on with a session that another tab has begun."""
    await resume_session(page, await dashboard.new_token(OPERATOR_SCOPE))
    wire = Wire()
    await wire.join(page)
    return wire


async def test_token_that_expires_while_a_log_is_followed(
    page: Page, dashboard: Dashboard, job: RunningJob, wire: Wire
) -> None:
    """The page gets another token and goes on over the same connection: no line is missing, none is there twice."""
    await open_dashboard(page, dashboard, job.path)
    lines = page.locator(".log-line .log-text")
    await expect(lines).to_have_text(["first"])
    await page.evaluate(RECORD_MESSAGES)
    former = wire.watches[-1]["watch"]
    wire.refuse(job.id)
    await job.append("second")
    await wait_until(lambda: wire.watches[-1]["watch"] != former)
    await job.append("third")
    await expect(lines).to_have_text(["first", "second", "third"])
    assert await page.evaluate("messages") == []
    assert len({request["watch"] for request in wire.watches}) == 2


async def test_log_that_the_token_does_not_open(page: Page, dashboard: Dashboard, job: RunningJob) -> None:
    """The log says so, and goes on saying so when the job changes; the job itself is shown live."""
    await resume_session(page, await dashboard.new_token("list watch"))
    await open_dashboard(page, dashboard, job.path)
    note = page.locator(".log-note")
    await expect(note).to_contain_text("does not open the log")
    await dashboard.stack.report({"id": job.id}, 2, status="succeeded")
    await expect(page.locator(".status.tag")).to_have_text("Succeeded")
    await expect(note).to_contain_text("does not open the log")
    await expect(page.locator(".log-line")).to_have_count(0)


async def test_session_that_ends_while_a_job_is_open(
    page: Page, dashboard: Dashboard, job: RunningJob, wire: Wire
) -> None:
    """The page keeps what it shows, says why it is not live, and asks neither service again and again."""
    await page.clock.install()
    await open_dashboard(page, dashboard, job.path)
    await expect(page.locator(".log-line .log-text")).to_have_text(["first"])
    requests: list[str] = []

    def note(request: Request) -> None:
        requests.append(request.url)

    refusal = {"code": "unauthorized", "detail": "This API key does not exist any more."}
    await page.route("**/tokens", lambda route: route.fulfill(status=401, json=refusal))
    page.on("request", note)
    wire.refuses = True
    wire.refuse(job.id)
    await page.clock.run_for(2500)
    await expect(page.get_by_role("dialog")).to_contain_text("does not exist any more")
    await expect(page.locator(".job-notice")).to_have_text("Your session has ended; sign in again.")
    requests.clear()
    wire.watches.clear()
    await page.clock.run_for(60_000)
    assert [url for url in requests if "/assets/" not in url] == []
    assert len(wire.watches) <= 4  # after a connection that was silent for too long
    await expect(page.locator(".log-line .log-text")).to_have_text(["first"])
