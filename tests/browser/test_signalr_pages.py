"""The pages of examples/signalr, served by the commands of its README from another origin than the notifier's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page, Request, expect

from dev.environment import ROOT
from tests.browser.conftest import PageErrors, SendReport, page_value
from tests.browser.npm import PACKAGES
from tests.documents import Document
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S, free_ports, is_listening, wait_until

pytestmark = pytest.mark.browser

EXAMPLE = ROOT / "examples" / "signalr"
README = Document("examples/signalr/README.md")
START, GET_AND_SERVE, CHOOSE_ID, RUN_WORKER, SUBMIT = (text for _, text in README.examples("sh"))
((_, QUERY_WITH_TOKEN),) = README.examples("js")
MIGRATION = Document("docs/migrating-from-signalr.md")
((_, HUBS_TAG),) = MIGRATION.examples("html")
HUB_URL, MIGRATED_QUERY, SHOW_FAILURES = (text for _, text in MIGRATION.examples("js"))
PACKAGES_BY_NAME = {  # those of the README
    "jquery@2.2.4": "jquery-2",
    "signalr@2.2.1": "signalr-2.2.1",
    "@microsoft/signalr@10.0.11": "@microsoft/signalr",
}
# What a browser lacks that has only the transports from this one on. On a busy machine, a client may use a later one.
MISSING: dict[str, tuple[str, ...]] = {
    "WebSockets": (),
    "ServerSentEvents": ("WebSocket",),
    "LongPolling": ("WebSocket", "EventSource"),
}


@pytest.fixture(scope="module")
async def origin() -> str:
    """Choose the origin of the pages."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, origin: str) -> AsyncIterator[Stack]:
    """Run the system with the settings of the README."""
    settings = dict(word.split("=") for word in START.replace("http://127.0.0.1:8000", origin).split()[:-2])
    assert settings.keys() == {"ALLOWED_ORIGINS", "SIGNALR_BY_JOB_ID"}
    async with running(tmp_path_factory.mktemp("system"), GRACE_S="0", DRAIN_S="0", **settings) as stack:
        yield stack


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory, stack: Stack, origin: str) -> AsyncIterator[Path]:
    """Serve the pages as the README says, with the scripts of the installed packages; yield their folder."""
    folder = tmp_path_factory.mktemp("site")
    for page in EXAMPLE.glob("*.html"):
        text = page.read_text()
        assert text.count("http://127.0.0.1:8081") == 1
        (folder / page.name).write_text(text.replace("http://127.0.0.1:8081", stack.env["LIVE_URL"]))
    (folder / "favicon.ico").touch()  # which Chromium asks for
    (folder / "Scripts").mkdir()
    downloads = re.findall(r"^curl .* -o (\S+) \$npm/(@?[^@]+@[^/]+)/(\S+)$", GET_AND_SERVE, re.MULTILINE)
    assert len(downloads) == len(PACKAGES_BY_NAME)
    for target, package, path in downloads:
        installed = PACKAGES / PACKAGES_BY_NAME[package]
        assert json.loads((installed / "package.json").read_text())["version"] == package.rpartition("@")[2]
        shutil.copy(installed / path, folder / target)
    _, *command = shlex.split(GET_AND_SERVE.splitlines()[-1].replace("8000", origin.rpartition(":")[2]))
    with (folder / "access.log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=folder, stderr=log, stdout=log)
    try:
        await wait_until(lambda: is_listening(int(origin.rpartition(":")[2])))
        yield folder
    finally:
        server.terminate()
        await server.wait()


class Traffic:
    """The answered requests of a page's script to the notifier, and the transports in use."""

    def __init__(self, page: Page, stack: Stack) -> None:
        self.answered: list[Request] = []
        self.transports: set[str] = set()
        self._live_url = stack.env["LIVE_URL"]
        page.on("request", self._on_request)
        page.on("requestfinished", self._on_answer)
        page.on("websocket", lambda _socket: self.transports.add("WebSockets"))

    def _on_request(self, request: Request) -> None:
        path = request.url.partition("?")[0].removeprefix(self._live_url)
        if request.resource_type == "eventsource":
            self.transports.add("ServerSentEvents")
        elif path == "/signalr/poll" or (request.method, path) == ("GET", "/hubs/job-progress"):
            self.transports.add("LongPolling")

    def _on_answer(self, request: Request) -> None:
        if request.url.startswith(self._live_url) and request.resource_type in ("xhr", "fetch"):
            self.answered.append(request)

    async def check_credentials(self, origin: str) -> None:
        """Check that each request had the browser's cookies, and that the page was allowed to read the answer."""
        assert self.answered
        for request in self.answered:
            assert (await request.all_headers())["cookie"] == "session=1"
            response = await request.response()
            assert response is not None
            headers = await response.all_headers()
            assert headers["access-control-allow-origin"] == origin
            assert headers["access-control-allow-credentials"] == "true"


async def open_without(context: BrowserContext, origin: str, missing: tuple[str, ...]) -> Page:
    """Open a tab of a browser that lacks some features, and has a cookie of the site's host."""
    await context.add_cookies([{"name": "session", "value": "1", "url": origin}])
    await context.add_init_script("".join(f"delete window.{name};" for name in missing))
    return await context.new_page()


async def start_shell(stack: Stack, command: str) -> asyncio.subprocess.Process:
    """Start a command of the README in the folder of the repository, beside the running system."""
    env = {**os.environ, **stack.env, "HEADWAY_URL": stack.url, "STEP_S": "0.1"}
    return await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", command, cwd=ROOT, env=env, stdout=PIPE
    )


