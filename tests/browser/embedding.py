"""Sites of other origins that embed the element, and the examples of docs/show-progress.md.

A test module assigns the fixtures that it needs to names of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Locator, Page

from headway.contracts import Timestamp
from headway.grants import ListGrant
from headway.labels import JobFilter
from headway.tokens import TokenSigner
from tests.browser.fake_site import FakeSite, run_site
from tests.documents import Document
from tests.stack import JOBS, Stack, running
from tests.waiting import free_ports, wait_until

DOCUMENT = Document("docs/show-progress.md")
EVENTS = ("headway-change", "headway-end", "headway-error")


def code_blocks(language: str) -> list[str]:
    """Return the document's examples in a language."""
    return [example.text for example in DOCUMENT.examples(language)]


def fill_in(text: str, stack: Stack, token: str = "") -> str:
    """Replace the document's URLs and token by those of the running system and a job."""
    live = stack.env["LIVE_URL"]
    replacements = {
        "wss://live.example.org": live.replace("http", "ws", 1),
        "https://jobs.example.org": stack.url,
        "https://live.example.org": live,
        "TOKEN": token,
    }
    for placeholder, value in replacements.items():
        text = text.replace(placeholder, value)
    return text


async def wait_for_watched_jobs(stack: Stack, count: int) -> None:
    """Wait until this number of jobs is watched at the notifier."""

    async def settled() -> bool:
        return await stack.metric("notifier_watched_jobs") == count

    await wait_until(settled)


def sign_list_token(stack: Stack, owner: str) -> str:
    """Return a token for the list of an owner's jobs."""
    now = Timestamp.now()
    scope = frozenset({"list", "watch", "cancel"})
    grant = ListGrant(filter=JobFilter(owner=owner), issued_at=now, expires_at=now.after(600), scope=scope)
    return TokenSigner((stack.folder / "keys" / "token.pem").read_text()).sign(grant)


def part(page: Page, name: str) -> Locator:
    """Locate a part of the page's element."""
    return page.locator(f"headway-job [part={name}]")


@pytest.fixture(scope="module")
async def sites() -> AsyncIterator[tuple[FakeSite, FakeSite]]:
    """Run two web sites of other origins."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(run_site(port)) for port in free_ports(2)]
        yield first, second


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, sites: tuple[FakeSite, FakeSite]) -> AsyncIterator[Stack]:
    """Run the system and allow the origin of the first site."""
    env = {"ALLOWED_ORIGINS": sites[0].origin, "WORKER_JOBS": JOBS, "GRACE_S": "0", "DRAIN_S": "0", "PING_S": "4"}
    async with running(tmp_path_factory.mktemp("embedding"), **env) as stack:
        yield stack


@pytest.fixture
def allowed_site(sites: tuple[FakeSite, FakeSite]) -> FakeSite:
    """Return the site whose origin is allowed, without pages."""
    sites[0].pages, sites[0].content_security_policy = {}, None
    return sites[0]
