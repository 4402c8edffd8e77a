"""The README's twenty lines: its job, its endpoint and its element, put together as a user would."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from dev.environment import ROOT
from tests.browser.conftest import PageErrors, open_page
from tests.browser.embedding import part
from tests.documents import Document
from tests.stack import running
from tests.terminal import open_terminal
from tests.waiting import free_ports

pytestmark = pytest.mark.browser

DOC = Document("README.md")
JOBS, ENDPOINT = (text for _, text in DOC.examples("python"))
((_, ELEMENT),) = DOC.examples("html")
APP = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from headway.client import Client
from myapp.jobs import Letters, letters

client = Client("{url}")

@asynccontextmanager
async def lifespan(app):
    async with client:
        yield

app = FastAPI(lifespan=lifespan)

@app.get("/")
def page(token: str = "") -> HTMLResponse:
    return HTMLResponse('''<!doctype html><link rel="icon" href="data:,">{element}'''.replace("…", token))

{endpoint}
"""
POST = """fetch("/letters", {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(["Ada", "Ben", "Cleo"]),
}).then((response) => response.json())"""


async def test_twenty_lines_lead_to_a_bar(page: Page, tmp_path: Path) -> None:
    """The endpoint submits the job, the worker runs it, and the element shows it to its end."""
    (tmp_path / "myapp").mkdir()
    (tmp_path / "myapp/jobs.py").write_text(JOBS.replace("sleep(0.5)", "sleep(2)"))  # a busy page needs a while
    (modules,) = re.findall(r"^headway worker --jobs (\S+)$", DOC.text, re.MULTILINE)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    env = {"WORKER_JOBS": modules, "PYTHONPATH": str(tmp_path), "ALLOWED_ORIGINS": url, "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path / "state", **env) as stack:
        element = ELEMENT.replace("https://jobs.example.org", stack.url)
        (tmp_path / "app.py").write_text(APP.format(url=stack.url, element=element, endpoint=ENDPOINT))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        async with open_terminal(tmp_path, tmp_path / "app.log", PYTHONPATH=str(ROOT), PATH=path) as terminal:
            await terminal.run(f"uvicorn app:app --port {port} &")
            await open_page(page, url)
            errors = PageErrors(page)
            with stack.frozen("worker"):
                await page.goto(f"{url}/?token={await page.evaluate(POST)}")
                await expect(page.locator("headway-job")).to_contain_text("Your letters")
                await expect(part(page, "status")).to_have_text("Queued")
            await expect(part(page, "status")).to_have_text("Running")
            await page.reload()
            await expect(part(page, "status")).to_have_text("Succeeded")
            assert errors.messages == []