async def output_of(process: asyncio.subprocess.Process) -> str:
    """Wait for the end of a command, which must exit with 0; return its output."""
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0
    return output.decode()


@pytest.mark.parametrize("transport", MISSING)
async def test_page_of_2015_shows_what_a_webjob_reports(
    stack: Stack, site: Path, origin: str, context: BrowserContext, transport: str
) -> None:
    """It is opened before anything is known of the job, and knows its id alone."""
    page = await open_without(context, origin, MISSING[transport])
    traffic = Traffic(page, stack)
    job_id, link = (await output_of(await start_shell(stack, f"{CHOOSE_ID}echo $ID"))).split()[::-1]
    await page.goto(link.replace("http://127.0.0.1:8000", origin))
    await page_value(page, "$.connection.hub.state === $.signalR.connectionState.connected")
    shown = page.locator("#progress")
    await expect(shown).to_have_text("0")
    await output_of(await start_shell(stack, f"ID={job_id}\n{RUN_WORKER}"))
    await expect(shown).to_have_text("100")
    assert transport in traffic.transports
    await traffic.check_credentials(origin)


async def test_page_of_2015_with_a_token(stack: Stack, site: Path, origin: str, page: Page, report: SendReport) -> None:
    """A job whose id is not random is not shown, unless the line with the query has a token, as both documents say."""
    assert QUERY_WITH_TOKEN == MIGRATED_QUERY
    receipt = await stack.submit_persistently("countdown", {}, delay_s=3600)
    assert uuid.UUID(receipt["id"]).version != 4
    text = (site / "JobStatus.html").read_text()
    (line,) = re.findall(r"^ *(\$\.connection\.hub\.qs = .*)\n", text, re.MULTILINE)
    (site / "Token.html").write_text(text.replace(line, QUERY_WITH_TOKEN.replace("@Model.Token", receipt["token"])))
    await page.goto(f"{origin}/JobStatus.html?jobId={receipt['id']}")
    await page_value(page, "$.connection.hub.lastError")
    await page.goto(f"{origin}/Token.html?jobId={receipt['id']}")
    await report(receipt, progress={"current": 40, "total": 100})
    await expect(page.locator("#progress")).to_have_text("40")


async def test_bundled_script_and_failures(
    stack: Stack, site: Path, origin: str, page: Page, report: SendReport
) -> None:
    """A page that bundles the script of the hub names the address; it shows why a job has failed."""
    live_url = stack.env["LIVE_URL"]
    receipt, text = await stack.submit(delay_s=3600), (site / "JobStatus.html").read_text()
    tag = HUBS_TAG.strip().replace("https://live.example.com", live_url)
    async with stack.session.get(f"{live_url}/signalr/hubs") as response:
        text = text.replace(tag, f"<script>{await response.text()}</script>")
    assert tag not in text
    changes = HUB_URL.replace("https://live.example.com", live_url) + SHOW_FAILURES
    (site / "Bundled.html").write_text(text.replace("$.connection.hub.start", f"{changes}$.connection.hub.start"))
    await page.goto(f"{origin}/Bundled.html?jobId={receipt['id']}")
    await report(receipt, "failed", error={"type": "Fail", "message": "The file is empty."})
    await expect(page.locator("#progress")).to_have_text("The file is empty.")


@pytest.mark.parametrize("transport", MISSING)
async def test_page_of_today_shows_a_job(
    stack: Stack, site: Path, origin: str, context: BrowserContext, transport: str
) -> None:
    """It sends the token in a header, which needs a preflight, and shows the job to its end."""
    page = await open_without(context, origin, MISSING[transport])
    errors, traffic = PageErrors(page), Traffic(page, stack)
    submit = SUBMIT.replace('"steps": 50', '"steps": 20, "delay_s": 0.1')
    link = await output_of(await start_shell(stack, submit))
    await page.goto(link.strip().replace("http://127.0.0.1:8000", origin))
    await expect(page.locator("output")).to_have_text("Counted 20 steps")
    assert await page.locator("progress").get_attribute("value") == "100"
    assert transport in traffic.transports
    await traffic.check_credentials(origin)
    assert errors.messages == []


async def test_page_of_today_says_why_it_shows_nothing(site: Path, origin: str, page: Page) -> None:
    """A token that is not valid is refused at the start."""
    await page.goto(f"{origin}/today.html#nonsense")
    await expect(page.locator("output")).to_contain_text("401")


async def test_pages_of_other_origins_get_nothing(stack: Stack, site: Path, origin: str, page: Page) -> None:
    """The same pages under another name of the machine, which is not allowed, cannot connect."""
    receipt = await stack.submit(delay_s=3600)
    other = origin.replace("127.0.0.1", "localhost")
    await page.goto(f"{other}/today.html#{receipt['token']}")
    await expect(page.locator("output")).to_contain_text("Failed to complete negotiation")
    await page.goto(f"{other}/JobStatus.html?jobId={receipt['id']}")
    await page_value(page, "$.connection.hub.lastError && $.connection.hub.state === 4")  # disconnected
