"""Reports for tests of what sends them."""

from __future__ import annotations

from uuid import UUID, uuid4

from headway.contracts import JobReport, Timestamp


def first_report(job_id: UUID | None = None) -> JobReport:
    """Return the first state of a delivery, of a new job unless an id is given."""
    now = Timestamp.now()
    return JobReport(
        job_id=job_id or uuid4(),
        kind="test",
        message_id="m-1",
        delivery=1,
        sequence=0,
        status="running",
        submitted_at=now,
        expires_at=now.after(3600),
    )
