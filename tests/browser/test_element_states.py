"""Every state of `<headway-job>`, with snapshots of the tests: true, accessible, still, and in old browsers."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Locator, Page, Route, expect

from tests.browser.conftest import PageErrors
from tests.browser.job_states import (
    EARLIER_ATTEMPTS,
    ENDED,
    ERROR,
    JOB_STATES,
    LONG_TEXT,
    NOTHING,
    PROGRESS,
    RUNNING,
    after,
)
from tests.browser.live_site import LiveSite
from tests.browser.probes import COLOR_SHARES, INSPECT, OBSERVE_SHIFTS, RECORD_ANNOUNCEMENTS, axe
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><html lang="en"><title>Board</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width">
<style>body { font: 16px sans-serif; background: Canvas; color: CanvasText; color-scheme: light dark; }</style>
<script type="module" src="/assets/headway.js"></script><main><h1>Jobs</h1><p>Below</p></main>"""

ADD = """([tokens, label]) => document.querySelector("h1").after(...tokens.map((token) => {
  const job = document.createElement("headway-job");
  job.url = location.origin;
  job.token = token;
  job.textContent = label;
  return job;
}))"""
FOCUSED = "document.activeElement.shadowRoot?.activeElement?.getAttribute('part') ?? document.activeElement.tagName"
BAR = """() => {
  const root = document.querySelector("headway-job").shadowRoot;
  const [bar, track] = ["bar", "track"].map((part) => root.querySelector(`[part=${part}]`).getBoundingClientRect());
  return [bar.left, bar.right].map((end) => (end - track.left) / track.width);
}"""
FRAME = "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"


FAILED = ENDED | {"status": "failed", "error": ERROR}
# Times that are near enough for the element to count them down.
STATES = JOB_STATES | {
    "retrying": ("Retrying", RUNNING | {"status": "retrying", "due_at": after(50), "error": ERROR}),
    "queued": ("Queued", {"due_at": after(600)}),
}


class Board:
    """A page with elements, the first of which the test takes from state to state."""

    def __init__(self, page: Page, site: LiveSite) -> None:
        self.page = page
        self.site = site
        self.job_id = ""
        self.token = ""

    async def open(self) -> None:
        """Open the page without elements."""
        self.site.page = PAGE
        await self.page.goto(f"{self.site.origin}/embedding")

    async def add(self, label: str = "", scope: str = "watch cancel", **fields: Any) -> None:
        """Add an element whose job has these fields."""
        self.job_id, self.token = self.site.add_job(scope, **fields)
        await self.page.evaluate(ADD, [[self.token], label])

    async def show(self, fields: dict[str, Any]) -> None:
        """Send a snapshot with these fields, and wait until the element has it."""
        version = await self.site.show(self.job_id, **(NOTHING | fields))
        await wait_until(
            lambda: self.page.evaluate(f"document.querySelector('headway-job').snapshot?.version === {version}")
        )

    def part(self, name: str) -> Locator:
        """Locate a part of the element."""
        return self.page.locator(f"headway-job [part={name}]")

    async def shares(self, part: str) -> list[float]:
        """Return the shares of the colors in a part, the largest first."""
        picture = await self.part(part).screenshot(animations="allow")
        shares: list[float] = await self.page.evaluate(COLOR_SHARES, base64.b64encode(picture).decode())
        return shares

    async def focused(self) -> str:
        """Return the part that has the focus, or the tag of the element outside."""
        focused: str = await self.page.evaluate(FOCUSED)
        return focused

    async def bar(self) -> list[float]:
        """Return where the bar begins and ends, as shares of the track from its left."""
        ends: list[float] = await self.page.evaluate(BAR)
        return ends


@pytest.fixture
async def board(page: Page, site: LiveSite) -> Board:
    """Open a page without elements and without motion."""
    board = Board(page, site)
    await page.emulate_media(reduced_motion="reduce")
    await board.open()
    return board


