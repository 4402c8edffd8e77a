"""Pages of other origins that show jobs, and the examples of docs/embed.md; test modules take the fixtures by name."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Locator, Page

from dev.environment import ROOT
from tests.browser.site import Site, site
from tests.stack import JOBS, Stack, running
from tests.waiting import free_ports

DOC = (ROOT / "docs" / "embed.md").read_text()
EVENTS = ("headway-change", "headway-end", "headway-error")


def blocks(language: str) -> list[str]:
    """Return the document's examples in a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOC, re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


def fitted(text: str, stack: Stack, token: str = "") -> str:
    """Put the running system and a job's token in the place of the document's."""
    live = stack.env["LIVE_URL"]
    names = {"https://jobs.example.org": stack.url, "https://live.example.org": live, "TOKEN": token}
    for name, value in {"wss://live.example.org": live.replace("http", "ws", 1), **names}.items():
        text = text.replace(name, value)
    return text


def part(page: Page, name: str) -> Locator:
    """Find a part of the page's element."""
    return page.locator(f"headway-job [part={name}]")


@pytest.fixture(scope="module")
async def sites() -> AsyncIterator[tuple[Site, Site]]:
    """Run two web sites of other people."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(site(port)) for port in free_ports(2)]
        yield first, second


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, sites: tuple[Site, Site]) -> AsyncIterator[Stack]:
    """Run the system; pages of the first site may watch."""
    env = {"ALLOWED_ORIGINS": sites[0].origin, "WORKER_JOBS": JOBS, "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("embedding"), **env) as stack:
        yield stack


@pytest.fixture
def allowed(sites: tuple[Site, Site]) -> Site:
    """Empty the site whose pages may watch."""
    sites[0].pages, sites[0].policy = {}, None
    return sites[0]
