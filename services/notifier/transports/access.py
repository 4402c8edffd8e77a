"""Who may watch: the token that a request presents, and what it grants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from aiohttp import web
from redis.exceptions import RedisError

from headway.tokens import InvalidToken, Pass, TokenVerifier
from services.problems import Forbidden, NotFound, Unauthorized, Unavailable, bearer

RETRY_AFTER_S = 1


def presented_token(request: web.Request) -> str | None:
    """Return the token of the Authorization header or of `?access_token=`, if there is one."""
    return bearer(request) or request.query.get("access_token") or None


@contextmanager
def records_needed() -> Iterator[None]:
    """Answer 503 when the records cannot be asked."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable("The records are away; try again.", retry_after_s=RETRY_AFTER_S) from error


def granted_for(request: web.Request, verifier: TokenVerifier) -> Pass:
    """Return the pass for the job that the path names; a Problem when the token does not open it."""
    token = presented_token(request)
    if token is None:
        raise Unauthorized("Send the job's token: Authorization: Bearer <token>.")
    try:
        job_id = UUID(request.match_info["id"])
    except ValueError as error:
        raise NotFound("The path does not name a job: expected a UUID.", field="id") from error
    try:
        granted = verifier.verify(token)
    except InvalidToken as error:
        raise Unauthorized(str(error), code=error.code) from error
    if granted.job_id != job_id:
        raise Forbidden("The token is for another job.")
    return granted