async def test_every_state_is_accessible(board: Board, page: Page) -> None:
    """Each state has a shape. Axe finds no fault in it, and at 320 px, as with a zoom of 400 %, nothing is cut off."""
    await page.set_viewport_size({"width": 320, "height": 800})
    await page.evaluate(axe())
    await board.add("Export of March")
    found, icons = {}, {}
    for name, (status, fields) in STATES.items():
        await board.show(fields)
        await expect(board.part("status")).to_have_text(status)
        found[name] = await page.evaluate(INSPECT)
        icons[name if name in ("stalled", "worker lost") else fields.get("status", "queued")] = await board.part(
            "icon"
        ).inner_html()
    assert len(icons) == len(set(icons.values())) == 8
    await board.show(RUNNING)
    await board.site.disconnect()
    await expect(board.part("note")).to_have_text("Reconnecting…")
    found["stale"] = await page.evaluate(INSPECT)
    assert {name: faults for name, faults in found.items() if faults} == {}


async def test_forced_colors_show_every_state(board: Board, page: Page) -> None:
    """In forced colors the bar's parts differ, an indeterminate bar does not look full, and texts have a contrast."""
    await board.add()
    await page.evaluate(axe())
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme, forced_colors="active", reduced_motion="reduce")
        for name in ("determinate", "indeterminate", "retrying", "worker lost", "cancelling"):
            await board.show(STATES[name][1])
            filled, empty, *_ = sorted((await board.shares("track"))[:2])
            assert filled > 0.2, (scheme, name)
            assert empty > 0.2, (scheme, name)
        await expect(board.part("cancel")).to_have_css("border-top-style", "solid")
        await board.show(FAILED)
        assert len(await board.shares("error")) > 1
        assert await page.evaluate(INSPECT) == []


async def test_keyboard_keeps_its_place(board: Board, page: Page) -> None:
    """The button keeps the focus while the job is cancelled, and the title has it after the end."""
    await board.add("Export of March")
    await board.show(RUNNING)
    await page.keyboard.press("Tab")
    assert await board.focused() == "cancel"
    await expect(page.get_by_role("button", name="Cancel Export of March")).to_have_css("outline-style", "solid")
    await page.keyboard.press("Enter")
    await expect(board.part("cancel")).to_have_text("Cancelling…")
    await expect(board.part("cancel")).to_have_attribute("aria-disabled", "true")
    await page.keyboard.press("Enter")
    assert await board.focused() == "cancel"
    await wait_until(lambda: board.site.cancelled == [board.job_id])
    await board.show(ENDED | {"status": "cancelled"})
    await expect(board.part("cancel")).to_be_hidden()
    assert await board.focused() == "title"
    await page.evaluate("document.activeElement.blur()")
    await board.show(RUNNING)
    await board.show(FAILED)
    assert await board.focused() == "BODY"


async def test_token_that_has_expired_cannot_cancel(board: Board) -> None:
    """The element says why, without the button, whose focus the title gets."""
    await board.add()
    await board.show(RUNNING)
    await board.part("cancel").focus()
    await board.site.send_error(board.job_id, "token_expired", "The token has expired.")
    await expect(board.part("error")).to_have_text("The token has expired.")
    await expect(board.part("cancel")).to_be_hidden()
    assert await board.focused() == "title"


async def test_long_messages_move_nothing(board: Board, page: Page) -> None:
    """Messages that alternate each second shift the layout by at most 0.02; a button shows all of a long one."""
    await page.add_init_script(OBSERVE_SHIFTS)
    for width in (360, 1440):
        await page.set_viewport_size({"width": width, "height": 800})
        await board.open()
        await board.add()
        await board.show(RUNNING)
        for message in ["Short", LONG_TEXT] * 4:
            await board.show(RUNNING | {"progress": PROGRESS | {"message": message}})
            await page.evaluate(FRAME)
        assert await page.evaluate("shift") <= 0.02, width
    await board.show(RUNNING | {"progress": PROGRESS | {"message": LONG_TEXT}})
    height = await board.part("message").evaluate("(message) => message.offsetHeight")
    await board.part("expand").press("Enter")
    await expect(board.part("expand")).to_have_attribute("aria-expanded", "true")
    assert await board.part("message").evaluate("({ scrollHeight, clientHeight }) => scrollHeight === clientHeight")
    await board.part("expand").press("Enter")
    assert await board.part("message").evaluate("(message) => message.offsetHeight") == height
    await board.show(RUNNING)
    assert await board.focused() == "expand"
    await page.evaluate("document.activeElement.blur()")
    await expect(board.part("expand")).to_be_hidden()
    await board.show(STATES["retrying"][1] | {"error": ERROR | {"message": LONG_TEXT}})
    await expect(board.part("expand")).to_be_visible()


