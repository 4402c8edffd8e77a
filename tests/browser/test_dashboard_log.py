"""The log of a job on the dashboard: lines that keep their numbers, search, follow, and texts that stay texts."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.dashboard import MARKUP, Dashboard, inspect, open_dashboard
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

# Return what a line of a terminal looks like: the visible texts, each with its classes.
PARSE = """async (lines) => {
  const { parseAnsi, PLAIN, styleClasses } = await import("/assets/ansi.js");
  let style = PLAIN;
  return lines.map((line) => {
    const parsed = parseAnsi(line, style);
    style = parsed.style;
    return parsed.runs.map(({ text, style }) => [text, styleClasses(style)]);
  });
}"""
# Add pieces to a log, and return its lines.
ADD = """async (pieces) => {
  const { LogLines } = await import("/assets/log-lines.js");
  const log = new LogLines();
  for (const piece of pieces) log.add(piece);
  const lines = log.lines.map(({ number, attempt, missing, plain }) => [number, attempt, missing, plain]);
  return { missing: log.missing, lines };
}"""
# The order for screen readers: what the log can do, then its attempts, each with the number and the text of its lines.
FAILED_LOG = """
- region "Log":
  - heading "Log" [level=2]
  - search:
    - searchbox "Search the log"
    - status
  - button "Wrap" [pressed]
  - button "Copy"
  - button "Download"
  - region "Lines of the log":
    - region "Attempt 1":
      - heading "Attempt 1" [level=3]
      - link "1"
      - time
      - text: INFO Reading customers.csv, 400 rows
      - link "2"
    - region "Attempt 2":
      - heading "Attempt 2" [level=3]
