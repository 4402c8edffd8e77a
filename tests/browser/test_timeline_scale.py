"""What the timeline of a job draws, in Node.js: the parts of its life, and their places on the axis."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.environment import ROOT
from tests.browser.npm import run_node

DASHBOARD = ROOT / "services" / "submitter" / "dashboard"
PROGRAM = """
import { attemptsOf, isContinued, partsOf, place } from "./timeline-scale.js";
const output = JSON.parse(process.argv[1]).map(({ snapshot, details, now }) => {
  const attempts = attemptsOf(snapshot, details);
  return { attempts, continued: isContinued(snapshot), parts: place(partsOf(snapshot, attempts, now)) };
});
console.log(JSON.stringify(output));
"""
DAY = 86_400


def at(seconds: float) -> str:
    """Return a time after the submission."""
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def snapshot(status: str, **fields: Any) -> dict[str, Any]:
    """Return a snapshot with what the timeline reads."""
    times = {"submitted_at": at(0), "started_at": None, "updated_at": None, "finished_at": None, "due_at": None}
    return {"status": status, "attempt": 1, "error": None, **times, **fields}


def earlier(attempt: int, start: float, end: float, outcome: str = "failed") -> dict[str, Any]:
    """Return an earlier attempt of a snapshot."""
    return {"attempt": attempt, "started_at": at(start), "ended_at": at(end), "outcome": outcome, "error": "InvalidRow"}


QUEUED = snapshot("queued")
FAILED = snapshot(
    "failed",
    attempt=3,
    earlier_attempts=[earlier(1, 2, 22), earlier(2, 34, 56)],
    started_at=at(76),
    finished_at=at(100),
    updated_at=at(100),
    error={"type": "InternalError", "message": "The job failed unexpectedly."},
)
RUNNING = snapshot(
    "running", attempt=2, earlier_attempts=[earlier(1, 0, 10, "lost")], started_at=at(15), advanced_at=at(20)
)
RETRYING = snapshot(
    "retrying", started_at=at(1), updated_at=at(2), due_at=at(60), error={"type": "Retry", "message": "Busy"}
)
WAITED = snapshot("succeeded", started_at=at(3 * DAY), finished_at=at(3 * DAY + 2), updated_at=at(3 * DAY + 2))
BACKOFFS = snapshot(
    "failed",
    attempt=4,
    earlier_attempts=[earlier(1, 0, 0.005), earlier(2, 1, 1.005), earlier(3, 3, 3.005)],
    started_at=at(7),
    finished_at=at(7.005),
)
EXPIRED = snapshot("failed", finished_at=at(30), error={"type": "Expired", "message": "Too late"})
RELEASED = snapshot("running", started_at=at(60), advanced_at=at(20))
CANCELLED = snapshot("cancelled", finished_at=at(30))
SKEWED = snapshot("succeeded", submitted_at=at(60), started_at=at(50), finished_at=at(55))
AGAIN = FAILED | {"attempt": 1, "redriven_at": at(200), "earlier_attempts": [earlier(1, 0, 100)]}
REDRIVEN = {
    "waiting again": AGAIN | {"status": "queued", "started_at": None, "finished_at": None, "error": None},
    "run again": AGAIN | {"started_at": at(220), "finished_at": at(240)},
    "cancelled again": AGAIN | {"status": "cancelled", "started_at": None, "finished_at": at(230), "error": None},
}
TRUE_ERROR = {"type": "InvalidRow", "message": "row 211 has no price"}
DETAILS = {
    "attempts": [
        {"attempt": 2, "started_at": at(34), "error": TRUE_ERROR},
        {"attempt": 3, "started_at": at(1), "error": None},
    ]
}


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Place the parts of all jobs in one process."""
    seconds = 1000
    start = 1_767_225_600 * seconds
    jobs = {
        "queued": (QUEUED, None, 30),
        "failed": (FAILED, DETAILS, 5000),
        "running": (RUNNING, None, 35),
        "retrying": (RETRYING, None, 12),
        "waited": (WAITED, None, 4 * DAY),
        "backoffs": (BACKOFFS, None, 10),
        "skewed": (SKEWED, None, 100),
        "new": (QUEUED, None, 0),
        "expired": (EXPIRED, None, 90),
        "released": (RELEASED, None, 90),
        "cancelled": (CANCELLED, None, 90),
        **{name: (job, None, 250) for name, job in REDRIVEN.items()},
    }
    cases = [{"snapshot": job, "details": details, "now": start + now * seconds} for job, details, now in jobs.values()]
    completed = run_node(DASHBOARD, "--input-type=module", "--eval", PROGRAM, json.dumps(cases))
    assert completed.stderr == ""
    return dict(zip(jobs, json.loads(completed.stdout), strict=True))


