"""Lists of jobs: what to select, and the pages that a notifier returns."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypedDict
from urllib.parse import quote, urlencode

from msgspec import Raw, Struct
from msgspec.structs import replace

from headway.client.submission import one_or_more
from headway.contracts import JobSnapshot, JobStatus, decode
from headway.grants import LIST, READ_ALL
from headway.labels import ALL_JOBS, JobFilter, Labels
from headway.timestamp import Timestamp

Time: TypeAlias = Timestamp | datetime


class JobQuery(TypedDict, total=False):
    """Selects the jobs of a list; a job must match all of the fields.

    A field that is missing or None matches all jobs. If only statuses of ended jobs are asked for, `since`, `until` and
    the order are by the end of a job, otherwise by its submission.
    """

    status: JobStatus | Collection[JobStatus] | None  # one of these
    kind: str | None
    owner: str | None
    tag: str | Collection[str] | None  # all of these
    since: Time | None
    until: Time | None
    attempts_min: int | None  # jobs that have needed at least so many attempts
    error_type: str | None  # the type of the last attempt's exception; needs the scope `details`


class IssuedToken(Struct, frozen=True):
    """A token that a submitter has issued for an API key, and when it expires."""

    token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"<IssuedToken, expires at {self.expires_at}>"


class ListedJob(JobSnapshot, frozen=True, kw_only=True):
    """A job of a list: its snapshot, and if the token has the scope `details`, its labels and the type of its error."""

    labels: Labels | None = None
    error_type: str | None = None


class JobCounts(Struct, frozen=True, kw_only=True):
    """About how many jobs there are; None if the number is not known.

    Attributes:
        waiting: jobs that wait for their first attempt or for another one.
        retrying: those of them that wait for another attempt.
        queue: messages on the queue.
        oldest: since when the job that waits longest for a worker does: its submission, or its last redrive.
    """

    waiting: int | None = None
    retrying: int | None = None
    running: int | None = None
    failed_24h: int | None = None
    queue: int | None = None
    oldest: Timestamp | None = None


class JobListPage(Struct, frozen=True, kw_only=True):
    """A page of a list.

    Attributes:
        now: the notifier's time.
        jobs: the jobs, the newest first; there may be none although further pages have some.
        next: the cursor of the next page, None if this is the last one.
        complete: whether the list is known to have all jobs; it may lag, for example after a restart of Redis.
        about: the numbers of all jobs.
    """

    now: Timestamp
    jobs: tuple[ListedJob, ...]
    next: str | None = None
    complete: bool = True
    about: JobCounts | None = None


class _Page(Struct):
    now: Timestamp
    jobs: list[Raw]
    next: str | None = None
    complete: bool = True
    about: JobCounts | None = None


class _DetailedJob(Struct):
    job: ListedJob | None = None
    labels: Labels | None = None
    error_type: str | None = None


def decode_page(body: bytes) -> JobListPage:
    """Decode a page; raise msgspec.DecodeError if it is not one."""
    page = decode(body, _Page)
    jobs = tuple(map(_decode_job, page.jobs))
    return JobListPage(now=page.now, jobs=jobs, next=page.next, complete=page.complete, about=page.about)


def _decode_job(element: Raw) -> ListedJob:
    detailed = decode(bytes(element), _DetailedJob)  # with the scope `details`, the snapshot is in a field
    if detailed.job is None:
        return decode(bytes(element), ListedJob)
    return replace(detailed.job, labels=detailed.labels, error_type=detailed.error_type)


def query_string(query: JobQuery, limit: int | None, cursor: str | None) -> str:
    """Return a query as that of a URL.

    Raises:
        ValueError: a time has no time zone.
    """
    fields = query_fields(query) | {"limit": limit, "cursor": cursor}
    if statuses := fields.get("status"):
        fields["status"] = ",".join(statuses)
    return urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True, quote_via=quote)


def query_fields(query: JobQuery) -> dict[str, Any]:
    """Return the fields of a query that select jobs, as JSON.

    Raises:
        ValueError: a time has no time zone.
    """
    fields: dict[str, Any] = {
        **query,
        "status": one_or_more(query.get("status")) or None,
        "tag": one_or_more(query.get("tag")) or None,
        "since": _time_text(query.get("since")),
        "until": _time_text(query.get("until")),
    }
    return {name: value for name, value in fields.items() if value is not None}


def narrowest_token(query: JobQuery) -> tuple[JobFilter, str]:
    """Return the filter, with one tag at most, and the scope of a token for the jobs of a query and few others.

    Every API key may have it. So the token is for all jobs if the query needs the scope `details`.
    """
    tags = one_or_more(query.get("tag"))
    job_filter = JobFilter(owner=query.get("owner"), tag=tags[0] if tags else None, kind=query.get("kind"))
    if job_filter == ALL_JOBS or query.get("error_type") is not None:
        return ALL_JOBS, READ_ALL
    return job_filter, LIST


def _time_text(time: Time | None) -> str | None:
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(f"expected a time with a time zone, such as datetime.now(UTC), not {time!r}")
        time = Timestamp.at(time.astimezone(UTC).timestamp())
    return None if time is None else str(time)
