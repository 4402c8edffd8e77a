"""The worker in shell moves the bar of a job's page, as its README says: the README's commands are what is run here."""

from __future__ import annotations

import asyncio
import os
import re
from asyncio.subprocess import PIPE

import pytest
from playwright.async_api import Page, expect

from dev.environment import ROOT
from tests.browser.conftest import PageErrors
from tests.stack import Stack

pytestmark = pytest.mark.browser

README = (ROOT / "examples" / "shell-worker" / "README.md").read_text()


async def test_the_bar_moves(page: Page, stack: Stack) -> None:
    """A job goes from queued to succeeded before one's eyes, though the notifier is killed in between."""
    make_job, run_worker = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    shell = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", cwd=ROOT, env={**os.environ, **stack.env, "STEP_S": "0.4"}, stdin=PIPE, stdout=PIPE
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(make_job.replace("http://127.0.0.1:8080", stack.url).encode())
    link = (await shell.stdout.readline()).decode().strip()
    errors = PageErrors(page)
    await page.goto(link)
    await expect(page.locator("#status")).to_have_text("Queued")
    assert errors.messages == []
    shell.stdin.write(run_worker.encode())
    shell.stdin.write_eof()
    await expect(page.locator("#message")).to_have_text(re.compile("Copied [3-9] of 10 folders"))
    await stack.kill("notifier")
    await expect(page.locator("#status")).to_have_text("Succeeded")
    assert await asyncio.wait_for(shell.wait(), 20) == 0
    renders = await page.evaluate("renders")
    for name in ("version", "value"):
        values = [shown[name] for shown in renders]
        assert values == sorted(values), renders
    assert len({shown["value"] for shown in renders}) > 2
