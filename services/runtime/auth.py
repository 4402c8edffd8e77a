"""Authorization by job token: which job a request names, and whether its token allows access to that job."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from headway.tokens import Grant, InvalidToken, TokenVerifier

from .errors import Forbidden, NotFound, Unauthorized


def job_id_from_path(request: web.Request) -> UUID:
    """Return the job id in the path; raise NotFound if it is not a UUID."""
    try:
        return UUID(request.match_info["id"])
    except ValueError as error:
        raise NotFound("The job id in the path is not a UUID.", field="id") from error


def authorize_job(request: web.Request, token: str | None, verifier: TokenVerifier, scope: str | None = None) -> Grant:
    """Verify a token for the job in the path.

    Returns:
        The grant: what the token allows.

    Raises:
        NotFound: the path has no valid job id.
        Unauthorized: the token is missing, invalid or expired; `code` says which.
        Forbidden: the token is for another job, or lacks the scope.
    """
    if token is None:
        raise Unauthorized("Send the job's token: Authorization: Bearer <token>.")
    job_id = job_id_from_path(request)
    try:
        grant = verifier.verify(token)
    except InvalidToken as error:
        raise Unauthorized(str(error), code=error.code) from error
    if grant.job_id != job_id:
        raise Forbidden("The token is for another job.")
    if scope is not None and scope not in grant.scope:
        raise Forbidden(f"The token does not have the scope `{scope}`.")
    return grant