async def test_end_moves_nothing(board: Board, page: Page) -> None:
    """What stands below the element stays where it is while its job starts, and after it ends for a long reason."""
    read_top = "document.querySelector('hr').getBoundingClientRect().top"
    for width in (360, 1440):
        await page.set_viewport_size({"width": width, "height": 800})
        await board.open()
        await page.evaluate("document.body.append(document.createElement('hr'))")
        await board.site.disconnect()
        await board.add()
        await expect(board.part("note")).to_have_text("The server cannot be reached. Trying again…")
        top = await page.evaluate(read_top)
        board.site.answers = True
        await expect(board.part("cancel")).to_be_visible()
        long_failure = FAILED | {"error": ERROR | {"message": LONG_TEXT}}
        for name, fields in [*STATES.items(), ("failed long", ("", long_failure))]:
            await board.show(RUNNING)
            await board.show(fields[1])
            assert (width, name, await page.evaluate(read_top)) == (width, name, top)
    await board.part("expand").press("Enter")
    assert await page.evaluate(read_top) > top


async def test_announcements_are_news(board: Board, page: Page) -> None:
    """A page with many jobs is silent when it loads. Later a new status and a reason are announced, once each."""
    await page.add_init_script(RECORD_ANNOUNCEMENTS)
    await board.open()
    for fields in (FAILED, ENDED | {"status": "succeeded"}, {}, RUNNING):
        await board.add(**fields)
    await expect(page.locator("headway-job [role=status]")).to_have_count(4)
    assert await page.evaluate("announcements") == []
    for fraction in (50, 60):
        await board.show(RUNNING | {"progress": PROGRESS | {"percent": fraction}})
    await board.show(FAILED)
    await board.show(FAILED | {"expires_at": after(7200)})
    reason = f"{ERROR['type']}: {ERROR['message']}"
    assert sorted(await page.evaluate("announcements")) == [reason, "thumbnailsFailed"]


async def test_translated_texts_stay(board: Board, page: Page) -> None:
    """A translator's texts stay until the state changes, and kinds are not translated."""
    await board.add()
    await board.show(RUNNING)
    await board.part("status").evaluate("(status) => { status.innerHTML = '<font>Läuft</font>'; }")
    await board.show(RUNNING | {"progress": PROGRESS | {"current": 5}})
    await expect(board.part("amount")).to_have_text("5 of 10 photos")
    await expect(board.part("status")).to_have_text("Läuft")
    await board.show(FAILED)
    await expect(board.part("status")).to_have_text("Failed")
    await expect(board.part("kind")).to_have_attribute("translate", "no")


