"""A store and an index of a few jobs in memory, whose records a test changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from headway.contracts import ENDED, JobError, JobSnapshot, Timestamp, encode, encode_snapshot
from headway.grants import Grant, ListGrant
from headway.labels import JobFilter, Labels
from headway.tokens import TokenSigner
from services.notifier.records.details import JobDetails
from services.notifier.records.index.query import JobQuery
from services.notifier.records.index.reader import JobCounts, JobPosition, ListedJob, Page
from services.notifier.records.record_read import RecordRead
from services.notifier.records.store import JobChanged, ReadResult

NOW = Timestamp.now()


def job_id(number: int) -> UUID:
    """Return the id of a job; the jobs with greater numbers are newer."""
    return UUID(int=number, version=4)


def snapshot(number: int, *, status: Any = "running", version: int = 1, **fields: Any) -> JobSnapshot:
    """Return the snapshot of a job."""
    submitted_at = NOW.after(number)
    return JobSnapshot(
        id=job_id(number),
        kind="k",
        status=status,
        version=version,
        submitted_at=submitted_at,
        finished_at=submitted_at if status in ENDED else None,
        expires_at=submitted_at.after(60),
        **fields,
    )


class Jobs:
    """A store, and an index."""

    def __init__(self) -> None:
        self.clock = self
        self.records: dict[str, RecordRead] = {}
        self.queries: list[JobQuery] = []
        self.details: dict[str, JobDetails] = {}
        self.cancelled: list[UUID] = []
        self.unchanged: list[tuple[UUID, int, Timestamp | None, str]] = []
        self.erased: list[UUID] = []
        self.failure: Exception | None = None
        self.complete = True

    def now(self) -> Timestamp:
        """Return the time of the records' clock."""
        return NOW

    def put(
        self,
        number: int,
        owner: str | None = "anna",
        *,
        tags: tuple[str, ...] = (),
        error_type: str | None = None,
        **fields: Any,
    ) -> UUID:
        """Set the record of a job, and return the job's id."""
        labels = encode(Labels(owner=owner, tags=tags))
        hidden = None if error_type is None else encode(error_type)
        text = encode_snapshot(snapshot(number, **fields))
        self.records[str(job_id(number))] = RecordRead(text, b'"k"', labels, _error_type=hidden)
        return job_id(number)

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def read(self, job_ids: Iterable[str]) -> list[RecordRead | None]:
        """Return records."""
        self._raise_failure()
        return [self.records.get(one) for one in job_ids]

    async def read_available(self, job_ids: Iterable[str]) -> dict[str, ReadResult]:
        """Return records by job."""
        return {one: self.records.get(one) for one in job_ids}

    async def read_details(self, job_ids: Iterable[str]) -> list[tuple[RecordRead | None, JobDetails]]:
        """Return records and details."""
        self._raise_failure()
        return [(self.records.get(one), self.details.get(one, JobDetails())) for one in job_ids]

    async def read_true_errors(self, job_ids: Iterable[str]) -> list[JobError | None]:
        """Return the errors of details."""
        self._raise_failure()
        return [self.details.get(one, JobDetails()).error for one in job_ids]

    async def cancel(self, grant: Grant, _record: RecordRead | None = None) -> bytes | None:
        """Record the job."""
        self._raise_failure()
        record = self.records.get(str(grant.job_id))
        if record is None and grant.requires_record:
            return None
        self.cancelled.append(grant.job_id)
        return self.records[str(grant.job_id)].snapshot

    async def cancel_unchanged(self, job_id: UUID, generation: int, until: Timestamp | None, by: str) -> bytes | None:
        """Record the job, which has the generation 0."""
        self._raise_failure()
        self.unchanged.append((job_id, generation, until, by))
        if (record := self.records.get(str(job_id))) is None:
            return None
        if generation != 0:
            raise JobChanged("changed")
        return record.snapshot

    async def read_erased(self, job_id: UUID) -> int | None:
        """Return the generation of a job that was erased."""
        return 0 if job_id in self.erased else None

    async def erase(self, job_id: UUID, by: str | None) -> bool | None:
        """Record the job."""
        self._raise_failure()
        if (record := self.records.get(str(job_id))) is None:
            return None
        self.erased.append(job_id)
        return b'"finished_at":null' not in record.snapshot

    async def page(self, query: JobQuery) -> Page:
        """Return the newest jobs that match the filter and the tags of a query."""
        self._raise_failure()
        query.start()  # raises if the cursor is not valid
        self.queries.append(query)
        matching = [
            ListedJob(one, record, record.error_type or ("Oops" if b'"type":"Oops"' in record.snapshot else None))
            for one, record in sorted(self.records.items(), reverse=True)
            if record.matches(query.filter) and set(query.tags) <= set(record.labels.tags)
        ]
        return Page(matching[: query.limit], "more" if len(matching) > query.limit else None, self.complete)

    async def about(self) -> JobCounts:
        """Return counts."""
        return JobCounts(waiting=1, retrying=0, running=2, failed_24h=3)

    async def position(self, submitted_at: Timestamp, redriven_at: Timestamp | None = None) -> JobPosition:
        """Return how many jobs were submitted earlier."""
        return JobPosition(
            sum((redriven_at or submitted_at) > NOW.after(UUID(one).int & 0xFFFF) for one in self.records), True
        )


def list_token(
    signer: TokenSigner, scope: str = "list watch cancel", *, expires_in_s: float = 600, **fields: Any
) -> str:
    """Return a list token, by default for Anna's jobs."""
    return signer.sign(list_grant(scope, expires_in_s=expires_in_s, **fields))


def list_grant(scope: str = "list watch cancel", *, expires_in_s: float = 600, **fields: Any) -> ListGrant:
    """Return the grant of a list token, by default for Anna's jobs."""
    now = Timestamp.now()
    job_filter = JobFilter(**(fields or {"owner": "anna"}))
    return ListGrant(
        filter=job_filter, issued_at=now, expires_at=now.after(expires_in_s), scope=frozenset(scope.split())
    )
