"""What the path and the token of a request open: a job, or a Problem that says why not."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from headway.tokens import Grant, InvalidToken, TokenVerifier

from .errors import Forbidden, NotFound, Unauthorized


def job_id_from_path(request: web.Request) -> UUID:
    """Return the id of the job that the path names."""
    try:
        return UUID(request.match_info["id"])
    except ValueError as error:
        raise NotFound("The path does not name a job: expected a UUID.", field="id") from error


def authorize_job(request: web.Request, token: str | None, verifier: TokenVerifier) -> Grant:
    """Return what a token grants for the job that the path names."""
    if token is None:
        raise Unauthorized("Send the job's token: Authorization: Bearer <token>.")
    job_id = job_id_from_path(request)
    try:
        grant = verifier.verify(token)
    except InvalidToken as error:
        raise Unauthorized(str(error), code=error.code) from error
    if grant.job_id != job_id:
        raise Forbidden("The token is for another job.")
    return grant
