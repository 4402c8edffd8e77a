"""The elapsed and the remaining time of the job page, in Node.js."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from dev.environment import ROOT
from tests.browser.npm import run_node

pytestmark = pytest.mark.browser

PAGES = ROOT / "services" / "submitter" / "pages"
# The module's text is imported: its folder has no package.json that calls it a module.
PROGRAM = """
import { readFileSync } from "node:fs";
const { JobTimes } = await import(`data:text/javascript,${encodeURIComponent(readFileSync("times.js"))}`);
const times = new JobTimes();
const [now, ...snapshots] = JSON.parse(process.argv[1]);
snapshots.forEach((snapshot) => times.add(snapshot));
const { ms, since } = times.elapsed(snapshots.at(-1), now);
console.log(JSON.stringify([ms / 1000, since, times.remaining(snapshots.at(-1), now)]));
"""
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


def at(seconds: float) -> str:
    """Return a time relative to now."""
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


def running(percent: float, **fields: Any) -> dict[str, Any]:
    """Return a snapshot of a running job."""
    times = {"submitted_at": at(-9000), "updated_at": at(0), "finished_at": None}
    state = {"status": "running", "generation": 0, "attempt": 1, "progress": {"percent": percent}}
    return {**times, **state, **fields}


def times(*snapshots: dict[str, Any]) -> Any:
    """Return the elapsed time in s, what it counts from, and the remaining time in ms, after these snapshots."""
    completed = run_node(PAGES, "--input-type=module", "--eval", PROGRAM, json.dumps([NOW * 1000, *snapshots]))
    assert completed.stderr == ""
    return json.loads(completed.stdout)


def test_remaining_time_counts_from_the_last_advance() -> None:
    """Snapshots without progress, such as renewals of the lease, do not lengthen the estimate."""
    assert times(running(50, started_at=at(-100), advanced_at=at(-20))) == [100, "start", 60_000]
    later = {"started_at": at(-300), "attempt": 2}
    seen = [running(10, **later, advanced_at=at(-200)), running(40, **later, advanced_at=at(-50))]
    assert times(*seen)[2] == 250_000


def test_elapsed_time_counts_from_the_first_attempt_of_this_run() -> None:
    """After a job was redriven, the elapsed time begins with its first attempt since then."""
    earlier = [{"attempt": 1, "started_at": at(start)} for start in (-5000, -400)]
    redriven = running(0, generation=1, attempt=2, started_at=at(-50), earlier_attempts=earlier)
    assert times(redriven)[:2] == [400, "start"]
    assert times(redriven | {"earlier_attempts": []})[:2] == [9000, "submission"]
    unseen = redriven | {"redriven_at": at(-500), "earlier_attempts": earlier[:1]}
    assert times(unseen)[:2] == [500, "restart"]
