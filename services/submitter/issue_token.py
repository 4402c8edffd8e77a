"""`POST /tokens`: issues tokens for a job or for the jobs of a filter, to applications and operators.

Such a token opens only jobs that have a record, and a list token only those whose record matches its filter. A token
for all jobs stands for the API key that asked for it, until its session ends.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import structlog
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from headway.contracts import Timestamp
from headway.grants import CANCEL, DETAILS, LIST, OPERATE, READ_ALL, SCOPES, WATCH, Grant, ListGrant
from headway.labels import ALL_JOBS, JobFilter
from headway.tokens import TokenSigner

from ..runtime.errors import Forbidden, UnprocessableContent
from ..runtime.request import read_json_body
from ..runtime.responses import no_store_json
from ..runtime.settings import ReloadingFile
from .api_keys import Permission
from .sessions import Session, SessionAuth

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_BODY_BYTES = 4096
MAX_TTL_S = 86_400
DEFAULT_TTL_S = 3600
DEFAULT_JOB_SCOPE = f"{WATCH} {CANCEL}"
READER_SCOPE = frozenset(READ_ALL.split())


class TokenRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body: a job or a filter, the scope as words with a space between them, and the lifetime of the token."""

    job: UUID | UnsetType = UNSET
    filter: JobFilter | UnsetType = UNSET
    scope: str | UnsetType = UNSET
    ttl_s: Annotated[float, Meta(gt=0, le=MAX_TTL_S)] = DEFAULT_TTL_S


class IssueTokenHandler:
    """Issues tokens to callers with an API key, and renews those of their sessions."""

    def __init__(self, signer: ReloadingFile[TokenSigner], session_auth: SessionAuth) -> None:
        self._signer = signer
        self._session_auth = session_auth

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.post("/tokens", self.issue)]

    async def issue(self, request: web.Request) -> web.Response:
        """Issue a token.

        Raises:
            HTTPProblem: the caller or the body is not accepted.
            Forbidden: the role `operate` is required; the error names the field.
        """
        session = self._session_auth.authenticate(request, Permission.ISSUE)
        wanted = await read_json_body(request, TokenRequest, MAX_BODY_BYTES)
        grant = _grant_in_session(grant_for(wanted), session)
        if Permission.OPERATE not in session.caller.permissions:
            _check_reach(grant)
        log.info("token_issued", scope=sorted(grant.scope), ttl_s=wanted.ttl_s, by=grant.by)
        return no_store_json({"token": self._signer.value.sign(grant), "expires_at": grant.expires_at})


def grant_for(wanted: TokenRequest) -> Grant | ListGrant:
    """Return the requested grant; raise UnprocessableContent, which names the field, if the request has none."""
    now = Timestamp.now()
    expires_at = now.after(wanted.ttl_s)
    if isinstance(wanted.job, UUID) and wanted.filter is UNSET:
        scope = _parse_scope(DEFAULT_JOB_SCOPE if wanted.scope is UNSET else wanted.scope, needed=WATCH, unknown=LIST)
        return Grant(
            job_id=wanted.job, kind="", submitted_at=now, expires_at=expires_at, scope=scope, requires_record=True
        )
    if isinstance(wanted.filter, JobFilter) and wanted.job is UNSET:
        scope = _parse_scope("" if wanted.scope is UNSET else wanted.scope, needed=LIST)
        return ListGrant(filter=wanted.filter, issued_at=now, expires_at=expires_at, scope=scope)
    raise UnprocessableContent(
        "Expected either `job` or `filter`.", field="job" if wanted.filter is UNSET else "filter"
    )


def _parse_scope(text: str, needed: str, unknown: str | None = None) -> frozenset[str]:
    allowed = [name for name in SCOPES if name != unknown]
    scope = frozenset(text.split(" "))
    if scope.isdisjoint((needed, DETAILS, OPERATE)) or not scope.issubset(allowed):
        message = f"Expected `{needed}`, `{DETAILS}` or `{OPERATE}`, and other words of {', '.join(allowed)}."
        raise UnprocessableContent(message, field="scope")
    return scope


def _grant_in_session(grant: Grant | ListGrant, session: Session) -> Grant | ListGrant:
    """Return a grant with the name of its session.

    Raises:
        Forbidden: the token of the session does not permit as much; the error names the field.
    """
    token = session.token
    if token is not None and not all(map(token.permits, grant.scope)):
        raise Forbidden("The token does not have all of these scopes.", field="scope")
    expires_at = grant.expires_at
    if session.ends_at is not None and not (isinstance(grant, Grant) and grant.scope == {WATCH}):  # a link to share
        expires_at = min(expires_at, session.ends_at)
    named = replace(grant, by=session.caller.name, key_id=session.caller.key_id, expires_at=expires_at)
    if isinstance(named, Grant) or named.filter != ALL_JOBS or named.key_id is None:
        return named
    return replace(named, signed_in_at=named.issued_at if token is None else token.signed_in_at)


def _check_reach(grant: Grant | ListGrant) -> None:
    """Raise Forbidden if a grant is only for operators."""
    if isinstance(grant, ListGrant) and grant.filter == ALL_JOBS and grant.scope == READER_SCOPE:
        return
    if {DETAILS, OPERATE} & grant.scope:
        raise Forbidden("The scopes `details` and `operate` need an API key with the role `operate`.", field="scope")
    if isinstance(grant, ListGrant) and grant.filter == ALL_JOBS:
        raise Forbidden(
            "An empty filter needs an API key with the role `operate`, or exactly the scope `list details`.",
            field="filter",
        )