async def test_screen_is_true(board: Board, page: Page) -> None:
    """Numbers are exact, only complete work is 100 %, a success has no earlier amount, and a waiting job says why."""
    await board.add(submitted_at=after(-3700))
    await expect(board.part("note")).to_have_text("No worker has reported yet · submitted 1 h ago")
    large = {"current": 9007199254740993, "total": 9007199254740995, "percent": 100.0}
    await board.show(RUNNING | {"progress": PROGRESS | large})
    await expect(board.part("amount")).to_have_text("9,007,199,254,740,993 of 9,007,199,254,740,995 photos")
    await expect(board.part("percent")).to_have_text("99 %")
    assert await board.bar() == pytest.approx([0, 0.9999], abs=5e-5)
    await page.evaluate("document.querySelector('main').dir = 'rtl'")
    await board.show(RUNNING | {"progress": PROGRESS | {"percent": 25.0}})
    assert await board.bar() == pytest.approx([0.75, 1], abs=0.001)
    await page.evaluate("document.querySelector('main').dir = 'ltr'")
    await board.show(FAILED)
    await expect(board.part("message")).to_have_text("Last message: Resizing photo-0004.jpg")
    await page.evaluate("document.addEventListener('headway-end', ({ detail }) => { window.ended = detail; })")
    await board.show(RUNNING)
    await board.show(ENDED | {"status": "succeeded", "result": {"tweet": 1234567890123456789}})
    assert await page.evaluate("ended.exact.result") == '{"tweet":1234567890123456789}'
    await expect(board.part("percent")).to_have_text("100 %")
    await expect(board.part("amount")).to_be_empty()
    await expect(board.part("message")).to_be_empty()
    assert await board.bar() == pytest.approx([0, 1], abs=1e-6)


async def test_waiting_job_shows_its_position(board: Board, page: Page) -> None:
    """A waiting job says how many jobs wait before it. The position of a job outside the window is not requested."""
    board.site.jobs_before = 40
    await board.add(version=1)
    below = board.job_id
    await page.evaluate("document.querySelector('headway-job').style.marginTop = '5000px'")
    await board.add(version=1)
    await expect(board.part("note").first).to_contain_text("About 40 jobs before this one · submitted ")
    assert below not in board.site.positions
    await page.locator("headway-job").last.scroll_into_view_if_needed()
    await expect(board.part("note").last).to_contain_text("About 40 jobs before this one · submitted ")
    await page.evaluate("scrollTo(0, 0)")
    await board.show(RUNNING)
    await expect(board.part("note").first).to_be_empty()


async def test_stalled_job_is_called_alive(board: Board, page: Page) -> None:
    """A job that has not advanced says so, and its bar does not pretend to; without a connection that is not known."""
    await page.emulate_media(reduced_motion="no-preference")
    await board.add()
    await board.show(STATES["indeterminate"][1] | {"started_at": after(-900), "advanced_at": after(-725)})
    await expect(board.part("note")).to_have_text(re.compile(r"Alive, but has not advanced for \d+ min"))
    await expect(page.locator("headway-job:state(stalled)")).to_have_count(1)
    await expect(board.part("bar")).to_have_css("animation-play-state", "paused")
    await board.site.disconnect()
    await expect(page.locator("headway-job:state(stalled)")).to_have_count(0)


async def test_earlier_attempts_are_listed(board: Board) -> None:
    """A button shows the earlier attempts, each with its outcome; the types of their errors are not translated."""
    await board.add()
    await board.show(STATES["later attempt"][1] | {"earlier_attempts": EARLIER_ATTEMPTS[:2]})
    await expect(board.part("attempts")).to_be_hidden()
    await board.part("expand").press("Enter")
    items = board.part("attempts").get_by_role("listitem")
    await expect(items).to_have_text(["Attempt 1: failed after 12 s · InvalidRow", "Attempt 2: worker lost after 12 s"])
    await expect(items.first.locator("[translate=no]")).to_have_text("InvalidRow")
    await board.show(RUNNING)
    await expect(board.part("attempts")).to_be_hidden()


async def test_name_is_the_label(board: Board) -> None:
    """Without a label of its own, the element shows the job's name, which is translated, unlike a kind."""
    await board.add(name="<b>Export</b> of March")
    await expect(board.part("kind")).to_have_text("<b>Export</b> of March")
    await expect(board.part("kind")).not_to_have_attribute("translate", "no")


