"""The applications of docs/add-to-your-app.md: FastAPI and Django as a user runs them, and the React component."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from dev.environment import ROOT
from headway.client import Client
from tests.browser import embedding, new_user
from tests.browser.conftest import TIMEOUT_MS, PageErrors, SendReport, open_page
from tests.browser.fake_site import FakeSite
from tests.browser.new_user import Machine
from tests.browser.npm import PACKAGES, build, install_client, run_node
from tests.documents import Document
from tests.stack import Stack
from tests.terminal import Terminal
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.browser

sites, stack, allowed_site = embedding.sites, embedding.stack, embedding.allowed_site

DOC = Document("docs/add-to-your-app.md")
(SERVE_FASTAPI, SERVE_DJANGO) = (example.text for example in DOC.examples("sh"))
(COMPONENT,) = (example.text for example in DOC.examples("tsx"))
NO_MAILINGS = "You have sent no mailings yet."
STATUS = "[part=status]"
MAIN = 'import { createRoot } from "react-dom/client";\nimport { Mailings } from "./Mailings";\n'
MAIN += 'createRoot(document.querySelector("main")!).render(<Mailings />);\n'
HTML = '<!doctype html><title>x</title><script type="module" src="/src/main.tsx"></script><main></main>'


class App(NamedTuple):
    """A running application of a user."""

    url: str
    folder: Path


@asynccontextmanager
async def followed_get_started(folder: Path, stores: Mapping[str, str]) -> AsyncIterator[tuple[Machine, Terminal]]:
    """Follow docs/get-started.md up to the start of the services; yield the machine and its first terminal."""
    machine = Machine(folder, stores)
    machine.letters.mkdir()
    (machine.letters / "jobs.py").write_text(new_user.JOBS)
    shutil.copy(ROOT / "examples/app/.env", machine.letters)
    machine.localize_settings()
    async with machine.installed_terminal("services") as terminal:
        await terminal.run(new_user.START)
        await wait_until(lambda: terminal.log.read_text().count("service_started") == 3)
        yield machine, terminal


async def send(page: Page, title: str, readers: int = 15) -> Locator:
    """Start a mailing and return its row."""
    await page.get_by_label("Title").fill(title)
    await page.get_by_label("Readers").fill("\n".join(f"Reader {number}" for number in range(readers)))
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_label("Title")).to_have_value("")
    return page.locator("headway-jobs [part~=row]").filter(has_text=title)


@pytest.fixture(scope="module")
async def fastapi(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """Run the FastAPI application for this module."""
    *prepare, serve = SERVE_FASTAPI.splitlines()
    async with (
        followed_get_started(tmp_path_factory.mktemp("fastapi"), stores) as (machine, _),
        machine.installed_terminal("app") as terminal,
    ):
        await terminal.run("\n".join(prepare))
        page = machine.letters / "index.html"
        page.write_text(machine.localize(page.read_text()))
        await terminal.run(f"{machine.localize(serve)} &")
        yield App(machine.url(new_user.APP_PORT), machine.letters)


@asynccontextmanager
async def logged_in(browser: Browser, username: str, password: str) -> AsyncIterator[BrowserContext]:
    """Open a window of a user of the FastAPI application."""
    context = await browser.new_context(http_credentials={"username": username, "password": password})
    context.set_default_timeout(TIMEOUT_MS)
    yield context
    await context.close()


async def test_fastapi_shows_users_their_jobs(browser: Browser, fastapi: App) -> None:
    """A user sees the bar of a mailing, also after a reload; another user sees none, and cannot open the user's."""
    async with logged_in(browser, "ada", "engine") as ada, logged_in(browser, "ben", "kite") as ben:
        page, other = await ada.new_page(), await ben.new_page()
        await open_page(page, fastapi.url)
        errors = PageErrors(page)
        job = await send(page, "News of March")
        await expect(job.locator(STATUS)).to_have_text("Running")
        await page.reload()
        await expect(job.locator(STATUS)).to_have_text("Succeeded")
        assert errors.messages == []
        await other.goto(fastapi.url)
        await expect(other.get_by_text(NO_MAILINGS)).to_be_visible()
        link = await job.get_by_role("link").get_attribute("href")
        assert (await ben.request.get(f"{fastapi.url}{link}", max_redirects=0)).status == 403


async def test_fastapi_explains_why_a_mailing_is_not_sent(browser: Browser, fastapi: App) -> None:
    """Empty lines are left out; the form keeps a refused mailing, and shows why."""
    async with logged_in(browser, "ada", "engine") as ada:
        page = await ada.new_page()
        await open_page(page, fastapi.url)
        await page.get_by_label("Readers").fill("Ada\n\n \n")
        for title, problem in ((" ", "Please enter a title and up to 100 readers."), ("Ma\x85rch", "name")):
            await page.get_by_label("Title").fill(title)
            await page.get_by_role("button", name="Send").click()
            await expect(page.locator("output[name=problem]")).to_contain_text(problem)
            await expect(page.get_by_role("button", name="Send")).to_be_enabled()
        job = await send(page, "News of May", readers=1)
        await expect(job.locator(STATUS)).to_have_text("Succeeded")
        for mailing in ({"title": "May", "to": []}, {"title": "May", "to": [" "]}, {"title": "May", "to": ["a"] * 101}):
            assert (await ada.request.post(f"{fastapi.url}/mailings", data=mailing)).status == 422


