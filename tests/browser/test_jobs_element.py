"""`<headway-jobs>` with a list of the test: live, still under the pointer, accessible, and frugal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import PageErrors
from tests.browser.embedding import code_blocks
from tests.browser.job_states import ENDED, ERROR, JOB_STATES, LONG_TEXT, PROGRESS, RUNNING
from tests.browser.list_site import ListSite, run_list_site
from tests.browser.probes import INSPECT, OBSERVE_SHIFTS, RECORD_ANNOUNCEMENTS, axe
from tests.waiting import free_ports, wait_until

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><html lang="en"><title>Board</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width">
<style>body { font: 16px sans-serif; background: Canvas; color: CanvasText; color-scheme: light dark; }</style>
<script type="module" src="/assets/jobs-element.js"></script>
<main><h1>Board</h1><headway-jobs limit="20" link="/jobs/{id}" %s>My exports</headway-jobs></main>"""
ARRIVALS_PER_S = 50
LIST = "document.querySelector('headway-jobs')"
NAMES = f"{LIST}.jobs.map(({{ name }}) => Number(name.split(' ')[1]))"
# Wait until no row moves.
SETTLE = f"Promise.all({LIST}.shadowRoot.getAnimations().map(({{ finished }}) => finished))"
# Return what a user points at: the name of the row, and where it is.
POINTED = f"""() => {{
  const row = {LIST}.shadowRoot.elementFromPoint(200, 300).closest("[part~=row]");
  return [row.querySelector("a").textContent, row.getBoundingClientRect().top];
}}"""


class Board:
    """A page with one element."""

    def __init__(self, page: Page, site: ListSite) -> None:
        self.page = page
        self.site = site

    async def open(self, attributes: str | None = None) -> None:
        """Open the page, and wait until the element shows the jobs of the site."""
        self.site.page = PAGE % (f'token="{self.site.token}"' if attributes is None else attributes)
        await self.page.goto(f"{self.site.origin}/embedding")
        await wait_until(lambda: self.page.evaluate(f"{LIST}.jobs !== null || {LIST}.error !== null"))

    def part(self, name: str) -> Locator:
        """Locate a part of the element."""
        return self.page.locator(f"headway-jobs [part~={name}]")

    async def names(self) -> list[int]:
        """Return the numbers of the jobs in the rows."""
        names: list[int] = await self.page.evaluate(NAMES)
        return names

    async def wait_for(self, *numbers: int) -> None:
        """Wait until the element shows these jobs."""

        async def shown() -> bool:
            return await self.names() == list(numbers)

        await wait_until(shown)

    async def pointed(self) -> tuple[str, float]:
        """Return which row is under the pointer, and its top."""
        name, top = await self.page.evaluate(POINTED)
        return name, top


@pytest.fixture(scope="module")
async def running_list_site() -> AsyncIterator[ListSite]:
    """Run the pages with a notifier that sends the test's list."""
    async with run_list_site(free_ports(1)[0]) as site:
        yield site


@pytest.fixture
async def board(page: Page, running_list_site: ListSite) -> Board:
    """Return a page that observes shifts and announcements, and a site without jobs."""
    running_list_site.reset()
    await page.add_init_script(OBSERVE_SHIFTS)
    await page.add_init_script(RECORD_ANNOUNCEMENTS)
    return Board(page, running_list_site)


