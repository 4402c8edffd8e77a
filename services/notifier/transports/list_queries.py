"""What a client asks of a list, in a query string or in a message, and how its token limits that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, cast, get_args

import msgspec
from aiohttp import web
from msgspec import Meta

from headway.contracts import JobStatus, Timestamp
from headway.details import JobCriteria
from headway.grants import DETAILS, ListGrant
from headway.labels import JobFilter

from ...runtime.errors import Forbidden, UnprocessableContent
from ..records.index.query import DEFAULT_PAGE, MAX_PAGE, JobQuery

MAX_CURSOR_LENGTH = 256
MAX_LIVE_JOBS = 100
STATUSES = frozenset(get_args(JobStatus))


class ListFilter(JobCriteria, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The jobs that a client asks for; also the filter of a live list, in a message.

    Attributes:
        status: one status, several with commas between them, or a list.
        tag: one tag, or a list of tags that a job must all have.
    """

    status: str | frozenset[JobStatus] = frozenset()

    def __post_init__(self) -> None:
        if isinstance(self.status, str) and not STATUSES.issuperset(self.status.split(",")):
            raise ValueError("Expected `status` to be one or more statuses, separated by commas")

    def query(self, grant: ListGrant, limit: int = DEFAULT_PAGE, cursor: str | None = None) -> JobQuery:
        """Return the query for the jobs that the client asks for and that the token allows.

        Raises:
            Forbidden: the token is for another owner or kind, or lacks the scope for `error_type`.
        """
        if self.error_type is not None and DETAILS not in grant.scope:
            raise Forbidden(f"`error_type` needs a token with the scope `{DETAILS}`.", field="error_type")
        job_filter, tags = restrict(grant.filter, self.owner, self.kind, self.tags)
        statuses = self.status.split(",") if isinstance(self.status, str) else self.status
        return JobQuery(
            filter=job_filter,
            tags=tags,
            statuses=frozenset(cast("Iterable[JobStatus]", statuses)),
            since=self.since,
            until=self.until,
            attempts_min=self.attempts_min,
            error_type=self.error_type,
            limit=limit,
            cursor=cursor,
        )


class ListParameters(ListFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query string of a list."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str, Meta(max_length=MAX_CURSOR_LENGTH)] | None = None

    def page(self, grant: ListGrant) -> JobQuery:
        """Return the query for the page that the client asks for; raise Forbidden as `query` does."""
        return self.query(grant, self.limit, self.cursor)


def restrict(
    allowed: JobFilter, owner: str | None, kind: str | None, tags: Iterable[str]
) -> tuple[JobFilter, tuple[str, ...]]:
    """Return the filter of a token, narrowed by what a client asks for, and the further tags that a job must have.

    Raises:
        Forbidden: the token is for another owner or kind.
    """
    for name, wanted, permitted in (("owner", owner, allowed.owner), ("kind", kind, allowed.kind)):
        if wanted is not None and permitted not in (None, wanted):
            raise Forbidden(f"The token is for another {name}.", field=name)
    narrowed = JobFilter(owner=allowed.owner or owner, kind=allowed.kind or kind, tag=allowed.tag)
    return narrowed, tuple(sorted(set(tags) - {allowed.tag}))


def read_parameters(request: web.Request, parameters_type: type[Any] = ListParameters) -> Any:
    """Decode the query string of a list; raise UnprocessableContent, which names the parameter, if it is not valid.

    A status may be repeated or be a list with commas, a tag may be repeated.
    """
    values: dict[str, Any] = {}
    for name in request.query:
        given = request.query.getall(name)
        if name == "status":
            values[name] = [status for text in given for status in text.split(",")]
        elif name == "tag":
            values[name] = given
        elif len(given) > 1:
            raise UnprocessableContent(f"Send `{name}` once.", field=name)
        elif name != "access_token":
            values[name] = given[0]
    try:
        return msgspec.convert(values, parameters_type, strict=False, dec_hook=_parse_time)
    except msgspec.ValidationError as error:
        problem = UnprocessableContent.from_validation_error(error)
        problem.field = (problem.field or "").partition("[")[0] or None
        raise problem from error


def _parse_time(_target: type, value: object) -> Timestamp:
    return Timestamp.parse(value)
