"""Failures, grouped by kind, type of error and first line of the message."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headway.contracts import JobError, Timestamp, decode

from ..records.index.reader import ListedJob

MAX_SHOWN_JOBS = 5


class Failure(Struct, frozen=True):
    """The fields of a failed job's snapshot by which it is grouped."""

    id: UUID
    kind: str
    finished_at: Timestamp | None = None
    error: JobError | None = None

    @classmethod
    def from_job(cls, job: ListedJob) -> Failure | None:
        """Return the failure of a job, with the error that users see, or None if its record is not valid."""
        try:
            return decode(job.record.snapshot, cls)
        except msgspec.DecodeError:
            return None

    def with_true_error(self, error_type: str, error: JobError | None) -> Failure:
        """Return the failure with the error that operators see.

        Args:
            error_type: its type, which the record has.
            error: the error in the details, None if they were lost.
        """
        return replace(self, error=error if error and error.type == error_type else JobError(error_type, ""))

    @property
    def cause(self) -> tuple[str, str, str]:
        """The kind, the type of the error, and the first line of its message."""
        error = self.error or JobError("", "")
        return self.kind, error.type, error.message.partition("\n")[0].rstrip()


class FailureGroup(Struct):
    """Failures with the same cause; `latest` is the time of the newest one, and `jobs` has the ids of the newest."""

    kind: str
    error_type: str
    message: str
    count: int
    latest: Timestamp | None
    jobs: list[UUID]


def group_failures(failures: Iterable[Failure]) -> list[FailureGroup]:
    """Return the groups of failures, the largest first.

    Args:
        failures: the failures, the newest first.
    """
    groups: dict[tuple[str, str, str], FailureGroup] = {}
    for failure in failures:
        group = groups.get(failure.cause)
        if group is None:
            group = groups[failure.cause] = FailureGroup(*failure.cause, 0, failure.finished_at, [])
        group.count += 1
        if len(group.jobs) < MAX_SHOWN_JOBS:
            group.jobs.append(failure.id)
    return sorted(groups.values(), key=lambda group: -group.count)
