"""The page docs/get-started.md, followed from an empty folder to a bar in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser import new_user
from tests.browser.conftest import PageErrors, open_page
from tests.browser.embedding import part
from tests.browser.new_user import Machine
from tests.installed_wheel import CERTIFICATES, constraints
from tests.terminal import Terminal
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]  # for the installation on a busy machine


@pytest.fixture
def machine(stores: dict[str, str], tmp_path: Path) -> Machine:
    """Return the machine of a new user; the packages that pip installs have the versions of the lock."""
    (tmp_path / "pinned.txt").write_text(constraints("requirements-test.lock"))
    return Machine(tmp_path, stores)


async def test_from_an_empty_folder_to_a_bar(page: Page, machine: Machine) -> None:
    """Every command of the page works, and the bar survives a reload and a killed notifier."""
    pip = {"PIP_CONSTRAINT": str(machine.folder / "pinned.txt"), "PIP_COMPILE": "0"}  # Python compiles what it imports
    async with machine.terminal("services", **pip, **CERTIFICATES) as first, machine.terminal("app") as second:
        await first.run(new_user.INSTALL, timeout_s=600)
        (machine.letters / "jobs.py").write_text(new_user.JOBS)
        machine.localize_settings()
        await first.run(new_user.COMPOSE + new_user.START)
        await run_the_job(page, second, machine)
        (machine.letters / "app.py").write_text(machine.localize(new_user.APP))
        await second.run(machine.localize(new_user.SERVE).rstrip() + " &")
        await open_page(page, machine.url(new_user.APP_PORT))
        await break_it(page, first)
        await first.run(new_user.STOP + "wait", timeout_s=PATIENCE_S)


async def run_the_job(page: Page, terminal: Terminal, machine: Machine) -> None:
    """Watch a job in the terminal to its end, and another one on its page."""
    await terminal.run("cd letters")
    await terminal.run(f"export HEADWAY_URL={machine.url(new_user.SUBMITTER_PORT)}")
    assert "succeeded, 100 %, 3" in await terminal.run(new_user.RUN)
    link = await terminal.run(new_user.SUBMIT)
    errors = PageErrors(page)
    await page.goto(link.strip())
    await expect(page.locator("#status")).to_have_text("Succeeded")
    assert errors.messages == []


async def break_it(page: Page, services: Terminal) -> None:
    """Click the button and kill the notifier while the bar moves; the bar goes on where the job is."""
    await page.get_by_role("button", name="Send thirty letters").click()
    await expect(part(page, "status")).to_have_text("Running")
    await page.reload()
    await expect(part(page, "status")).to_have_text("Running")
    await services.run(new_user.KILL)
    await expect(part(page, "note")).to_have_text("Reconnecting…")
    await services.run(new_user.RESTART)
    await expect(part(page, "status")).to_have_text("Succeeded")
    await expect(part(page, "percent")).to_have_text("100 %")
