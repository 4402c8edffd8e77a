"""A received job: its number of attempts, its labels, and whether it has expired."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from prometheus_client import Histogram

from headway import JobContext, job
from headway.azure.job_queue import ReceivedMessage
from headway.contracts import Timestamp
from headway.labels import Labels
from services.worker.metrics import observe_since_due
from services.worker.received_job import ReceivedJob

DAY_S = 86_400
RECEIVED_AT = Timestamp.parse("2026-01-01T00:00:00Z")


@job("letters", max_attempts=3)
async def letters(_ctx: JobContext, _payload: Any) -> None:
    """Do nothing."""


def read(waited_s: float = 0, **fields: Any) -> ReceivedJob:
    """Return the job of a message with some fields that was received some seconds ago."""
    text = json.dumps({"id": "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11", **fields})
    received = ReceivedMessage("m", "receipt", text, 1, RECEIVED_AT, RECEIVED_AT, time.monotonic() - waited_s)
    return ReceivedJob.read(received, {"letters": letters}, DAY_S)


def received_job(expires_at: Timestamp, waited_s: float = 0) -> ReceivedJob:
    """Return a job that expires at a time."""
    return read(waited_s, expires_at=str(expires_at))


@pytest.mark.parametrize(
    ("fields", "max_attempts"),
    [
        ({"kind": "letters"}, 3),
        ({"kind": "letters", "max_attempts": None}, 3),
        ({"kind": "letters", "max_attempts": 5}, 5),
        ({"kind": "letters", "max_attempts": 1}, 1),
        ({"kind": "unknown"}, 5),
        ({"kind": "unknown", "max_attempts": 2}, 2),
    ],
)
def test_submission_decides_the_number_of_attempts(fields: dict[str, Any], max_attempts: int) -> None:
    """5 means 5, and a missing number the one of the kind; the report always has a number."""
    received = read(**fields)
    assert received.max_attempts == received.first_report().max_attempts == max_attempts


@pytest.mark.parametrize(
    ("fields", "observed"),
    [
        ({"submitted_at": "2025-12-31T23:59:50Z"}, [10]),
        ({"submitted_at": "2025-12-31T23:59:50Z", "due_at": "2025-12-31T23:59:57Z"}, [3]),
        ({"submitted_at": "2025-12-31T23:59:50Z", "due_at": "2025-12-31T23:00:00Z"}, [10]),
        ({"submitted_at": "2025-12-31T23:59:50Z", "due_at": "2026-01-01T00:00:02Z"}, [0]),
        ({"submitted_at": "2025-12-31T23:59:50Z", "generation": 1}, []),
    ],
)
def test_wanted_delays_are_not_observed(
    fields: dict[str, Any], observed: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time counts from the submission or the end of its delay, also if clocks differ; a redrive is not observed."""
    monkeypatch.setattr(ReceivedMessage, "queue_time", lambda _message: RECEIVED_AT)
    histogram = Histogram("observed", "", registry=None)
    observe_since_due(read(**fields), histogram)
    (family,) = histogram.collect()
    samples = {sample.name: sample.value for sample in family.samples}
    assert (samples["observed_count"], samples["observed_sum"]) == (len(observed), sum(observed))


def test_labels_of_the_message_are_reported() -> None:
    """A report can thus restore the labels of a lost record; a message without labels reports none."""
    assert read(labels={"name": "October", "tags": ["a"]}).first_report().labels == Labels(name="October", tags=("a",))
    assert read().first_report().labels is None


@pytest.mark.parametrize("error_s", [-8 * DAY_S, 0, 8 * DAY_S])
def test_expiry_is_by_the_clock_of_the_queue(monkeypatch: pytest.MonkeyPatch, error_s: float) -> None:
    """A worker whose clock is wrong neither fails jobs as expired nor starts expired ones."""
    monkeypatch.setattr(Timestamp, "now", lambda: RECEIVED_AT.after(error_s))
    assert not received_job(RECEIVED_AT.after(60)).expired
    assert received_job(RECEIVED_AT.after(-60)).expired
    assert received_job(RECEIVED_AT.after(60), waited_s=120).expired
