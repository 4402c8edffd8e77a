"""Failures, grouped by kind, type of error and first line of the message."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import msgspec
from msgspec import Struct

from headway.contracts import Timestamp, decode

from ..records.index.reader import ListedJob

MAX_SHOWN_JOBS = 5


class _Error(Struct, frozen=True):
    """The error of a snapshot."""

    type: str = ""
    message: str = ""


class Failure(Struct, frozen=True):
    """The fields of a failed job's snapshot by which it is grouped."""

    id: UUID
    kind: str
    finished_at: Timestamp | None = None
    error: _Error | None = None

    @classmethod
    def from_job(cls, job: ListedJob) -> Failure | None:
        """Return the failure of a job, or None if its record is not valid."""
        try:
            return decode(job.record.snapshot, cls)
        except msgspec.DecodeError:
            return None

    @property
    def cause(self) -> tuple[str, str, str]:
        """The kind, the type of the error, and the first line of its message."""
        error = self.error or _Error()
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