async def test_connection_is_explained(board: Board, page: Page, context: BrowserContext) -> None:
    """Without a server the element says one thing, with its reason; it is marked as stale, and blames no worker."""
    await board.site.disconnect()
    await board.add()
    await expect(board.part("note")).to_have_text("The server cannot be reached. Trying again…")
    await expect(board.part("status")).to_have_text("Connecting…")
    board.site.answers = True
    await page.evaluate("dispatchEvent(new Event('online'))")
    await board.show(RUNNING | {"lease_until": after(1)})
    await expect(page.locator("headway-job:state(stale)")).to_have_count(0)
    await board.site.disconnect()
    await expect(board.part("note")).to_have_text("Reconnecting…")
    await expect(page.locator("headway-job:state(stale):state(reconnecting)")).to_have_count(1)
    await expect(board.part("track")).to_have_css("opacity", "0.5")
    await expect(page.locator("headway-job:state(lost)")).to_have_count(0)
    await context.set_offline(True)
    await expect(board.part("note")).to_have_text("You are offline.")
    await context.set_offline(False)
    board.site.answers = True
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(page.locator("headway-job:state(stale)")).to_have_count(0)


async def test_animations_need_no_layout(board: Board, page: Page) -> None:
    """Only `transform` and `opacity` are animated, and nothing where users prefer reduced motion."""
    animated = """() => document.querySelector("headway-job").shadowRoot.getAnimations().flatMap(({ effect }) =>
        effect.getKeyframes().flatMap((frame) => Object.keys(frame)))"""
    await board.add()
    await board.show(STATES["indeterminate"][1])
    assert await page.evaluate(animated) == []
    await page.emulate_media(reduced_motion="no-preference")
    names = set(await page.evaluate(animated))
    await board.show(RUNNING)
    names |= set(await page.evaluate(animated))
    assert {"transform"} <= names - {"offset", "computedOffset", "easing", "composite"} <= {"transform", "opacity"}


# What the oldest browsers that docs/show-progress.md names lack.
REMOVED = """
delete URL.canParse; delete Array.prototype.findLast; delete Array.prototype.toSorted; delete Array.prototype.with;
delete Object.groupBy; delete Promise.withResolvers; delete Promise.try; delete Set.prototype.union;
delete AbortSignal.any; delete AbortSignal.timeout; delete globalThis.Iterator; delete globalThis.TextDecoderStream;
delete ReadableStream.prototype[Symbol.asyncIterator]; delete globalThis.scheduler; delete JSON.rawJSON;
for (const name of Object.keys(Element.prototype)) if (/^aria[A-Z]/.test(name)) delete Element.prototype[name];
"""
OLD_BROWSERS = {
    "without element internals": """
        delete HTMLElement.prototype.attachInternals; delete ElementInternals.prototype.states;
        delete globalThis.CSSStyleSheet;
    """,
    "without custom states": "delete ElementInternals.prototype.states;",
    "custom states that begin with two dashes": """
        const { add } = CustomStateSet.prototype;
        CustomStateSet.prototype.add = function (name) {
          if (!name.startsWith("--")) throw new SyntaxError("The state must begin with --.");
          return add.call(this, name);
        };
    """,
}


@pytest.mark.parametrize("removed", OLD_BROWSERS.values(), ids=OLD_BROWSERS)
async def test_old_browsers_show_the_job(page: Page, site: LiveSite, removed: str) -> None:
    """In the oldest supported browsers the element shows its job with a visible bar, and its events fire."""
    errors = PageErrors(page)
    await page.add_init_script(REMOVED + removed)

    async def remove_new_css(route: Route) -> None:
        response = await route.fetch()
        css = re.sub(r"light-dark\(|color-mix\(|\dlh\b", "unknown(", await response.text())
        await route.fulfill(response=response, body=css)

    await page.route("**/styles.js", remove_new_css)
    board = Board(page, site)
    await board.open()
    await board.add("Export of March")
    await board.show(RUNNING | {"progress": PROGRESS | {"percent": 50.0}})
    await expect(board.part("status")).to_have_text("Running")
    await expect(board.part("percent")).to_have_text("50 %")
    await expect(board.part("bar")).to_have_css("background-color", "rgb(42, 133, 133)")
    await board.show(FAILED)
    await expect(board.part("error")).to_be_visible()
    assert errors.messages == []