"""
MARKED = ".log-line[aria-current]"
AT_END = "box => box.scrollHeight - box.scrollTop - box.clientHeight < 2"


class Log:
    """The log of a job of this test, in a page."""

    def __init__(self, page: Page, dashboard: Dashboard) -> None:
        self.page = page
        self.stack = dashboard.stack
        self._dashboard = dashboard
        self.receipt = {"id": str(uuid.uuid4())}
        self._size = 0

    async def report(self, sequence: int = 1, **fields: Any) -> None:
        """Report as the worker of the job."""
        verdict = await self.stack.report(self.receipt, sequence, **fields)
        assert verdict["accepted"], verdict

    async def append(self, text: str, **fields: Any) -> None:
        """Append to the log as the worker of the job."""
        await self.stack.append_log(self.receipt, self._size, text, watchers=False, **fields)
        self._size += len(text.encode())

    async def open(self, job_id: str | None = None, hash_: str = "") -> None:
        """Open the job, with a hash in the URL."""
        await open_dashboard(self.page, self._dashboard, f"/jobs/{job_id or self.receipt['id']}{hash_}")

    @property
    def box(self) -> Locator:
        """The box that scrolls."""
        return self.page.locator(".log-box")

    @property
    def note(self) -> Locator:
        """The sentence above the lines."""
        return self.page.locator(".log-note")

    def line(self, number: int) -> Locator:
        """Locate the text of a line."""
        return self.page.locator(f'.log-line:has([href="#line-{number}"]) .log-text')

    def button(self, name: str) -> Locator:
        """Locate a button."""
        return self.page.locator(".log").get_by_role("button", name=name)

    async def wait_for_end(self) -> None:
        """Wait until the box shows its end."""
        await wait_until(lambda: self.box.evaluate(AT_END))


@pytest.fixture
async def log(page: Page, dashboard: Dashboard) -> Log:
    """Return the log of a new job that runs, beside the page of the dashboard."""
    log = Log(page, dashboard)
    await log.report()
    return log


async def test_terminal_sequences(log: Log) -> None:
    """Colors and styles become classes of a fixed set; all other sequences are left out, and controls can be seen."""
    await log.open()
    examples = {
        "plain <b>": [["plain <b>", ""]],
        "\x1b[31mred\x1b[0m, \x1b[1;4;92mgreen\x1b[m": [
            ["red", "ansi-color-1"],
            [", ", ""],
            ["green", "ansi-bold ansi-underline ansi-color-2"],
        ],
        "\x1b[38;5;196ma\x1b[38;2;10;20;250mb\x1b[38:2::10:200:20mc\x1b[38;5;244md\x1b[39me": [
            ["a", "ansi-color-1"],
            ["b", "ansi-color-4"],
            ["c", "ansi-color-2"],
            ["d", "ansi-color-8"],
            ["e", ""],
        ],
        "\x1b[41;37mwhite\x1b[49;7minverse\x1b[27m \x1b[38;5m\x1b[99m\x1b[": [
            ["white", "ansi-background-1"],
            ["inverse", "ansi-inverse"],
            [" ", ""],
        ],
        "\x1b]0;title\x07a\x1b]8;;https://x.example\x1b\\link\x1b]8;;\x1b\\\x1b[2K\x1b(B\x1b]open": [
            ["a", ""],
            ["link", ""],
            ["open", ""],
        ],
        "10 %\r\x1b[32m50 %\r100 %\r": [["100 %", "ansi-color-2"]],
        "goes on": [["goes on", "ansi-color-2"]],
        "\x1b[0mNUL \0, DEL \x7f, \u202eoverride, \x9c and \ud800": [
            ["NUL \u2400, DEL \u2421, [U+202E]override, [U+009C] and \ud800", ""]
        ],
    }
    parsed = await log.page.evaluate(
        f"async (text) => JSON.stringify(await ({PARSE})(JSON.parse(text)))", json.dumps(list(examples))
    )
    assert json.loads(parsed) == list(examples.values())


async def test_lines_of_pieces(log: Log) -> None:
    """A line may come in several pieces; its number and what is missing before it are known; a lost log restarts."""
    await log.open()

    def piece(start: int, text: str, attempt: int = 1, **fields: Any) -> dict[str, Any]:
        return {"from": start, "to": start + len(text.encode()), "attempt": attempt, "text": text, **fields}

    gone = [piece(100, "a\nb", line=8), piece(103, "c\n\nd"), piece(200, "e\n", attempt=2, line=40)]
    added = await log.page.evaluate(ADD, gone)
    expected = [[8, 1, 0, "a"], [9, 1, 0, "bc"], [10, 1, 0, ""], [11, 1, 0, "d"], [40, 2, 93, "e"]]
    assert added == {"missing": 100, "lines": expected}
    lost = await log.page.evaluate(ADD, [*gone, piece(0, "new\n")])
    assert lost == {"missing": 0, "lines": [[1, 1, 0, "new"]]}


async def test_a_log_is_followed_until_the_reader_scrolls_up(log: Log) -> None:
    """Then it stays still while lines arrive; the button, or a scroll to the end, follows again, and so does a key."""
    await log.open()
    await expect(log.note).to_have_text("Nothing has been logged yet.")
    await log.append("".join(f"09:30:00.184 INFO line {number}\n" for number in range(1, 101)))
    await expect(log.line(100)).to_have_text("09:30:00.184 INFO line 100")
    await expect(log.note).to_be_hidden()
    await log.wait_for_end()
    follow = log.button("Follow")
    await expect(follow).to_have_attribute("aria-pressed", "true")
    await log.box.hover()
    await log.page.mouse.wheel(0, -600)
    await expect(follow).to_have_attribute("aria-pressed", "false")
    top = await log.box.evaluate("box => box.scrollTop")
    await log.append("09:30:01.000 ERROR the last line\n")
    await expect(log.line(101)).to_have_text("09:30:01.000 ERROR the last line")
    assert await log.box.evaluate("box => box.scrollTop") == top
    await follow.click()
    await log.wait_for_end()
    await log.append("09:30:01.000 WARNING one more\n")
    await expect(log.line(102)).to_be_visible()
    await log.wait_for_end()
    await log.page.keyboard.press("f")
    await expect(follow).to_have_attribute("aria-pressed", "false")
    assert await inspect(log.page) == []
    await follow.focus()
    await log.report(2, status="succeeded")
    await expect(follow).to_be_hidden()
    await expect(log.box).to_be_focused()


async def test_search_and_links(log: Log) -> None:
    """Matches are counted and visited in order; a link leads to its line, and says so if the line is gone."""
    await log.append("".join(f"\x1b[32mGET\x1b[0m /page-{number}\n" for number in range(1, 201)))
    await log.open()
    await expect(log.line(200)).to_be_visible()
    await log.page.keyboard.press("/")
    await log.page.keyboard.type("get /PAGE-1")
    count = log.page.locator(".log-count")
    await expect(count).to_have_text("1 of 111")
    assert await log.page.evaluate("CSS.highlights.get('log-match').size") == 111
    await expect(log.line(1)).to_be_in_viewport()
    await log.page.keyboard.press("Shift+Enter")
    await expect(count).to_have_text("111 of 111")
    await expect(log.line(199)).to_be_in_viewport()
    await log.page.keyboard.press("Enter")
    await log.button("Next match").click()
    await expect(count).to_have_text("2 of 111")
    await log.append(f"GET /page-1000\n{'~' * 1500}\n")
    await expect(count).to_have_text("2 of 112")
    await log.page.get_by_role("searchbox", name="Search the log").fill("~")
    await expect(count).to_have_text("1 of 1,500")
    assert await log.page.evaluate("CSS.highlights.get('log-match').size") == 1000
    await log.page.get_by_role("searchbox", name="Search the log").fill("(")
    await expect(count).to_have_text("No matches")
    await log.open(hash_="#line-120")
    await expect(log.page.locator(MARKED)).to_have_text("120GET /page-120")
    await expect(log.line(120)).to_be_in_viewport()
    await log.page.locator(".log-number[tabindex='0']").focus()
    await log.page.keyboard.press("ArrowDown")
    await expect(log.page.locator(".log-number:focus")).to_have_text("121")
    await log.page.keyboard.press("Enter")
    await expect(log.page.locator(MARKED)).to_have_text("121GET /page-121")
    assert log.page.url.endswith("#line-121")
    await log.page.evaluate("location.hash = '#line-9000'")
    await expect(log.note).to_contain_text("Line 9,000 is not here")
    await expect(log.page.locator(MARKED)).to_have_count(0)
    assert await inspect(log.page) == []


async def test_texts_are_never_markup(log: Log, tmp_path: Path) -> None:
    """Markup, controls, and texts from right to left are shown as they are; copies and downloads have all of them."""
    lines = [
        MARKUP,
        "</script><script>window.hacked = 1</script>",
        "\0\x1b[31mred\x1b[0m",
        "\u202eتقرير",
        "👩‍👩‍👧‍👦",
        "x" * 5000,
    ]
    await log.append("\n".join(lines))
    await log.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await log.open()
    await expect(log.line(1)).to_have_text(MARKUP)
    await expect(log.line(3)).to_have_text("\u2400red")
    await expect(log.line(4)).to_have_text("[U+202E]تقرير")
    for width in (1280, 360):
        await log.page.set_viewport_size({"width": width, "height": 800})
        assert await inspect(log.page) == []
    await log.button("Wrap").click()
    assert await inspect(log.page) == []
    await log.button("Copy").click()
    await expect(log.page.locator(".notice")).to_contain_text("6 lines were copied.")
    copied = await log.page.evaluate("navigator.clipboard.readText()")
    assert copied.split("\n")[:3] == [*lines[:2], "\u2400red"]
    async with log.page.expect_download() as download:
        await log.button("Download").click()
    saved = tmp_path / "job.log"
    await (await download.value).save_as(saved)
    assert saved.read_text() == "\n".join(lines) + "\n"


async def test_attempts_and_lost_parts(log: Log) -> None:
    """Each attempt has a section; what is missing is marked, and lines keep their numbers when older ones are gone."""
    await log.append("first\n… 1,240 lines left out\nlast\n")
    await log.report(1, delivery=2, attempt=2)
    for start in (0, 40_000, 90_000):  # the second piece is missing
        line = f"{start:07} {'x' * 92}\n"
        await log.stack.append_log(log.receipt, start, line * 300, delivery=2, attempt=2, watchers=False)
    await log.open()
    gone = log.page.locator(".log-gap").first
    await expect(gone).to_have_text("Lines 1 to 580 are no longer kept.")
    await expect(log.page.locator(".log-number").first).to_have_text("581")
    await expect(log.line(905)).to_have_text(f"0090000 {'x' * 92}")
    await expect(log.page.locator("[data-left-out]")).to_have_text(["605…"])
    await expect(log.page.locator(".log-attempt h3")).to_have_text("Attempt 2")


async def test_logs_that_are_not_there(log: Log, dashboard: Dashboard) -> None:
    """An ended job without a log says so. Of the flood of a failed job, the parts that were left out are marked."""
    await log.report(2, status="succeeded")
    await log.open()
    await expect(log.note).to_have_text("The job has logged nothing, or its log has been erased or lost.")
    assert await inspect(log.page) == []
    await log.open(dashboard.jobs["Import customers.csv"])
    attempts = log.page.locator(".log-attempt h3")
    await expect(attempts).to_have_text(["Attempt 1", "Attempt 2", "Attempt 3"])
    await expect(log.page.locator(".log")).to_match_aria_snapshot(FAILED_LOG)
    await log.open(dashboard.jobs["Fill the disk"])
    await expect(log.line(1)).to_have_text(f"000000 {'x' * 90}")
    await expect(log.page.locator("[data-left-out]").first).to_contain_text("lines left out")
    await log.wait_for_end()
