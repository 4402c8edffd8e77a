"""Every state of the pages: accessible, legible in forced colors, narrow, and still while it changes."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from headway.contracts import Timestamp
from tests.browser.job_states import (
    DAY_S,
    EARLIER_ATTEMPTS,
    ERROR,
    JOB_STATES,
    LONG_TEXT,
    LOST,
    NOTHING,
    PROGRESS,
    RUNNING,
    after,
)
from tests.browser.live_site import LiveSite
from tests.browser.probes import COLOR_SHARES, INSPECT, OBSERVE_SHIFTS, RECORD_ANNOUNCEMENTS, TRANSLATE, axe
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

STALLED = JOB_STATES["stalled"][1]


class JobPage:
    """A page that shows one job, and takes it from state to state."""

    def __init__(self, page: Page, site: LiveSite, job_id: str) -> None:
        self.page = page
        self._site = site
        self._job_id = job_id

    async def show(self, fields: dict[str, Any]) -> None:
        """Send a snapshot with these fields, and wait until the page shows it."""
        version = await self._site.show(self._job_id, **(NOTHING | fields))
        await expect(self.page.locator("main")).to_have_attribute("data-version", str(version))

    async def fail(self, code: str) -> None:
        """Send an error about the job."""
        await self._site.send_error(self._job_id, code)

    async def focused(self) -> str:
        """Return the id of the element that has the focus, or its name."""
        focused: str = await self.page.evaluate("document.activeElement.id || document.activeElement.tagName")
        return focused


async def open_job(page: Page, site: LiveSite, **fields: Any) -> JobPage:
    """Open the page of a new job."""
    job_id, token = site.add_job(**fields)
    await page.goto(f"{site.origin}/jobs/{job_id}#{token}")
    await expect(page.locator("main")).to_have_attribute("data-version", "0")
    return JobPage(page, site, job_id)


async def color_shares(page: Page, selector: str) -> list[float]:
    """Return the shares of the colors in an element, the largest first."""
    picture = await page.locator(selector).screenshot(animations="allow")
    shares: list[float] = await page.evaluate(COLOR_SHARES, base64.b64encode(picture).decode())
    return shares


async def wait_for_connection_loss(page: Page, site: LiveSite) -> None:
    """Close the connection and wait until the page says so."""
    await site.disconnect()
    await expect(page.locator("#connection")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_state_is_accessible(page: Page, site: LiveSite, scheme: Any) -> None:
    """In each state of a job axe finds no fault, and at 320 px, as with a zoom, nothing is cut off."""
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": 320, "height": 800})
    job = await open_job(page, site)
    await page.evaluate(axe())
    found = {}
    for name, (status, fields) in JOB_STATES.items():
        await job.show(fields)
        await expect(page.locator("#status")).to_have_text(status)
        found[name] = await page.evaluate(INSPECT)
    await job.show(RUNNING)
    await job.fail("forbidden")
    await expect(page.locator("#error-type")).to_have_text("This link may not cancel the job")
    await wait_for_connection_loss(page, site)
    found["error, connection lost"] = await page.evaluate(INSPECT)
    await page.goto(f"{site.origin}/jobs/{site.add_job()[0]}")
    await expect(page.locator("#error-type")).to_have_text("This link is incomplete")
    await page.evaluate(axe())
    found["incomplete link"] = await page.evaluate(INSPECT)
    assert {name: faults for name, faults in found.items() if faults} == {}


PROBLEMS = ("invalid_token", "token_expired", "refused", "too_many_watches", "unavailable", "unknown", "other")


async def test_every_problem_is_accessible(page: Page, site: LiveSite) -> None:
    """Axe finds no fault on a page that cannot show its job, whatever the reason, and nothing is cut off at 320 px."""
    await page.set_viewport_size({"width": 320, "height": 800})
    await page.emulate_media(reduced_motion="reduce")
    found, shown = dict[str, list[str]](), ""
    job = await open_job(page, site)
    await page.evaluate(axe())
    for code in PROBLEMS:
        await job.fail(code)
        await expect(page.locator("#error")).not_to_have_text(shown)
        shown = await page.locator("#error").inner_text()
        found[code] = await page.evaluate(INSPECT)
    site.answers = False
    job_id, token = site.add_job()
    for name, fragment, text in (
        ("damaged link", "x", "This link is not valid"),
        ("no server", token, "answers with status"),
    ):
        await page.goto("about:blank")
        await page.goto(f"{site.origin}/jobs/{job_id}#{fragment}")
        await expect(page.locator("#error")).to_contain_text(text)
        await page.evaluate(axe())
        found[name] = await page.evaluate(INSPECT)
    await page.context.set_offline(True)
    await expect(page.locator("#error")).to_contain_text("online again")
    found["offline"] = await page.evaluate(INSPECT)
    assert {name: faults for name, faults in found.items() if faults} == {}


# The controls that a user can see, and those that the Tab key has reached, each with its outline.
CONTROLS = """() => [...document.querySelectorAll("a, button, input, select, textarea, [tabindex='0']")]
    .filter((control) => control.checkVisibility({ visibilityProperty: true }) && !control.disabled).length"""
FOCUSED = """() => {
  const { outlineStyle, boxShadow } = getComputedStyle(document.activeElement);
  window.reached ??= new Set();
  if (document.activeElement !== document.body) reached.add(document.activeElement);
  return [reached.size, document.activeElement === document.body || outlineStyle !== "none" || boxShadow !== "none"];
}"""


async def test_keyboard_reaches_every_control(page: Page, site: LiveSite) -> None:
    """The Tab key reaches each control of both pages, and each shows that it has the focus."""
    job = await open_job(page, site)
    for fields in (JOB_STATES["long message"][1], JOB_STATES["succeeded"][1], None):
        if fields:
            await job.show(fields)
        else:
            await page.goto(site.origin)
        count = await page.evaluate(CONTROLS)
        assert count > 1
        await page.evaluate("window.reached = undefined; document.activeElement.blur()")
        for _ in range(count + 1):
            await page.keyboard.press("Tab")
            reached, visible = await page.evaluate(FOCUSED)
            assert visible, await job.focused()
        assert reached >= count


async def test_bar_is_visible_in_forced_colors(page: Page, site: LiveSite) -> None:
    """The bar's filled and empty parts differ in forced colors, also without motion, and from the bar's border."""
    job = await open_job(page, site)
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme, forced_colors="active", reduced_motion="reduce")
        for name in ("determinate", "indeterminate"):
            await job.show(JOB_STATES[name][1])
            shares = await color_shares(page, ".track")
            assert shares[2] > 0.15, (scheme, name, shares)
        await page.locator("#share").focus()
        await expect(page.locator("#share")).to_have_css("outline-style", "solid")


@pytest.mark.parametrize("width", [360, 1440])
async def test_layout_does_not_shift(page: Page, site: LiveSite, width: int) -> None:
    """Nothing moves when a job changes its state, when long messages come and go, or when the connection is lost."""
    await page.set_viewport_size({"width": width, "height": 800})
    await page.add_init_script(OBSERVE_SHIFTS)
    job = await open_job(page, site)
    for _ in range(5):
        await job.show(RUNNING)
        await job.show(JOB_STATES["long message"][1])
    for _, fields in JOB_STATES.values():
        await job.show(fields)
    await job.show(RUNNING)
    await job.fail("unknown")
    await expect(page.locator("#error-type")).to_be_visible()
    await wait_for_connection_loss(page, site)
    site.answers = True
    await expect(page.locator("#connection")).to_be_hidden()
    assert await page.evaluate("shift") <= 0.02


async def test_open_message_keeps_its_height(page: Page, site: LiveSite) -> None:
    """A button opens a long message and keeps the focus. Later messages move nothing until there is none."""
    await page.set_viewport_size({"width": 360, "height": 800})
    job = await open_job(page, site)
    await job.show(RUNNING)
    more = page.locator("#more")
    await expect(more).to_be_hidden()
    await job.show(JOB_STATES["long message"][1])
    await more.focus()
    await page.keyboard.press("Enter")
    await expect(more).to_have_attribute("aria-expanded", "true")
    heights = []
    for message in (LONG_TEXT, "Short", LONG_TEXT):
        await job.show(RUNNING | {"progress": PROGRESS | {"message": message}})
        heights.append(await page.evaluate("document.querySelector('dl').offsetTop"))
    assert len(set(heights)) == 1
    await job.show(RUNNING)
    await page.keyboard.press("Enter")
    assert await job.focused() == "more"
    await page.locator("#share").focus()
    await expect(more).to_be_hidden()
    await job.show(JOB_STATES["long message"][1])
    await more.click()
    await page.locator("#share").focus()
    await job.show(JOB_STATES["succeeded"][1])
    await expect(more).to_be_hidden()
    assert await page.evaluate("document.querySelector('dl').offsetTop") < heights[0]


async def test_only_transforms_and_opacity_are_animated(page: Page, site: LiveSite) -> None:
    """Only what moves is animated, without computing the layout for each frame, and nothing if motion is reduced."""
    read = """() => document.getAnimations().flatMap(({ effect }) => effect.getKeyframes().flatMap(Object.keys))
        .filter((name) => !["offset", "easing", "composite", "computedOffset"].includes(name))"""
    job = await open_job(page, site)
    await page.evaluate(f"window.animated = []; setInterval(() => animated.push(...({read})()), 5)")
    for without_total in ({}, {"total": None, "percent": None}):
        await wait_until(lambda: page.evaluate("document.getAnimations().length === 0"))  # until the job advances
        await page.evaluate("animated = []")
        amount = 0
        while not await page.evaluate("animated.length"):
            amount = amount % 9 + 1
            progress = PROGRESS | {"current": amount, "percent": 10.0 * amount} | without_total
            await job.show(RUNNING | {"progress": progress})
        assert set(await page.evaluate("animated")) <= {"transform", "opacity"}
    await wait_until(lambda: page.evaluate("document.getAnimations().length === 0"))
    await page.emulate_media(reduced_motion="reduce")
    await job.show(RUNNING | {"progress": progress | {"current": 10}})
    assert await page.evaluate(read) == []
    await page.goto(site.origin)
    await page.emulate_media(reduced_motion="no-preference")
    assert await page.evaluate(read) == []


async def test_link_that_has_expired_cannot_cancel(page: Page, site: LiveSite) -> None:
    """The job and the reason stay, without the button, whose focus the status gets."""
    job = await open_job(page, site)
    await job.show(RUNNING)
    await page.locator("#cancel").focus()
    await job.fail("token_expired")
    await expect(page.locator("#error-type")).to_have_text("This link has expired")
    await expect(page.locator("#cancel")).to_be_hidden()
    await expect(page.locator("#status")).to_be_focused()
    await expect(page.locator("#status")).to_have_text("Running")


async def test_focus_is_never_lost(page: Page, site: LiveSite) -> None:
    """A busy button keeps the focus. When a job ends, the status gets the focus of the button that disappears."""
    job = await open_job(page, site)
    await job.show(RUNNING)
    await page.locator("#cancel").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#cancel")).to_have_attribute("aria-disabled", "true")
    await expect(page.get_by_role("button", name="Cancelling…")).to_be_focused()
    await job.show(RUNNING | {"cancel_requested": True})
    assert await job.focused() == "cancel"
    await job.show(JOB_STATES["cancelled"][1])
    assert await job.focused() == "status"
    await page.locator("#share").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#shared")).to_contain_text("The link could not be created.")
    assert await job.focused() == "share"
    await job.show(RUNNING)
    assert await job.focused() == "share"
    await job.show(JOB_STATES["succeeded"][1])
    assert await job.focused() == "share"


async def test_translation_is_kept(page: Page, site: LiveSite) -> None:
    """A text is written only when it changes, so that it is translated once; ids are not translated."""
    job = await open_job(page, site)
    await job.show(JOB_STATES["retrying"][1])
    await page.evaluate(TRANSLATE)
    for percent in (50.0, 60.0, 70.0):
        await job.show(JOB_STATES["retrying"][1] | {"progress": PROGRESS | {"percent": percent}})
    await expect(page.locator("#status")).to_have_text("Retrying (translated)")
    translations = await page.evaluate("translations")
    del translations[""]  # elements without an id, which never change
    assert {name: count for name, count in translations.items() if count > 1} == {}
    assert {"status", "message", "progress-text", "error-message", "cancel"} <= translations.keys()
    await job.show(JOB_STATES["succeeded"][1])
    for selector in ("#kind", "#percent", "#result", "#error-type"):
        assert "translated" not in (await page.locator(selector).text_content() or "")


async def test_changes_are_announced_once(page: Page, site: LiveSite) -> None:
    """A screen reader hears the status and then its changes, why a job failed, and that the connection was lost."""
    await page.add_init_script(RECORD_ANNOUNCEMENTS)
    job = await open_job(page, site, **JOB_STATES["retrying"][1])
    assert await page.evaluate("announcements") == ["Retrying"]
    await job.show(RUNNING)
    await job.show(RUNNING | {"progress": PROGRESS | {"percent": 50.0}})
    await job.show(LOST)
    await job.show(RUNNING)
    await job.show(STALLED)
    await job.show(RUNNING)
    await wait_for_connection_loss(page, site)
    await wait_until(lambda: page.evaluate("announcements.some((text) => text.startsWith('Reconnecting'))"))
    site.answers = True
    await wait_until(lambda: page.evaluate("announcements.includes('Connected again.')"))
    await job.show(JOB_STATES["failed"][1])
    expected = [
        "Retrying",
        "Running",
        "Worker lost",
        "Alive, but has not advanced for",
        "Reconnecting…",
        "Connected again.",
        "Failed",
        "InvalidRow: Row 211",
    ]
    announcements = await page.evaluate("announcements")
    assert len(announcements) == len(expected), announcements
    assert all(text.startswith(start) for text, start in zip(announcements, expected, strict=True)), announcements
    await expect(page.locator("#announcement")).to_be_empty()  # readers of the page find no old announcement


async def test_lost_connection_stops_the_clocks(page: Page, site: LiveSite) -> None:
    """Without a connection the page says of which time its state is, and its clocks stand still."""
    await page.clock.install()
    job = await open_job(page, site)
    await job.show(RUNNING)
    await wait_for_connection_loss(page, site)
    await expect(page.locator("#connection")).to_have_text(
        re.compile(r"Reconnecting… Last known state of \d+:\d\d:\d\d")
    )
    elapsed = await page.locator("#elapsed").text_content()
    await page.clock.fast_forward(1_000_000)
    await expect(page.locator("#elapsed")).to_have_text(elapsed or "")
    await expect(page).to_have_title("Reconnecting… · thumbnails")
    site.answers = True
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(page.locator("#connection")).to_be_hidden()
    await expect(page).to_have_title("40 % · thumbnails")


async def test_lost_worker_is_shown_while_connected(page: Page, site: LiveSite) -> None:
    """A worker is called lost when its lease has ended, but not before the server has sent a later sign of life."""
    await page.clock.install()
    job = await open_job(page, site)
    outlook = page.locator("#outlook")
    await job.show(RUNNING | {"updated_at": str(Timestamp.now()), "lease_until": str(Timestamp.now().after(60))})
    await page.clock.fast_forward(50_000)
    await expect(outlook).to_be_empty()
    await site.send_hello(after_s=50)
    await page.clock.fast_forward(1_000)
    await expect(outlook).to_have_text(re.compile(r"Worker lost, next attempt (in \d+ s|soon)"))
    await job.show(LOST | {"attempt": 5})
    await expect(outlook).to_have_text("Worker lost, no attempt left")
    await job.show(RUNNING)
    await expect(outlook).to_be_empty()


async def test_waiting_is_explained(page: Page, site: LiveSite) -> None:
    """A waiting job says how many jobs wait before it, and a running one that it does not advance, for how long."""
    site.jobs_before = 40
    job = await open_job(page, site)
    await job.show({"submitted_at": after(-7200)})
    outlook = page.locator("#outlook")
    await expect(outlook).to_have_text("About 40 jobs before this one · submitted 2 h ago")
    now = Timestamp.now()
    await job.show(RUNNING | {"started_at": str(now.after(-900)), "advanced_at": str(now.after(-30))})
    await expect(outlook).to_be_empty()
    await expect(page.locator("#remaining-time")).to_be_visible()
    await job.show(STALLED)
    await expect(outlook).to_have_text(re.compile(r"Alive, but has not advanced for \d+ min"))
    await expect(page.locator("#remaining-time")).to_be_hidden()
    await site.disconnect()
    await expect(outlook).to_be_empty()


async def test_name_and_earlier_attempts_are_shown(page: Page, site: LiveSite) -> None:
    """A job's name is the heading and the title. Its earlier attempts are listed with outcome and type of error."""
    job = await open_job(page, site, name="<b>Export</b> of March")
    await expect(page.get_by_role("heading", level=1)).to_have_text("<b>Export</b> of March")
    await expect(page).to_have_title("Queued · <b>Export</b> of March")
    await expect(page.locator("#earlier")).to_be_hidden()
    await job.show(RUNNING | {"attempt": 3, "earlier_attempts": EARLIER_ATTEMPTS[:2]})
    items = page.get_by_role("list", name="Earlier attempts").get_by_role("listitem")
    await expect(items).to_have_text(["Attempt 1: failed after 12 s · InvalidRow", "Attempt 2: worker lost after 12 s"])
    await expect(items.first.locator("[translate=no]")).to_have_text("InvalidRow")
    await expect(page.locator("#elapsed-since")).to_have_text("since start")


