"""The page of the dashboard in a real Chromium: what it costs, and whether its rows stay where they are."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from playwright.async_api import CDPSession, Page, async_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGS = ["--headless", "--no-sandbox", "--disable-gpu"]
TIMEOUT_MS = 60_000
ROW_HEIGHT, HEAD_HEIGHT = 60, 600  # in pixels, at least: so many rows are visible

# Add up the shifts of the layout, as Cumulative Layout Shift does. Count the frames in which a row is under a pointer,
# and those in which that row is another one, or has moved, although the pointer stands still.
OBSERVE = """
window.shift = window.moves = window.frames = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
let pointer = null, before = null;
addEventListener("mousemove", ({ clientX, clientY }) => { pointer = [clientX, clientY]; before = null; }, true);
const check = () => {
  const row = pointer && document.elementFromPoint(...pointer)?.closest("[data-id]");
  const now = row ? `${row.dataset.id} ${row.getBoundingClientRect().top}` : null;
  if (before !== null && now !== before) window.moves++;
  before = now;
  window.frames += row ? 1 : 0;
  requestAnimationFrame(check);
};
requestAnimationFrame(check);
"""
ROWS = "[...document.querySelectorAll('[data-id]')].map((row) => [row.dataset.id, row.textContent])"


class Cost(NamedTuple):
    """Seconds: of the main thread, for scripts, styles, layouts and all of its tasks, and the elapsed time."""

    script: float
    style: float
    layout: float
    tasks: float
    elapsed: float

    def since(self, earlier: Cost) -> Cost:
        """Return the difference."""
        return Cost(*(end - start for end, start in zip(self, earlier, strict=True)))

    @property
    def share(self) -> float:
        """The share of the elapsed time that scripts, styles and layouts took, in percent."""
        return 100 * (self.script + self.style + self.layout) / self.elapsed


class Stillness(NamedTuple):
    """How much the layout has shifted, and in how many frames there was a row under the pointer, and it moved."""

    shift: float
    moves: int
    frames: int


class Dashboard:
    """A tab that shows the list of jobs."""

    def __init__(self, page: Page, cdp: CDPSession) -> None:
        self.page = page
        self._cdp = cdp

    async def cost(self) -> Cost:
        """Return what the page has cost so far."""
        metrics = (await self._cdp.send("Performance.getMetrics"))["metrics"]
        value = {metric["name"]: metric["value"] for metric in metrics}
        names = ("ScriptDuration", "RecalcStyleDuration", "LayoutDuration", "TaskDuration", "Timestamp")
        return Cost(*(value[name] for name in names))

    async def stillness(self) -> Stillness:
        """Return how still the rows have been so far."""
        return Stillness(*await self.page.evaluate("[shift, moves, frames]"))

    async def rows(self) -> dict[str, str]:
        """Return the texts of the rows by their jobs' ids."""
        return dict(await self.page.evaluate(ROWS))

    async def wait_for_rows(self, count: int) -> None:
        """Wait until the list has at least so many rows."""
        await self.page.wait_for_function(
            "(count) => document.querySelectorAll('[data-id]').length >= count", arg=count
        )

    async def point_at_row(self, index: int) -> None:
        """Move the pointer to the name of a row, and keep it there."""
        box = await self.page.locator("[data-id] a").nth(index).bounding_box()
        if box is not None:
            await self.page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)

    async def select_row(self, index: int) -> None:
        """Select a row with its checkbox."""
        await self.page.locator("[data-id] input[type=checkbox]").nth(index).check()


@asynccontextmanager
async def open_dashboard(url: str, rows: int) -> AsyncIterator[Dashboard]:
    """Open the dashboard in a window that is high enough for so many rows; raise an error if the page has one."""
    async with async_playwright() as playwright:
        executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
        browser = await playwright.chromium.launch(executable_path=executable, args=ARGS)
        size = {"width": 1280, "height": HEAD_HEIGHT + ROW_HEIGHT * rows}
        page = await browser.new_page(viewport=size)  # type: ignore[arg-type]  # a TypedDict
        page.set_default_timeout(TIMEOUT_MS)
        await page.add_init_script(OBSERVE)
        cdp = await page.context.new_cdp_session(page)
        await cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
        await page.goto(f"{url}/dashboard")
        yield Dashboard(page, cdp)
        await browser.close()
