"""Groups of failures."""

from __future__ import annotations

from headway.contracts import JobError, encode_snapshot
from services.notifier.records.index.reader import ListedJob
from services.notifier.records.record_read import RecordRead
from services.notifier.transports.failures import Failure, FailureGroup, group_failures
from tests.unit.services.notifier.transports.listed_jobs import NOW, job_id, snapshot


def failure(number: int, error: JobError | None) -> Failure:
    """Return the failure of a job."""
    text = encode_snapshot(snapshot(number, status="failed", error=error))
    result = Failure.from_job(ListedJob(str(job_id(number)), RecordRead(text, b'"k"', None, None), None))
    assert result is not None
    return result


def test_failures_are_grouped_by_the_first_line() -> None:
    """The largest group comes first; a group shows its newest time and the ids of its newest five jobs."""
    errors = [JobError("Oops", f"Not found\nline {number}") for number in range(7)]
    failures = [failure(9, None), failure(8, JobError("Oops", "Other")), *map(failure, range(7, 0, -1), errors)]
    assert group_failures(failures) == [
        FailureGroup("k", "Oops", "Not found", 7, NOW.after(7), [job_id(number) for number in (7, 6, 5, 4, 3)]),
        FailureGroup("k", "", "", 1, NOW.after(9), [job_id(9)]),
        FailureGroup("k", "Oops", "Other", 1, NOW.after(8), [job_id(8)]),
    ]
    assert group_failures([]) == []


def test_a_damaged_record_is_no_failure() -> None:
    """Another program may have changed it."""
    assert Failure.from_job(ListedJob("x", RecordRead(b'{"id":1}', b'"k"', None, None), None)) is None
