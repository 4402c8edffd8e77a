"""`python -m dev.pictures`: run a system with the jobs of a day, and save pictures of it from a real Chromium.

Each run submits the same jobs, so that the pictures differ in times and ids only.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from playwright.async_api import Browser, Page, async_playwright

from dev.environment import ROOT
from dev.pictures.history import other_workers, report_history
from dev.pictures.images import Frame, save_animation, save_picture
from dev.reported_jobs import ReportSender
from dev.separate_system import running_system
from headway.client import Client, Receipt

FOLDER = ROOT / "docs" / "images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--font-render-hinting=none"]
WIDE, TALL, PHONE = (1280, 800), (1280, 1720), (360, 740)
ANIMATION_WIDTH = 960
SETTLE_S = 2.5  # until a view has loaded all that it shows
WARM_UP_S = 25  # until the jobs have come to the states that the pictures show
CANCEL_S = 3  # after which one job is cancelled
LIST_S, JOB_S = 4.0, 6.0  # of the animation
FAILED, RUNNING = "Import customers.csv", "Invoices of March"
SHOWN_ROOT = "/srv/headway"  # in tracebacks, in place of the folder of the repository
REPLACE_TEXT = """([from, to]) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) walker.currentNode.data = walker.currentNode.data.replaceAll(from, to);
}"""

JOBS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "Nightly report": ("report", {"title": "Nightly", "regions": ["Europe"]}, {"delay_s": 22_320}),
    "Resize hero image": ("thumbnails", {"photos": 3}, {}),
    "Export orders 2026": ("export", {"year": 2026}, {"owner": "customer:7", "tags": ["orders"]}),
    "Import suppliers.csv": ("import", {"file": "suppliers.csv", "odd_row": 18}, {"tags": ["csv"]}),
    FAILED: ("import", {"file": "customers.csv", "odd_row": 211}, {"owner": "customer:7", "tags": ["csv", "nightly"]}),
    "Sync ledger": ("sync", None, {}),
    "Video for customer 7": ("transcode", None, {"owner": "customer:7"}),
    "Thumbnails, album 9": ("thumbnails", {"photos": 300}, {}),
    "Crawl autumn catalogue": ("crawl", {"first": 312}, {}),
    RUNNING: ("invoices", {"first": 180}, {}),
}


class Picture(NamedTuple):
    """A picture: its file, what it shows, in which window and scheme, and what is done before it is taken."""

    name: str
    path: str
    size: tuple[int, int] = WIDE
    scheme: str = "light"
    prepare: Callable[[Page], Awaitable[None]] | None = None


async def fill_form(page: Page) -> None:
    """Fill in some of the form that runs a report."""
    await page.get_by_label("title").first.fill("Sales of November")


def pictures(jobs: dict[str, Receipt]) -> list[Picture]:
    """Return all pictures."""
    return [
        Picture("dashboard-jobs", "/dashboard"),
        Picture("dashboard-jobs-phone", "/dashboard", PHONE, "dark"),
        Picture("dashboard-failures", "/dashboard?status=failed&group=failures"),
        Picture("dashboard-job", f"/dashboard/jobs/{jobs[FAILED].id}", TALL, "dark"),
        Picture("dashboard-run", "/dashboard/kinds/report", prepare=fill_form),
        Picture("job-page", jobs[RUNNING].link),
    ]


async def submit_jobs(client: Client) -> dict[str, Receipt]:
    """Submit the jobs, one after the other, and cancel one of them."""
    cancelled = await client.submit("crawl", {"first": 40}, name="Crawl summer catalogue")
    receipts = {
        name: await client.submit(kind, payload, name=name, **options)
        for name, (kind, payload, options) in JOBS.items()
    }
    await asyncio.sleep(CANCEL_S)
    await client.cancel(cancelled)
    return receipts


class Camera:
    """Saves pictures of the pages of a system."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url

    async def open(self, path: str, size: tuple[int, int], scheme: str, scale: float = 1.5) -> Page:
        """Open a page in a new window."""
        context = await self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            device_scale_factor=scale,
            locale="en-GB",
        )
        page = await context.new_page()
        await page.goto(path if path.startswith("http") else f"{self._url}{path}")
        await asyncio.sleep(SETTLE_S)
        return page

    async def take(self, picture: Picture) -> None:
        """Save a picture."""
        page = await self.open(picture.path, picture.size, picture.scheme)
        if picture.prepare is not None:
            await picture.prepare(page)
            await asyncio.sleep(SETTLE_S)
        await page.evaluate(REPLACE_TEXT, [str(ROOT), SHOWN_ROOT])
        save_picture(await page.screenshot(), FOLDER / f"{picture.name}.png")
        await page.context.close()

    async def film(self, name: str) -> None:
        """Save the animation: the list of jobs, then one that runs, and its log."""
        page = await self.open("/dashboard", WIDE, "light", scale=1)
        frames = await self._frames(page, LIST_S)
        await page.get_by_role("link", name=RUNNING).click()
        await page.locator(".log-line").first.wait_for()
        await page.mouse.move(0, 0)
        await page.locator(".log").scroll_into_view_if_needed()
        frames += await self._frames(page, JOB_S)
        await asyncio.to_thread(save_animation, frames, FOLDER / f"{name}.webp", ANIMATION_WIDTH)
        await page.context.close()

    async def _frames(self, page: Page, seconds: float) -> list[Frame]:
        frames = []
        end = time.monotonic() + seconds
        while (begin := time.monotonic()) < end:
            png = await page.screenshot()
            frames.append(Frame(png, round(1000 * (time.monotonic() - begin))))
        return frames


async def take_all(url: str, jobs: dict[str, Receipt]) -> None:
    """Save the animation and all pictures."""
    async with async_playwright() as playwright:
        executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
        browser = await playwright.chromium.launch(executable_path=executable, args=ARGS)
        camera = Camera(browser, url)
        await camera.film("dashboard")
        for picture in pictures(jobs):
            await camera.take(picture)
            print(f"docs/images/{picture.name}.png", flush=True)
        await browser.close()


async def main() -> None:
    """Run a system with the jobs, and save its pictures."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headway-pictures-") as temporary:
        state = Path(temporary)
        async with (
            running_system(state, WORKER_JOBS="dev.pictures.jobs") as url,
            aiohttp.ClientSession() as session,
            Client(url) as client,
        ):
            reports = ReportSender(session, state)
            await report_history(reports, state)
            async with other_workers(reports):
                jobs = await submit_jobs(client)
                await asyncio.sleep(WARM_UP_S)
                await take_all(url, jobs)


asyncio.run(main())