async def arrive(board: Board, count: int) -> None:
    """Add running jobs at a steady rate."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(count):
        await board.site.add(**RUNNING)
        await asyncio.sleep(max(0, start + number / ARRIVALS_PER_S - loop.time()))


async def test_list_is_live_and_still(board: Board, page: Page) -> None:
    """While 50 jobs a second arrive, no row moves under the pointer; the list catches up when the pointer leaves it."""
    await board.site.add(20, **RUNNING)
    await board.open()
    await arrive(board, 20)
    await wait_until(lambda: page.evaluate(f"{NAMES}[0] > 20"))
    await page.mouse.move(200, 300)
    await page.evaluate(SETTLE)  # rows that moved when the pointer arrived finish their move
    pointed = await board.pointed()
    await arrive(board, 80)  # for longer than the second after which the rows may change
    await expect(board.part("fresh")).to_have_text("20+ new")
    assert await board.pointed() == pointed
    await page.emulate_media(reduced_motion="reduce")
    await page.mouse.move(200, 5)
    await arrive(board, 20)
    await board.wait_for(*range(139, 119, -1))
    await expect(board.part("fresh")).to_be_hidden()
    assert await page.evaluate("shift") <= 0.02


async def test_every_state_is_accessible(board: Board, page: Page) -> None:
    """In each state axe finds no fault, and at 320 px, as with a zoom of 400 %, nothing is cut off."""
    await page.set_viewport_size({"width": 320, "height": 1200})
    await page.emulate_media(reduced_motion="reduce")
    found = {}

    async def inspect(name: str, notice: str = "") -> None:
        await expect(board.part("notice")).to_have_text(notice)
        await page.evaluate(SETTLE)
        found[name] = await page.evaluate(INSPECT)

    board.site.answers = False
    board.site.page = PAGE % f'token="{board.site.token}"'
    await page.goto(f"{board.site.origin}/embedding")
    await page.evaluate(axe())
    await inspect("unreachable", "The server cannot be reached. Trying again…")
    board.site.answers = True
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(board.part("empty")).to_have_text("No jobs yet.")
    await inspect("empty")
    board.site.complete = False
    for _, fields in JOB_STATES.values():
        await board.site.add(**fields)
    await expect(board.part("row")).to_have_count(len(JOB_STATES))
    await inspect("rows", "Some jobs may be missing.")
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme, forced_colors="active", reduced_motion="reduce")
        await inspect(f"forced colors, {scheme}", "Some jobs may be missing.")
    await page.emulate_media(forced_colors="none", color_scheme="dark", reduced_motion="reduce")
    await page.mouse.move(160, 400)
    await board.site.add(30)
    await expect(board.part("fresh")).to_have_text("20+ new")
    await board.site.disconnect()
    await inspect("stale", "Reconnecting…")
    await expect(page.locator("headway-jobs:state(stale)")).to_have_count(1)
    assert {name: faults for name, faults in found.items() if faults} == {}


async def test_rows_have_one_height(board: Board, page: Page) -> None:
    """A row has one height in every state, so that a job that changes moves no other; a button shows a long text."""
    fields = {**JOB_STATES, "failed long": ("", ENDED | {"status": "failed", "error": ERROR | {"message": LONG_TEXT}})}
    for _, state in fields.values():
        await board.site.add(**state)
    await board.open()
    rows = board.part("row")
    await expect(rows).to_have_count(len(fields))
    heights = await rows.evaluate_all("(rows) => rows.map((row) => row.offsetHeight)")
    assert max(heights) - min(heights) <= 1
    await rows.first.get_by_role("button", name="Show all").click()
    assert await rows.first.evaluate("(row) => row.offsetHeight") > 2 * max(heights)


async def test_keyboard_and_screen_reader_have_a_place(board: Board, page: Page) -> None:
    """The focus holds the rows and survives the buttons that disappear; new jobs and ends are announced together."""
    await page.emulate_media(reduced_motion="reduce")
    await board.site.add(3, **RUNNING)
    await board.open()
    focused = f"{LIST}.shadowRoot.activeElement.getAttribute('part')"
    for part in ("link", None):  # the second is in the shadow tree of the row
        await page.keyboard.press("Tab")
        assert await page.evaluate(focused) == part
    await board.site.show(0, **(ENDED | {"status": "failed", "error": ERROR}))
    await board.site.add(2, **RUNNING)
    await expect(board.part("fresh")).to_have_text("2 new")
    await expect(board.part("announcer")).to_have_text("2 new jobs. Export 0: Failed")
    await board.part("fresh").press("Enter")
    await board.wait_for(4, 3, 2, 1, 0)
    assert await page.evaluate(focused) == "jobs"
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await wait_until(lambda: board.site.cancelled == [board.site.jobs[4]["id"]])
    await expect(board.part("row").first).to_contain_text("Cancelling…")
    assert await page.evaluate("announcements") == ["2 new jobs. Export 0: Failed"]


async def test_only_visible_rows_are_watched(board: Board, page: Page) -> None:
    """A button loads older jobs; of all jobs, only those near the window are watched."""
    await board.site.add(55, **RUNNING)
    await board.open()
    for count in (40, 55):
        await board.part("older").click()
        await expect(board.part("row")).to_have_count(count)
    await expect(board.part("older")).to_be_hidden()

    async def watched() -> set[int]:
        return {int(job_id[-12:]) for job_id in board.site.watched}

    await page.evaluate(f"{LIST}.shadowRoot.querySelector('li:last-child').scrollIntoView()")

    async def settled() -> bool:
        return 0 in await watched() and 54 not in await watched()

    await wait_until(settled)
    assert len(await watched()) < 25
    await board.site.show(0, progress=PROGRESS | {"percent": 70.0})
    await expect(board.part("row").last).to_contain_text("70 %")
    await board.site.add()
    await expect(board.part("fresh")).to_have_text("1 new")
    await board.part("fresh").click()
    await expect(board.part("row").first).to_contain_text("Export 55")
    assert await page.evaluate("scrollY") < 200


async def test_errors_are_explained(board: Board, page: Page) -> None:
    """The element says what is missing, and why the server refuses the list or a cancellation."""
    errors = PageErrors(page)
    await board.open("")
    await expect(board.part("problem")).to_have_text(
        "No jobs to show: set the token or src attribute of <headway-jobs>."
    )
    await page.evaluate(f"{LIST}.src = '/jobs-token'")
    await expect(board.part("empty")).to_be_visible()
    await board.site.add(**RUNNING)
    await board.wait_for(0)
    await page.evaluate("document.addEventListener('headway-error', ({ detail }) => { window.error = detail; })")
    await board.part("cancel").click()
    await board.site.send_error(code="forbidden", message="You may not.", job_id=board.site.jobs[0]["id"])
    await expect(board.part("row")).to_contain_text("You may not.")
    await board.part("cancel").click()
    await expect(board.part("row")).to_contain_text("Cancelling…")
    await expect(board.part("row")).not_to_contain_text("You may not.")
    await page.mouse.move(0, 0)
    await page.evaluate(f"document.querySelector('main').prepend({LIST})")
    assert await page.evaluate(f"{LIST}.jobs.length") == 1
    await page.evaluate(f"{LIST}.token = '{board.site.token}'; {LIST}.src = null")
    await expect(board.part("row")).to_have_count(1)
    top = await board.part("jobs").bounding_box()
    await board.site.send_error(code="token_expired", message="The token has expired.")
    await expect(board.part("problem")).to_have_text("The token has expired.")
    assert await board.part("jobs").bounding_box() == top
    assert (await page.evaluate("error"))["code"] == "token_expired"
    await page.evaluate(f"{LIST}.token = '{board.site.token}#'")
    await board.site.add(**RUNNING)
    await board.wait_for(1, 0)
    await expect(board.part("problem")).to_be_hidden()
    assert errors.messages == []


async def test_examples_of_the_document_show_the_list(board: Board, page: Page) -> None:
    """The element of docs/show-progress.md has its own texts, and the example with `watchJobs` the same jobs."""
    errors = PageErrors(page)
    element = code_blocks("html")[1]
    script = code_blocks("js")[3].replace("https://live.example.org", board.site.origin)
    script = script.replace("https://jobs.example.org", board.site.origin)
    load = '<script type="module" src="/assets/headway.js"></script>'
    icon = '<link rel="icon" href="data:,">'
    example = f"{element}<ul></ul><script type=module>{script}</script>"
    board.site.page = f"<!doctype html><title>x</title>{icon}{load}{example}"
    await page.goto(f"{board.site.origin}/embedding")
    await expect(page.get_by_text("You have no exports yet.")).to_be_visible()
    await board.site.add(2)
    await expect(page.get_by_role("list", name="My exports").get_by_role("link")).to_have_text(["Export 1", "Export 0"])
    await expect(page.locator("body > ul > li")).to_have_text(["Export 1: queued", "Export 0: queued"])
    assert errors.messages == []
