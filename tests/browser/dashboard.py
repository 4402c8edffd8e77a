"""A system whose dashboard is open, with jobs in every state. All tests of the dashboard in a process share it.

A test may act on the jobs that it submits itself; those of `SEEDS` stay as they are.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from playwright.async_api import Page, ViewportSize, expect

from headway.contracts import Timestamp
from tests.browser.probes import INSPECT, axe
from tests.stack import Stack, running
from tests.waiting import wait_until

OPERATOR_SCOPE = "list watch cancel details operate"
JOBS = "tests.browser.dashboard_jobs"
HOUR_S = 3600
NARROW = ViewportSize(width=360, height=740)
WIDE = ViewportSize(width=1280, height=800)
HISTORY = 24  # jobs of the past, whose submissions are spread over a day
MARKUP = '<img src=x onerror="window.hacked=1">'
TRACE_URL = "https://traces.example/trace/{trace_id}?from=headway"
HOSTILE_NAME = f"{MARKUP} \u202eتقرير 👩‍👩‍👧‍👦 {'long ' * 40}"[:200]
SHOWN_HOSTILE_NAME = HOSTILE_NAME.replace("\u202e", "")
HOSTILE_KIND = f"{MARKUP}{'k' * 90}"
LARGE_NUMBER = 9_007_199_254_740_993  # above 2^53: JavaScript would round it


def _nested(depth: int) -> Any:
    return {"deeper": _nested(depth - 1)} if depth else [MARKUP, True, None]


RESULT = {
    "archive": "https://example.org/orders.zip",
    "script": "javascript:window.hacked=1",
    "count": LARGE_NUMBER,
    "ratio": 1.10,
    "note": HOSTILE_NAME,
    "deep": _nested(20),
    "rows": [{"id": number, "name": f"Order {number}"} for number in range(120)],
}
LARGE_RESULT = {"text": "0123456789abcdef" * 2000}  # 32,000 bytes of the 32 KiB that a result may have


class Seed(Struct, frozen=True):
    """A job: its kind, payload and labels, and the status in which it stays."""

    kind: str
    status: str
    payload: Any = {}
    options: dict[str, Any] = {}


SEEDS = {
    "Export orders 2026": Seed("export", "succeeded", {"result": RESULT}, {"owner": "customer:7", "tags": ["csv"]}),
    "Export of all photos": Seed("export", "succeeded", {"result": LARGE_RESULT}),
    "Import customers.csv": Seed(
        "import", "failed", {"file": "customers.csv", "limit": LARGE_NUMBER}, {"owner": "customer:7", "tags": ["csv"]}
    ),
    "Import suppliers.csv": Seed("import", "failed", {"file": "suppliers.csv"}),
    "Letter to Ada": Seed("deliver", "failed", {"to": "Ada"}),
    "Letter to Grace": Seed("deliver", "failed", {"to": "Grace"}),
    "Rotate the keys": Seed("secret", "failed"),
    "Sync ledger": Seed("sync", "retrying"),
    "Crawl spring catalogue": Seed("crawl", "succeeded", {"pages": 30}),
    "Fill the disk": Seed("flood", "failed", 2000),
    "Nightly report": Seed("report", "queued", {"title": "Nightly"}, {"delay_s": 6 * HOUR_S}),
    HOSTILE_NAME: Seed("deliver", "failed", {"to": MARKUP}, {"tags": ["hostile"]}),
}
RUNNING = {
    "Invoices of March": Seed("invoices", "running", {"done": 371, "total": 400}),
    "Crawl autumn catalogue": Seed("crawl", "running", {"pages": 312}),
}
CANCELLED = "Crawl summer catalogue"
LOST = "Video for customer 7"
WAITING = "Thumbnails, album 9"  # no worker has this kind, and no message is on the queue
ODD = "A job of an odd kind"


class Dashboard:
    """The system, its jobs by name, and the requests of a program with the rights of an operator."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.jobs: dict[str, str] = {}  # ids by name
        self._token = ""

    def url(self, path: str = "") -> str:
        """Return the URL of a view, such as `/kinds`."""
        return f"{self.stack.url}/dashboard{path}"

    def job_path(self, name: str) -> str:
        """Return the path of a job's view."""
        return f"/jobs/{self.jobs[name]}"

    async def submit(self, name: str, kind: str, payload: Any = None, **options: Any) -> dict[str, Any]:
        """Submit a job of a test; return the receipt."""
        receipt = await self.stack.submit(kind, payload, name=name, **options)
        self.jobs[name] = receipt["id"]
        return receipt

    async def token(self) -> str:
        """Return a token with all rights for all jobs."""
        self._token = self._token or await self.new_token(OPERATOR_SCOPE)
        return self._token

    async def new_token(self, scope: str) -> str:
        """Return another token for all jobs."""
        body = {"filter": {}, "scope": scope}
        async with self.stack.session.post(f"{self.stack.url}/tokens", json=body) as response:
            token: str = (await response.json())["token"]
            return token

    async def live(self, path: str) -> Any:
        """Return the JSON of the notifier at a path, None where it answers with an error."""
        headers = {"Authorization": f"Bearer {await self.token()}"}
        async with self.stack.session.get(f"{self.stack.env['LIVE_URL']}{path}", headers=headers) as response:
            return await response.json() if response.status == 200 else None

    async def wait_for(self, name: str, status: str, generation: int = 0) -> dict[str, Any]:
        """Wait until a job that was run again this often has a status; return its snapshot."""

        async def snapshot() -> dict[str, Any] | None:
            found: dict[str, Any] | None = await self.live(f"/live/jobs/{self.jobs[name]}")
            return found if found and (found["status"], found["generation"]) == (status, generation) else None

        found: dict[str, Any] = await wait_until(snapshot)
        return found

    async def seed(self) -> None:
        """Create all jobs, and wait until each has its status and is in the list."""
        await asyncio.gather(
            *(self._start(name, seed) for name, seed in {**SEEDS, **RUNNING}.items()),
            self._cancelled(),
            self._reported(LOST, "transcode", lease_until=str(Timestamp.now().after(-60))),
            self._reported(ODD, HOSTILE_KIND, status="succeeded"),
            self._waiting(),
            *(self._past(number) for number in range(HISTORY)),
        )

        async def all_listed() -> bool:
            page = await self.live("/live/jobs?limit=200")
            return len(page["jobs"]) >= len(self.jobs)

        await wait_until(all_listed)

    async def _start(self, name: str, seed: Seed) -> None:
        payload = {**seed.payload, "until": str(self.folder / "end")} if seed.status == "running" else seed.payload
        await self.submit(name, seed.kind, payload, **seed.options)
        await self.wait_for(name, seed.status)

    async def _cancelled(self) -> None:
        receipt = await self.submit(CANCELLED, "crawl", {"pages": 1}, delay_s=HOUR_S)
        await self.stack.cancel(receipt)

    async def _reported(self, name: str, kind: str, **fields: Any) -> None:
        """Report as a worker does; the queue has no message of this job."""
        self.jobs[name] = str(uuid.uuid4())
        progress = {"current": 61, "total": 100, "unit": "%"}
        report = {"kind": kind, "progress": progress, "labels": {"name": name}, **fields}
        verdict = await self.stack.report({"id": self.jobs[name]}, **report)
        assert verdict["accepted"], verdict

    async def _past(self, number: int) -> None:
        submitted_at = Timestamp.now().after(-HOUR_S * number)
        ended = {"status": "failed", "error": {"type": "Timeout", "message": "The mail server does not answer."}}
        fields = ended if number % 5 == 4 else {"status": "succeeded", "result": {"sent": number}}
        await self._reported(f"Letter {number}", "letters", submitted_at=str(submitted_at), **fields)

    async def _waiting(self) -> None:
        self.jobs[WAITING] = str(uuid.uuid4())
        await self.stack.record_submission({"id": self.jobs[WAITING]}, kind="thumbnails", labels={"name": WAITING})