async def test_job_leads_with_its_name_and_its_state(page: Page, site: LiveSite) -> None:
    """Kind and short id stand below a name. The chip has a shape and a tone for each state, beside the word."""
    job = await open_job(page, site, name="\u202eExport <b>")
    await expect(page.locator("#label")).to_have_text("thumbnails · 00000000")
    await expect(page.locator("#kind")).to_have_text("Export <b>")
    await expect(page.locator("#kind")).to_have_attribute("dir", "auto")
    shapes = {}
    for name in ("queued", "determinate", "stalled", "worker lost", "retrying", "failed", "succeeded", "cancelled"):
        await job.show(JOB_STATES[name][1])
        shapes[name] = await page.locator("#chip svg").inner_html()
    assert len(set(shapes.values())) == len(shapes)
    await expect(page.locator("#chip")).to_have_attribute("data-tone", "cancelled")
    await site.disconnect()
    await expect(page.locator("#chip")).to_have_attribute("data-tone", "stale")


OUTLINE = """
- heading "Export of March" [level=1]
- status: Failed
- code: thumbnails · 00000000
- paragraph: 4 of 10 photos
- progressbar "Progress"
- paragraph: "Last message: Resizing photo-0004.jpg"
- paragraph
- term: Elapsed
- definition: /\\d+:\\d\\d:\\d\\d/
- definition: since start
- term: Attempt
- definition: 2 of 5
- term: Submitted
- definition:
  - time
- definition: /ago/
- term: Started
- definition:
  - time
- definition: /ago/
- term: Finished
- definition:
  - time
- definition: /ago|now/
- button "Copy watch-only link"
- region "Earlier attempts":
  - heading "Earlier attempts" [level=2]
  - list "Earlier attempts":
    - listitem: "Attempt 1: failed after 12 s · InvalidRow"
- region "InvalidRow":
  - heading "InvalidRow" [level=2]
  - paragraph: "Row 211: 'twelve' is not a number."
  - button "Copy error"
- region "Result":
  - heading "Result" [level=2]
  - group "Result": "10"
  - button "Copy result"
  - button "Download result"
"""


