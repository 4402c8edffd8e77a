"""The commands of examples/shell-worker/README.md, run unchanged while the job's page is open in a browser."""

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
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.browser

README = (ROOT / "examples" / "shell-worker" / "README.md").read_text()


async def test_page_shows_the_progress_of_the_shell_worker(page: Page, stack: Stack) -> None:
    """The page shows the job from `Queued` to `Succeeded`, although the notifier is killed in the meantime."""
    create_job, run_worker = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    shell = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", cwd=ROOT, env={**os.environ, **stack.env, "STEP_S": "0.4"}, stdin=PIPE, stdout=PIPE
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(create_job.replace("http://127.0.0.1:8080", stack.url).encode())
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
    assert await asyncio.wait_for(shell.wait(), PATIENCE_S) == 0
    renders = await page.evaluate("renders")
    for name in ("version", "value"):
        values = [render[name] for render in renders]
        assert values == sorted(values), renders
    assert len({render["value"] for render in renders}) > 2