async def test_fastapi_shares_a_page_that_cannot_cancel(browser: Browser, fastapi: App) -> None:
    """The title of a mailing leads to the job's page without a button to cancel it; the list has the button."""
    async with logged_in(browser, "ada", "engine") as ada:
        page = await ada.new_page()
        await open_page(page, fastapi.url)
        job = await send(page, "News of April", readers=50)
        await expect(job.locator(STATUS)).to_have_text("Running")
        link = await job.get_by_role("link").get_attribute("href")
        shared = await ada.new_page()
        await shared.goto(f"{fastapi.url}{link}")
        await expect(shared.locator("#status")).to_have_text("Running")
        await expect(shared.get_by_role("heading", name="News of April")).to_be_visible()
        await expect(shared.get_by_role("button", name="Cancel job")).to_be_hidden()
        await job.get_by_role("button", name="Cancel").click()
        await expect(shared.locator("#status")).to_have_text("Cancelled")


async def test_fastapi_requires_the_password(browser: Browser, fastapi: App) -> None:
    """A wrong password and an unknown user get 401."""
    for username, password in (("ada", "kite"), ("eve", "")):
        async with logged_in(browser, username, password) as context:
            await open_page(await context.new_page(), fastapi.url)
            assert (await context.request.get(f"{fastapi.url}/jobs-token")).status == 401


async def test_django_shows_users_their_jobs(page: Page, stores: dict[str, str], tmp_path: Path) -> None:
    """After the migration and the login, a user sees the bar of a mailing, also after a reload."""
    stop_worker, *commands = SERVE_DJANGO.splitlines()
    async with followed_get_started(tmp_path, stores) as (machine, terminal):
        await terminal.run(f"{stop_worker}\nwait '%?worker'")  # a user is slow enough for the port to be free again
        await terminal.run(machine.localize("\n".join(commands)) + " &", timeout_s=PATIENCE_S)
        await open_page(page, machine.url(new_user.APP_PORT))
        errors = PageErrors(page)
        await page.get_by_label("Username").fill("ada")
        await page.get_by_label("Password").fill("engine")
        await page.get_by_role("button", name="Log in").click()
        job = await send(page, "News of March")
        await expect(job.locator(STATUS)).to_have_text("Running")
        await page.reload()
        await expect(job.locator(STATUS)).to_have_text("Succeeded")
        await expect(job.locator("[part=percent]")).to_have_text("100 %")
        assert errors.messages == []
        await page.context.clear_cookies()
        response = await page.request.get(machine.url(f"{new_user.APP_PORT}/jobs-token"))
        assert response.status == 401


@pytest.fixture
def react_app(tmp_path: Path, stack: Stack) -> Path:
    """Create an application from the component of the page, and return its folder."""
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    app = tmp_path / "app"
    (app / "src").mkdir(parents=True)
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(Path(__file__).parent / "react_app" / name, app)
    (app / "index.html").write_text(HTML)
    (app / "src/main.tsx").write_text(MAIN)
    (app / "src/Mailings.tsx").write_text(COMPONENT.replace("http://127.0.0.1:8081", stack.env["LIVE_URL"]))
    install_client(app)
    return app


async def test_react_shows_the_list(
    page: Page, react_app: Path, stack: Stack, allowed_site: FakeSite, report: SendReport
) -> None:
    """The component fetches a list token and shows the jobs of its owner only; a click cancels a job."""
    typed = run_node(react_app, PACKAGES / "typescript" / "bin" / "tsc")
    assert typed.stdout + typed.stderr == ""
    assert build(react_app, "production") == ""
    folder = react_app / "dist" / "production"
    names = ("March", "April")
    first, _ = [await stack.submit(delay_s=3600, name=name, owner="user:7") for name in names]
    await stack.submit(delay_s=3600, name="May", owner="user:8")
    async with Client(stack.url) as client:
        token = (await client.list_token(owner="user:7")).token
    scripts = {f"/{path.relative_to(folder)}": path.read_text() for path in folder.rglob("*.js")}
    allowed_site.pages = {
        **scripts,
        "/": (folder / "index.html").read_text(),
        "/jobs-token": json.dumps({"token": token}),
    }
    errors = PageErrors(page)
    await page.goto(allowed_site.origin)
    items = [page.get_by_role("listitem").filter(has_text=name) for name in names]
    await report(first, progress={"current": 1, "total": 4})
    await expect(items[0].get_by_role("progressbar")).to_have_attribute("value", "25")
    await expect(items[0].locator("output")).to_have_text("running")
    await items[1].get_by_role("button", name="Cancel").click()
    await expect(items[1].locator("output")).to_have_text("cancelled")
    await expect(items[1].get_by_role("button")).to_have_count(0)
    await expect(page.get_by_role("listitem")).to_have_count(2)
    assert errors.messages == []