def shares(job: dict[str, Any]) -> list[tuple[str, int, float]]:
    """Return the type, the row and the share of each part."""
    return [(part["type"], part["row"], round(part["share"], 2)) for part in job["parts"]]


def test_parts_are_to_scale(shown: dict[str, Any]) -> None:
    """Waits and attempts follow each other, each as long as it was, up to the end of the job or to now."""
    runs = [("run", 0, 0.2), ("wait", 0, 0.12), ("run", 1, 0.22), ("wait", 1, 0.2), ("run", 2, 0.24)]
    assert shares(shown["failed"]) == [("wait", -1, 0.02), *runs]
    assert [round(part["start"], 2) for part in shown["failed"]["parts"]] == [0, 0.02, 0.22, 0.34, 0.56, 0.76]
    assert shares(shown["queued"]) == [("wait", -1, 1)]
    assert shares(shown["running"]) == [("run", 0, 0.29), ("wait", 0, 0.14), ("run", 1, 0.57)]
    assert shares(shown["retrying"]) == [("wait", -1, 0.08), ("run", 0, 0.08), ("wait", 0, 0.83)]
    assert shares(shown["skewed"]) == [("run", 0, 1)]
    assert shares(shown["new"]) == []
    assert shares(shown["expired"]) == shares(shown["cancelled"]) == [("wait", -1, 1)]
    assert [part["to"] - part["from"] for part in shown["expired"]["parts"]] == [30_000]


def test_a_job_that_was_run_again_waits_from_then(shown: dict[str, Any]) -> None:
    """Before that, it had ended."""
    lengths = {
        name: [(part["type"], part["row"], (part["to"] - part["from"]) / 1000) for part in shown[name]["parts"]]
        for name in REDRIVEN
    }
    before = [("run", 0, 100), ("idle", 0, 100)]
    assert lengths == {
        "waiting again": [*before, ("wait", 0, 50)],
        "run again": [*before, ("wait", 0, 20), ("run", 1, 20)],
        "cancelled again": [*before, ("wait", 0, 30)],
    }


def test_a_very_long_wait_leaves_room_for_the_attempts(shown: dict[str, Any]) -> None:
    """A wait of three days is drawn shorter than it was; backoffs between attempts of some milliseconds are not."""
    assert shares(shown["waited"]) == [("wait", -1, 0.67), ("run", 0, 0.33)]
    assert [part["isShortened"] for part in shown["waited"]["parts"]] == [True, False]
    assert not any(part["isShortened"] for part in shown["backoffs"]["parts"])
    assert [share for type_, _, share in shares(shown["backoffs"]) if type_ == "wait"] == [0.14, 0.28, 0.57]


def test_attempts_have_the_errors_of_the_details(shown: dict[str, Any]) -> None:
    """An attempt has its true error if the details know the same attempt; a running one has no outcome."""
    assert [attempt["error"] for attempt in shown["failed"]["attempts"]] == [
        {"type": "InvalidRow", "message": None},
        TRUE_ERROR,
        FAILED["error"],
    ]
    assert [attempt["outcome"] for attempt in shown["running"]["attempts"]] == ["lost", None]
    assert shown["retrying"]["attempts"][0]["outcome"] == "failed"
    assert shown["queued"]["attempts"] == []


def test_progress_from_before_the_start_shows_a_release(shown: dict[str, Any]) -> None:
    """A snapshot does not list releases that cost no attempt, but its progress may be older than its start."""
    assert [name for name, job in shown.items() if job["continued"]] == ["released"]