async def test_page_reads_in_the_order_of_importance(page: Page, site: LiveSite) -> None:
    """A screen reader finds the name, the status, the progress, the times, what can be done, and then the details."""
    job = await open_job(page, site, name="Export of March")
    ended = JOB_STATES["failed"][1] | {"attempt": 2, "earlier_attempts": EARLIER_ATTEMPTS[:1], "result": 10}
    await job.show(ended)
    await expect(page.get_by_role("main")).to_match_aria_snapshot(OUTLINE)


async def test_numbers_and_times_follow_the_language_of_the_browser(browser: Browser, site: LiveSite) -> None:
    """A German browser shows 1.234,5 files and a clock without AM and PM."""
    async with await browser.new_context(locale="de-DE") as context:
        page = await context.new_page()
        job = await open_job(page, site)
        await job.show(RUNNING | {"progress": PROGRESS | {"current": 1234.5, "total": 2000, "percent": 61.7}})
        await expect(page.locator("#progress-text")).to_have_text("1.234,5 of 2.000 photos")
        await expect(page.locator("#started")).to_have_text(re.compile(r"\d\d:\d\d(:\d\d)?$"))


async def test_all_numbers_have_the_digits_of_the_language(browser: Browser, site: LiveSite) -> None:
    """A Persian browser shows the number of the attempt in the digits of all other numbers."""
    async with await browser.new_context(locale="fa-IR") as context:
        page = await context.new_page()
        job = await open_job(page, site)
        await job.show(RUNNING | {"attempt": 2, "max_attempts": 5})
        await expect(page.locator("#attempt")).to_have_text("\u06f2 of \u06f5")


