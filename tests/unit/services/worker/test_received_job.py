"""A received job: whether it has expired."""

from __future__ import annotations

import time

import pytest

from headway.azure.job_queue import ReceivedMessage
from headway.contracts import Timestamp
from services.worker.received_job import ReceivedJob

DAY_S = 86_400
RECEIVED_AT = Timestamp.parse("2026-01-01T00:00:00Z")


def received_job(expires_at: Timestamp, waited_s: float = 0) -> ReceivedJob:
    """Return a job whose message was received some seconds ago."""
    text = f'{{"id": "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11", "expires_at": "{expires_at}"}}'
    received = ReceivedMessage("m", "receipt", text, 1, RECEIVED_AT, RECEIVED_AT, time.monotonic() - waited_s)
    return ReceivedJob.read(received, {}, DAY_S)


@pytest.mark.parametrize("error_s", [-8 * DAY_S, 0, 8 * DAY_S])
def test_expiry_is_by_the_clock_of_the_queue(monkeypatch: pytest.MonkeyPatch, error_s: float) -> None:
    """A worker whose clock is wrong neither fails jobs as expired nor starts expired ones."""
    monkeypatch.setattr(Timestamp, "now", lambda: RECEIVED_AT.after(error_s))
    assert not received_job(RECEIVED_AT.after(60)).expired
    assert received_job(RECEIVED_AT.after(-60)).expired
    assert received_job(RECEIVED_AT.after(60), waited_s=120).expired
