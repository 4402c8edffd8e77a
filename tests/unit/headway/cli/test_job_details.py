"""Everything about one job, as text."""

from __future__ import annotations

from uuid import UUID

from headway.cli.job_details import details_text
from headway.client.job_details import JobDetails
from headway.contracts import JobSnapshot, decode, encode
from tests.unit.headway.client.fake_services import snapshot_json

JOB_ID = UUID("b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11")


def show(status: str = "running", **fields: object) -> str:
    """Return the text for a job."""
    return details_text(decode(encode(snapshot_json(JOB_ID, 1, status, **fields)), JobSnapshot))


def test_each_field_with_a_value_is_a_line() -> None:
    """The times are those of the snapshot, and earlier attempts have their outcome and error."""
    hour = "2026-01-01T0{}:00:00.000Z".format
    earlier = {"attempt": 1, "started_at": hour(1), "ended_at": hour(2), "outcome": "failed", "error": "OSError"}
    lost = {"attempt": 2, "started_at": None, "ended_at": hour(3), "outcome": "lost", "error": None}
    text = show(
        "failed",
        name="October",
        attempt=3,
        generation=1,
        progress={"current": 1234, "total": 5000, "percent": 24.68, "unit": "rows", "message": "Reading"},
        error={"type": "ValueError", "message": "line 7\n\x1b[2J"},
        started_at=hour(3),
        advanced_at=hour(4),
        finished_at=hour(5),
        earlier_attempts=[earlier, lost],
    )
    assert text.splitlines() == [
        "October",
        f"  id          {JOB_ID}",
        "  kind        k",
        "  status      failed",
        "  progress    24 %, 1,234 of 5,000 rows, Reading",
        "  attempt     3 of 5",
        "  generation  1",
        f"  submitted   {hour(0)}",
        f"  started     {hour(3)}",
        f"  advanced    {hour(4)}",
        f"  finished    {hour(5)}",
        f"  expires     {hour(0)}",
        "  error       ValueError: line 7  [2J",
        f"  attempt 1   failed, OSError, {hour(1)} to {hour(2)}",
        f"  attempt 2   lost, not started to {hour(3)}",
    ]


def test_a_job_without_a_name_has_its_kind_as_heading() -> None:
    """What is not set has no line."""
    lines = show("queued").splitlines()
    assert lines[0] == "k"
    assert [line.split()[0] for line in lines[1:]] == ["id", "kind", "status", "attempt", "submitted", "expires"]


def test_progress_in_percent_is_shown_once() -> None:
    """An amount in percent is not repeated; without a total there is no percentage."""
    percent = {"current": 40, "total": 100, "percent": 40.0, "unit": "%", "message": None}
    assert "  progress   40 of 100 %\n" in show(progress=percent)
    assert "  progress   7 rows\n" in show(
        progress={"current": 7, "total": None, "percent": None, "unit": "rows", "message": None}
    )


def test_operators_see_the_true_error_and_what_it_ran_with() -> None:
    """The error of the details replaces the one that users see, and the traceback has no control characters."""
    hour = "2026-01-01T0{}:00:00.000Z".format
    earlier = {"attempt": 1, "started_at": hour(1), "ended_at": hour(2), "outcome": "failed", "error": "InternalError"}
    details = {
        "labels": {"owner": "user:7", "tags": ["a", "b"]},
        "kept": True,
        "payload": {"pages": 1},
        "checkpoint": 7,
        "error": {"type": "KeyError", "message": "'x'", "traceback": 'Traceback:\n  File "a.py"\x1b\nKeyError\n'},
        "worker": "w1",
        "attempts": [
            {**earlier, "error": {"type": "OSError", "message": None}},
            {"attempt": 2, "started_at": hour(3), "ended_at": hour(5), "outcome": "failed", "error": None},
        ],
        "steps": [{"name": "load", "started_at": hour(3), "ended_at": None}],
        "trace_id": "4bf9",
        "actions": [{"action": "redrive", "by": "alice", "generation": 1, "at": hour(3)}],
    }
    fields: dict[str, object] = {
        "error": {"type": "InternalError", "message": "The job failed unexpectedly."},
        "earlier_attempts": [earlier],
        "finished_at": hour(5),
    }
    job = decode(encode(snapshot_json(JOB_ID, 1, "failed", **fields)), JobSnapshot)
    lines = details_text(job, decode(encode(details), JobDetails)).splitlines()
    assert lines[lines.index("  error       KeyError: 'x'") :] == [
        "  error       KeyError: 'x'",
        "  shown as    InternalError: The job failed unexpectedly.",
        f"  attempt 1   failed, OSError, {hour(1)} to {hour(2)}",
        f"  step        load, {hour(3)} to now",
        f"  redrive     by alice, {hour(3)}",
        "  owner       user:7",
        "  tags        a, b",
        "  worker      w1",
        "  trace       4bf9",
        "  checkpoint  7",
        '  payload     {"pages":1}',
        "",
        "Traceback:",
        '  File "a.py"\\x1b',
        "KeyError",
    ]
    assert details_text(job, JobDetails()).splitlines()[-1].split() == ["payload", "not", "kept"]