@asynccontextmanager
async def run_dashboard(folder: Path, **env: str) -> AsyncIterator[Dashboard]:
    """Run the system and create its jobs until the block ends."""
    async with running(folder / "state", WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0", **env) as stack:
        dashboard = Dashboard(stack, folder)
        await dashboard.seed()
        yield dashboard
        (folder / "end").touch()  # a worker whose notifier stops at the same moment would wait for it
        await asyncio.gather(*(dashboard.wait_for(name, "succeeded") for name in RUNNING))


async def resume_session(page: Page, token: str) -> None:
    """Make a page go on with a session, as after a reload."""
    session = {"token": token, "expiresAt": Timestamp.now().after(HOUR_S), "since": 1}
    await page.add_init_script(f"sessionStorage.setItem('headway-dashboard', {json.dumps(json.dumps(session))})")


async def open_dashboard(page: Page, dashboard: Dashboard, path: str = "") -> None:
    """Open a view, and wait until its heading is shown."""
    await page.goto(dashboard.url(path))
    await expect(page.locator("main h1")).to_be_visible()


async def inspect(page: Page) -> list[str]:
    """Return the faults that axe finds in a page, also whether the page is wider than the window."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(axe())
    faults: list[str] = await page.evaluate(INSPECT)
    if await page.evaluate("window.hacked"):
        faults.append("a text was markup")
    return faults


async def check_looks(page: Page) -> None:
    """Check that axe finds no fault in either scheme, and that nothing is wider than a narrow window."""
    found = {"light": await inspect(page)}
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size(NARROW)
    found["dark and narrow"] = await inspect(page)
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size(WIDE)
    assert {name: faults for name, faults in found.items() if faults} == {}
