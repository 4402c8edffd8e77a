"""Authorization by job token: which job a request names, and whether its token allows access. And by report key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from aiohttp import web

from headway.tokens import WATCH, Grant, InvalidToken, ListGrant

from .errors import Forbidden, NotFound, Unauthorized
from .request import is_valid_key

G = TypeVar("G")


def job_id_from_path(request: web.Request) -> UUID:
    """Return the job id in the path; raise NotFound if it is not a UUID."""
    try:
        return UUID(request.match_info["id"])
    except ValueError as error:
        raise NotFound("The job id in the path is not a UUID.", field="id") from error


def require_token(token: str | None) -> str:
    """Return the token of a request; raise Unauthorized if it has none."""
    if token is None:
        raise Unauthorized("Send a token: Authorization: Bearer <token>.")
    return token


def verify_token(token: str, verify: Callable[[str], G]) -> G:
    """Return the grant of a token.

    Raises:
        Unauthorized: the token is invalid or expired; `code` says which.
    """
    try:
        return verify(token)
    except InvalidToken as error:
        raise Unauthorized(str(error), code=error.code) from error


def authorize_job(
    request: web.Request,
    token: str | None,
    verify: Callable[[str], Grant] | Callable[[str], Grant | ListGrant],
    scope: str = WATCH,
) -> Grant:
    """Verify a token for the job in the path.

    Args:
        request: the request.
        token: its token, None if it has none.
        verify: verifies a token; if it accepts list tokens, one of them opens any job, whose record must be checked.
        scope: the scope that the token must have.

    Returns:
        The grant: what the token allows.

    Raises:
        NotFound: the path has no valid job id.
        Unauthorized: the token is missing, invalid or expired; `code` says which.
        Forbidden: the token is for another job, or lacks the scope.
    """
    present_token = require_token(token)
    job_id = job_id_from_path(request)
    grant = verify_token(present_token, verify)
    if isinstance(grant, ListGrant):
        grant = grant.for_job(job_id)
    elif grant.job_id != job_id:
        raise Forbidden("The token is for another job.")
    require_scope(grant, scope)
    return grant


def require_scope(grant: Grant | ListGrant, scope: str) -> None:
    """Raise Forbidden if a token lacks a scope."""
    if not grant.permits(scope):
        raise Forbidden(f"The token does not have the scope `{scope}`.")


def require_report_key(presented: str | None, keys: tuple[str, ...]) -> None:
    """Raise Unauthorized if a request has none of the report keys."""
    if not is_valid_key(presented, keys):
        raise Unauthorized("Send one of the report keys as Authorization: Bearer <key>.")