async def test_times_of_a_job_are_shown(page: Page, site: LiveSite) -> None:
    """The page shows when a job was submitted, first started and finished, in the reader's zone, and how long ago."""
    await page.clock.install()
    job = await open_job(page, site)
    ages = page.locator("#dates .age")
    await expect(page.locator("#finished")).to_be_empty()
    first = EARLIER_ATTEMPTS[0]
    ended = JOB_STATES["failed"][1] | {"attempt": 2, "earlier_attempts": [first]}
    await job.show(ended | {"finished_at": str(Timestamp.now().after(-90))})
    await expect(page.locator("#started")).to_have_attribute("datetime", str(first["started_at"]))
    await expect(page.locator("#finished")).to_have_text(re.compile(r"\d:\d\d"))
    await expect(ages).to_have_text(["2 h ago", "1 h ago", "1 min ago"])


async def test_long_error_is_cut_and_opens(page: Page, site: LiveSite) -> None:
    """A long error is cut after some lines, opens with a button, is copied as it is, and shows each line as it was."""
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = "\n".join(f"  line {number}: <b>{LONG_TEXT[:60]}</b>" for number in range(20))
    job = await open_job(page, site)
    await job.show(JOB_STATES["failed"][1] | {"error": ERROR | {"message": text}})
    message = page.locator("#error-message")
    await expect(message).to_have_css("font-family", re.compile("mono"))
    assert await message.inner_text() == text
    cut = await message.evaluate("(text) => text.offsetHeight")
    await page.get_by_role("button", name="Copy error").click()
    await expect(page.get_by_role("button", name="Copied error")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == f"{ERROR['type']}: {text}"
    more = page.locator("#error-more")
    await more.focus()
    await page.keyboard.press("Enter")
    await expect(more).to_have_text("Show less")
    assert await message.evaluate("(text) => text.offsetHeight") > cut
    await job.show(JOB_STATES["failed"][1])
    await expect(more).to_have_text("Show all")
    assert await message.evaluate("(text) => text.offsetHeight") < cut
    await job.show(RUNNING)
    await expect(message).to_be_hidden()


async def test_result_is_a_tree(page: Page, site: LiveSite) -> None:
    """A result opens and closes, has links and buttons, and stays as it is when a later snapshot has the same one."""
    job = await open_job(page, site)
    ended = JOB_STATES["succeeded"][1] | {"result": {"archive": "https://example.org/a.zip", "rows": [1, 2, 3]}}
    await job.show(ended)
    section = page.get_by_role("region", name="Result")
    await expect(section.get_by_role("link", name="https://example.org/a.zip")).to_be_visible()
    await expect(section.get_by_role("button")).to_have_text(["Copy result", "Download result"])
    rows = section.locator("summary", has_text="rows")
    await rows.click()
    await job.show(ended | {"expires_at": after(DAY_S)})
    await expect(page.locator("#result")).not_to_contain_text("0: 1", use_inner_text=True)
    await job.show(RUNNING)
    await expect(section).to_have_count(0)


async def test_ended_job_does_not_contradict_itself(page: Page, site: LiveSite) -> None:
    """A success shows no earlier amount or message, and a failure calls its message the last one."""
    job = await open_job(page, site)
    await job.show(JOB_STATES["failed"][1])
    await expect(page.locator("#message")).to_have_text("Last message: Resizing photo-0004.jpg")
    await expect(page.locator("#progress-text")).to_have_text("4 of 10 photos")
    await expect(page.locator("#remaining-time")).to_be_hidden()
    await job.show(JOB_STATES["succeeded"][1])
    await expect(page.locator("#percent")).to_have_text("100 %")
    await expect(page.locator("#progress-text")).to_be_empty()
    await expect(page.locator("#message")).to_be_empty()
    ended = {"status": "cancelled", "finished_at": str(Timestamp.now())}
    for started, text in ((str(Timestamp.now()), "No progress"), (None, "Never started")):
        await job.show(ended | {"started_at": started})
        await expect(page.locator("#progress-text")).to_have_text(text)
        await expect(page.locator("#progress-text")).to_be_visible()


async def test_times_cover_all_attempts(page: Page, site: LiveSite) -> None:
    """The elapsed time counts from the first start that the page knows, else from the submission, and says which."""
    now = Timestamp.now()
    second = RUNNING | {"attempt": 2, "started_at": str(now.after(-70)), "updated_at": str(now.after(-60))}
    job = await open_job(page, site)
    await job.show(second)
    await expect(page.locator("#elapsed")).to_have_text(re.compile(r"2:\d\d:\d\d"))
    await expect(page.locator("#elapsed-since")).to_have_text("since submission")
    await expect(page.locator("#remaining-time")).to_be_hidden()
    await job.show(second | {"progress": PROGRESS | {"percent": 41.0}, "updated_at": str(now)})
    await expect(page.locator("#remaining-time")).to_be_hidden()
    await job.show(second | {"progress": PROGRESS | {"percent": 50.0}, "updated_at": str(now)})
    await expect(page.locator("#remaining")).to_have_text(re.compile(r"about \d:\d\d"))
    other = await open_job(page, site, **RUNNING)
    await other.show(second)
    await expect(page.locator("#elapsed")).to_have_text(re.compile(r"^\d\d?:\d\d$"))
    await expect(page.locator("#elapsed-since")).to_have_text("since start")
    ended = {"status": "succeeded", "started_at": str(now), "finished_at": str(now.after(0.04))}
    await (await open_job(page, site)).show(RUNNING | ended)
    await expect(page.locator("#elapsed")).to_have_text("40 ms")


async def test_missing_server_has_one_message(page: Page, site: LiveSite) -> None:
    """A page that cannot connect shows one message with a reason, and the job as soon as it can."""
    site.answers = False
    job_id, token = site.add_job()
    await page.goto(f"{site.origin}/jobs/{job_id}#{token}")
    await expect(page.locator("#status")).to_have_text("The server does not answer yet; still trying…")
    await expect(page.locator("#error-message")).to_contain_text(f"{site.origin} answers with status 502.")
    await expect(page.locator("#connection")).to_be_hidden()
    site.answers = True
    await expect(page.locator("#status")).to_have_text("Queued")
    await expect(page.locator("#error")).to_be_hidden()


async def test_pages_without_javascript(browser: Browser, site: LiveSite) -> None:
    """Without JavaScript the job page shows what is missing, and nothing that does not work."""
    async with await browser.new_context(java_script_enabled=False) as context:
        page = await context.new_page()
        await page.goto(f"{site.origin}/jobs/{site.add_job()[0]}")
        await expect(page.locator("noscript")).to_be_visible()
        assert "This page needs JavaScript" in await page.inner_text("body")  # Playwright skips the text of <noscript>
        await expect(page.get_by_role("button")).to_have_count(0)
        await expect(page.get_by_text("Connecting")).to_be_hidden()
        await page.goto(site.origin)
        await expect(page.locator("noscript")).to_be_visible()
        assert "JavaScript is turned off" in await page.inner_text("body")
        await expect(page.get_by_role("button")).to_have_count(1)


async def test_page_whose_scripts_do_not_come(browser: Browser, site: LiveSite) -> None:
    """It says after a while that it could not be loaded, and not that JavaScript is turned off."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.route("**/assets/watch.js", lambda route: route.abort())
        await page.goto(f"{site.origin}/jobs/{site.add_job()[0]}")
        text = page.get_by_text("The page could not be loaded. Reload it.")
        await expect(text).to_be_hidden()
        await page.evaluate("document.getAnimations().forEach((each) => each.finish())")
        await expect(text).to_be_visible()
        await expect(page.locator("noscript")).to_be_hidden()
