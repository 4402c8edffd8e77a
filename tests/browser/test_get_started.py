"""The page docs/get-started.md, followed from an empty folder to a bar in a browser, with and without Docker."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from dev.environment import ROOT
from tests.browser.conftest import PageErrors, open_page
from tests.browser.embedding import part
from tests.documents import Document
from tests.integration.test_one_job import run_to_end
from tests.stack import running
from tests.terminal import Terminal, open_terminal
from tests.waiting import free_ports

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]  # for the installation on a busy machine

DOC = Document("docs/get-started.md")
JOBS, APP = (example.text for example in DOC.examples("python"))
INSTALL, START, RUN, SUBMIT, SERVE, KILL, RESTART, STOP, WITHOUT_DOCKER = (
    example.text for example in DOC.examples("sh")
)
PORTS = ("8000", "8080", "8081", "9190", "9191", "9192")
MORE_SETTINGS = "SUBMITTER_PORT=8080\nNOTIFIER_PORT=8081\nQUEUE_NAME=get-started\n"  # without them, the defaults
PINNED = re.compile(r"^[\w.-]+==[^\\\n]+", re.MULTILINE)
PROGRAMS = {
    "python3": f'exec {sys.executable} "$@"',
    "docker": '[ "$*" = "compose up --detach" ] || [ "$*" = "compose stop" ]',  # the stores are running already
}

Localize = Callable[[str], str]


@pytest.fixture
def localize(stores: dict[str, str]) -> Localize:
    """Return a function that replaces the page's ports by free ones, and its stores by those of the tests."""
    replacements = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    replacements["UseDevelopmentStorage=true"] = f"'{stores['QUEUE_CONNECTION_STRING']}'"
    replacements["redis://127.0.0.1:6390"] = stores["REDIS_URL"]
    pattern = re.compile("|".join(map(re.escape, replacements)))
    return lambda text: pattern.sub(lambda match: replacements[match[0]], text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that contains a clone of the repository, and the programs of a new user's machine."""
    (tmp_path / "headway").symlink_to(ROOT)
    (tmp_path / "bin").mkdir()
    for name, command in PROGRAMS.items():
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/sh\n{command}\n")
        script.chmod(0o755)
    (tmp_path / "pinned.txt").write_text("\n".join(PINNED.findall((ROOT / "requirements-test.lock").read_text())))
    return tmp_path


@asynccontextmanager
async def terminal(folder: Path, name: str) -> AsyncIterator[Terminal]:
    """Open a terminal of the new user; the packages that it installs have the versions of the lock."""
    env = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "PIP_CONSTRAINT": str(folder / "pinned.txt")}
    async with open_terminal(folder, folder / f"{name}.log", **env) as terminal:
        yield terminal


async def test_from_an_empty_folder_to_a_bar(page: Page, folder: Path, localize: Localize) -> None:
    """Every command of the page works, and the bar survives a reload and a killed notifier."""
    async with terminal(folder, "services") as first, terminal(folder, "app") as second:
        await first.run(INSTALL, timeout_s=240)
        (folder / "letters/jobs.py").write_text(JOBS)
        env_file = folder / "letters/.env"
        env_file.write_text(localize(env_file.read_text() + MORE_SETTINGS))
        await first.run(START)
        await run_the_job(page, second, localize)
        (folder / "letters/app.py").write_text(localize(APP))
        await second.run(localize(SERVE).rstrip() + " &")
        url = localize("http://127.0.0.1:8000")
        await open_page(page, url)
        await break_it(page, first)
        await first.run(STOP + "wait", timeout_s=30)


async def run_the_job(page: Page, terminal: Terminal, localize: Localize) -> None:
    """Watch a job in the terminal to its end, and another one on its page."""
    await terminal.run("cd letters")
    await terminal.run(f"export HEADWAY_URL={localize('http://127.0.0.1:8080')}")
    assert "succeeded, 100 %, 3" in await terminal.run(RUN)
    link = await terminal.run(SUBMIT)
    errors = PageErrors(page)
    await page.goto(link.strip())
    await expect(page.locator("#status")).to_have_text("Succeeded")
    assert errors.messages == []


async def break_it(page: Page, services: Terminal) -> None:
    """Click the button and kill the notifier while the bar moves; the bar goes on where the job is."""
    await page.get_by_role("button", name="Send ten letters").click()
    await expect(part(page, "status")).to_have_text("Running")
    await page.reload()
    await expect(part(page, "status")).to_have_text("Running")
    await services.run(KILL)
    await expect(part(page, "note")).to_have_text("Reconnecting…")
    await services.run(RESTART)
    await expect(part(page, "status")).to_have_text("Succeeded")
    await expect(part(page, "percent")).to_have_text("100 %")


async def test_without_docker(folder: Path) -> None:
    """`make up` with the settings of the page runs the job of the user's folder."""
    (folder / "letters").mkdir()
    (folder / "letters/jobs.py").write_text(JOBS)
    *settings, make, up = WITHOUT_DOCKER.split()
    assert (make, up) == ("make", "up")
    env = dict(setting.split("=") for setting in settings)
    assert env["PYTHONPATH"] == "../letters"
    assert env["ALLOWED_ORIGINS"] in DOC.section("3. Start the services")
    env["PYTHONPATH"] = str(folder / "letters")
    async with running(folder / "state", **env) as stack:
        end = await run_to_end(stack, "letters", {"to": ["Ada"]})
    assert (end["status"], end["result"]) == ("succeeded", 1)
