"""The texts of a row of the dashboard's list, and the filter of its URL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.browser.job_states import JOB_STATES, NOTHING, NOW, RUNNING, after
from tests.browser.live_site import LiveSite

pytestmark = pytest.mark.browser

UNKNOWN = "\N{EN DASH}"
QUEUED = NOTHING | {"version": 1, "submitted_at": after(-7200), "max_attempts": 5}
AGAIN = {"generation": 1, "redriven_at": after(-120)}
LINES = {
    "no record": "Waiting for a worker",
    "queued": "Starts in 1 d",
    "determinate": "4 of 10 photos · Resizing photo-0004.jpg",
    "indeterminate": "4 photos · Resizing photo-0004.jpg",
    "retrying": "Next attempt in 1 d",
    "worker lost": "Worker lost, next attempt soon",
    "stalled": "Has not advanced for 12 min",
    "cancelled": "Stopped at 4 of 10 photos",
    "failed": "Stopped at 4 of 10 photos",
    "succeeded": "10 photos",
}


@pytest.fixture(scope="module")
async def texts(browser: Browser, running_site: LiveSite) -> AsyncIterator[Page]:
    """Open a page that can import the modules, one for all tests: the functions that they call change nothing in it."""
    running_site.page = "<!doctype html><title>Texts</title>"
    async with await browser.new_context(locale="en-US") as context:
        page = await context.new_page()
        await page.goto(f"{running_site.origin}/embedding")
        yield page


async def call(page: Page, module: str, expression: str) -> Any:
    """Return the value of an expression in which `m` is a module."""
    return await page.evaluate(f"import('/assets/{module}').then((m) => {expression})")


async def test_a_line_says_what_an_operator_asks_next(texts: Page) -> None:
    """The line beside the bar says how far a job is, what it waits for, when it starts, or where it stopped."""
    jobs = {name: QUEUED | fields for name, (_, fields) in JOB_STATES.items() if name in LINES}
    jobs |= {"released": QUEUED | {"started_at": after(-60)}, "never started": QUEUED | {"status": "cancelled"}}
    lines = LINES | {"released": "Released, waiting for a worker", "never started": "Never started"}
    calls = f"Object.fromEntries(Object.entries({json.dumps(jobs)}).map(([name, job]) => "
    shown = await call(texts, "row-texts.js", f"{calls}[name, m.lineText(job, {int(NOW)}, {int(NOW)})]))")
    assert shown == lines


async def test_numbers_of_a_job(texts: Page) -> None:
    """The wait is that for the first attempt, the work that of all attempts, since the job was last run again."""
    earlier = {"attempt": 1, "started_at": after(-5000), "ended_at": after(-4990), "outcome": "failed", "error": None}
    again = earlier | {"started_at": after(-115), "ended_at": after(-95)}
    jobs = [
        QUEUED,
        QUEUED | {"due_at": after(60)},
        QUEUED | RUNNING,
        QUEUED | RUNNING | {"attempt": 2, "earlier_attempts": [earlier]},
        QUEUED | RUNNING | {"attempt": 3},
        QUEUED | {"status": "retrying", "started_at": after(-70), "updated_at": after(-60)},
        QUEUED | AGAIN | {"earlier_attempts": [earlier]},
        QUEUED | AGAIN | RUNNING | {"earlier_attempts": [earlier]},
        QUEUED | AGAIN | RUNNING | {"attempt": 2, "earlier_attempts": [earlier, again]},
        QUEUED | AGAIN | RUNNING | {"redriven_at": None},
    ]
    numbers = "[m.attemptCount(job), m.shortDuration(m.waitMs(job, now)), m.shortDuration(m.workMs(job, now))]"
    expression = f"{json.dumps(jobs)}.map((job) => ((now) => {numbers})({int(NOW)}))"
    assert await call(texts, "row-texts.js", expression) == [
        [UNKNOWN, "2 h", UNKNOWN],
        [UNKNOWN, UNKNOWN, UNKNOWN],
        ["1", "1 h 58 min", "1 min 15 s"],
        ["2 of 5", "36 min", "1 min 25 s"],
        ["3 of 5", UNKNOWN, "1 min 15 s"],
        ["1 of 5", "1 h 58 min", "10 s"],
        [UNKNOWN, "2 min", UNKNOWN],
        ["1", "45 s", "1 min 15 s"],
        ["2 of 5", "5 s", "1 min 35 s"],
        ["1", UNKNOWN, "1 min 15 s"],
    ]


async def test_durations(texts: Page) -> None:
    """A duration has at most two units; seconds only matter for the first minutes."""
    seconds = {
        0: "0 s",
        59: "59 s",
        60: "1 min",
        130: "2 min 10 s",
        1199: "19 min",
        22_320: "6 h 12 min",
        180_000: "2 d 2 h",
    }
    shown = await call(texts, "row-texts.js", f"{list(seconds)}.map((each) => m.shortDuration(each * 1000))")
    assert shown == list(seconds.values())


FILTERS: dict[str, dict[str, Any]] = {
    "": {"since": "2026-11-29T11:00:00.000Z"},
    "range=1h": {"since": "2026-11-30T09:30:00.000Z"},
    "range=all": {},
    "range=constructor": {"since": "2026-11-29T11:00:00.000Z"},
    "range=__proto__": {"since": "2026-11-29T11:00:00.000Z"},
    "status=failed&range=7d": {"status": ["failed"], "since": "2026-11-23T10:00:00.000Z"},
    "status=queued": {"status": ["queued"]},
    "status=queued,running&range=24h": {"status": ["queued", "running"], "since": "2026-11-29T11:00:00.000Z"},
    "kind=a&owner=b&tag=c&tag=d&error_type=E&attempts_min=2&until=2026-11-30T10:00:00Z": {
        "kind": "a",
        "owner": "b",
        "tag": ["c", "d"],
        "error_type": "E",
        "attempts_min": 2,
        "until": "2026-11-30T10:00:00Z",
    },
}


async def test_filters_of_urls(texts: Page) -> None:
    """By default a list has the jobs of the hours of the chart, and one of jobs that have not ended has all."""
    now = "Date.parse('2026-11-30T10:30:15Z')"
    expression = (
        f"{json.dumps(list(FILTERS))}.map((query) => new m.JobFilter(new URLSearchParams(query), {now}).fields)"
    )
    assert await call(texts, "job-filter.js", expression) == list(FILTERS.values())


async def test_titles_of_lists(texts: Page) -> None:
    """A list is called after its statuses, whatever the URL has for them."""
    titles = {
        "": "Jobs",
        "failed": "Failed jobs",
        "queued,running": "Queued, Running jobs",
        "constructor": "constructor jobs",
    }
    assert await call(texts, "status-tabs.js", f"{json.dumps(list(titles))}.map(m.listTitle)") == list(titles.values())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"status": ["x"]}, "Status cannot be used: “x” is not one of queued, running, retrying, failed, cancelled "),
        ({"since": "2026-01-01"}, "Time cannot be used: “2026-01-01” is not a time such as 2026-01-31T09:30:00Z."),
        ({"attempts_min": "many"}, "Attempts cannot be used: “many” is not a whole number above 0."),
        ({"kind": "a", "tag": ["b", " "]}, "Kind cannot be used: “a” is not the name of a kind."),
    ],
)
async def test_wrong_filters(texts: Page, fields: dict[str, Any], problem: str) -> None:
    """The first field that cannot be used is named; of some fields, only the server knows what is wrong."""
    rejected = json.dumps([{"fields": fields}, "The field kind is not valid."])
    text = await call(texts, "filter-problem.js", f"m.filterProblem(...{rejected})")
    assert text.startswith(f"The filter {problem}")
