"""The states of a job, as fields of its snapshot."""

from __future__ import annotations

from typing import Any

from headway.contracts import Timestamp

LONG_TEXT = "The photo of the harbor is much larger than the others. " * 18  # the 1,000 characters that are allowed
NOW = Timestamp.now()
DAY_S = 86_400
PROGRESS = {"current": 4, "total": 10, "percent": 40.0, "unit": "photos", "message": "Resizing photo-0004.jpg"}
ERROR = {"type": "InvalidRow", "message": "Row 211: 'twelve' is not a number."}


def after(seconds: float) -> str:
    """Return a time relative to the start of the tests."""
    return str(NOW.after(seconds))


NOTHING: dict[str, Any] = {
    "status": "queued",
    "attempt": 1,
    "started_at": None,
    "updated_at": after(-1),
    "finished_at": None,
    "due_at": None,
    "lease_until": None,
    "progress": None,
    "result": None,
    "error": None,
    "cancel_requested": False,
    "advanced_at": None,
    "earlier_attempts": [],
}
RUNNING: dict[str, Any] = {
    "status": "running",
    "submitted_at": after(-7200),
    "started_at": after(-75),
    "updated_at": after(-1),
    "lease_until": after(DAY_S),
    "progress": PROGRESS,
}
LOST = RUNNING | {"lease_until": after(-2), "updated_at": after(-62)}
ENDED = RUNNING | {"finished_at": after(-1), "lease_until": None}

EARLIER_ATTEMPTS = [
    {
        "attempt": number,
        "started_at": after(-5000 + 600 * number),
        "ended_at": after(-5000 + 600 * number + 12),
        "outcome": outcome,
        "error": error,
    }
    for number, (outcome, error) in enumerate(
        [
            ("failed", "InvalidRow"),
            ("lost", None),
            ("released", None),
            ("failed", "requests.exceptions.ReadTimeout" * 4),
        ],
        start=1,
    )
]

# The states of a job, and the status that each has.
JOB_STATES: dict[str, tuple[str, dict[str, Any]]] = {
    "no record": ("Queued", {"submitted_at": after(-7200)}),
    "queued": ("Queued", {"submitted_at": after(-7200), "due_at": after(DAY_S)}),
    "determinate": ("Running", RUNNING),
    "indeterminate": ("Running", RUNNING | {"progress": PROGRESS | {"total": None, "percent": None}}),
    "long message": ("Running", RUNNING | {"progress": PROGRESS | {"message": LONG_TEXT}}),
    "retrying": ("Retrying", RUNNING | {"status": "retrying", "attempt": 2, "due_at": after(DAY_S), "error": ERROR}),
    "worker lost": ("Running", LOST | {"attempt": 2}),
    "stalled": ("Running", RUNNING | {"started_at": after(-900), "advanced_at": after(-725)}),
    "later attempt": ("Running", RUNNING | {"attempt": 5, "earlier_attempts": EARLIER_ATTEMPTS}),
    "cancelling": ("Cancelling", RUNNING | {"cancel_requested": True}),
    "cancelled": ("Cancelled", ENDED | {"status": "cancelled"}),
    "failed": ("Failed", ENDED | {"status": "failed", "error": ERROR}),
    "succeeded": ("Succeeded", ENDED | {"status": "succeeded", "result": {"archive": "https://example.org/a.zip"}}),
}
