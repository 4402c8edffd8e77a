"""Authorization of watchers: reads the tokens of requests and messages, and verifies them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NamedTuple
from uuid import UUID

import structlog
from aiohttp import web
from msgspec import Meta, Struct
from redis.exceptions import RedisError

from headway.contracts import Natural
from headway.tokens import Grant, InvalidToken, TokenVerifier, unverified_job_id

from ...runtime.auth import authorize_job
from ...runtime.errors import Forbidden, ServiceUnavailable, Unauthorized
from ...runtime.request import bearer_token, read_json_body
from ...runtime.settings import ReloadingFile
from .base import error_payload

log: structlog.stdlib.BoundLogger = structlog.get_logger()

RETRY_AFTER_S = 1
MAX_BODY_BYTES = 1024 * 1024

Token = Annotated[str, Meta(min_length=1, max_length=4096)]


class WatchEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A token and the newest version that the client has of its job, in the form of a WebSocket message."""

    watch: Token
    version: Natural | None = None


class WatchManyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request to watch many jobs. A plain token is an entry without a version."""

    watch: Annotated[list[Token | WatchEntry], Meta(min_length=1, max_length=1000)]


class WatchRequest(NamedTuple):
    """A job that the client may watch, and the newest version that the client has of it."""

    grant: Grant
    version: int | None


class RejectedToken(NamedTuple):
    """The reason why a token was rejected. Keeping the exception would form a reference cycle through its traceback."""

    code: str
    message: str
    job_id: str | None

    @property
    def error(self) -> dict[str, str]:
        """The error as it is sent over every transport."""
        return error_payload(self.job_id, self.code, self.message)


class TokenAuth:
    """Verifies tokens with the current public keys."""

    def __init__(self, verifier: ReloadingFile[TokenVerifier]) -> None:
        self._verifier = verifier

    def verify(self, token: str) -> Grant | RejectedToken:
        """Return a token's grant, or the reason why it was rejected, with the id of its job if that is known."""
        try:
            return self._verifier.value.verify(token)
        except InvalidToken as error:
            job_id = error.job_id or unverified_job_id(token)
            rejected = RejectedToken(error.code, str(error), None if job_id is None else str(job_id))
            log.info("token_rejected", job_id=rejected.job_id, code=rejected.code)
            return rejected

    def authorize_job(self, request: web.Request, *, scope: str | None = None) -> Grant:
        """Return the grant for the job that the path names.

        Raises:
            Unauthorized: the token is missing, invalid or expired.
            Forbidden: the token is for another job, or lacks the scope.
            NotFound: the path does not contain a job id.
        """
        grant = authorize_job(request, presented_token(request), self._verifier.value)
        if scope is not None and scope not in grant.scope:
            raise Forbidden(f"The token does not have the scope `{scope}`.")
        return grant

    async def authorize_jobs(self, request: web.Request) -> tuple[list[WatchRequest], list[RejectedToken]]:
        """Return the jobs that a request's body names, and the tokens that were rejected.

        Raises:
            HTTPProblem: the body is not valid.
            Unauthorized: all tokens were rejected; the error has the code of the first one.
        """
        requests: dict[UUID, WatchRequest] = {}
        rejected = []
        for entry in (await read_json_body(request, WatchManyBody, MAX_BODY_BYTES)).watch:
            token, version = (entry, None) if isinstance(entry, str) else (entry.watch, entry.version)
            grant = self.verify(token)
            await asyncio.sleep(0)  # one verification blocks the event loop for a quarter of a millisecond
            if isinstance(grant, RejectedToken):
                rejected.append(grant)
            else:
                requests[grant.job_id] = WatchRequest(grant, version)
        if not requests:
            raise Unauthorized(rejected[0].message, code=rejected[0].code)
        return list(requests.values()), rejected


def presented_token(request: web.Request) -> str | None:
    """Return the token of the Authorization header or of `?access_token=`, or None without either."""
    return bearer_token(request) or request.query.get("access_token") or None


@contextmanager
def unavailable_without_store() -> Iterator[None]:
    """Raise ServiceUnavailable instead of the errors of Redis."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise ServiceUnavailable("The job records are unavailable; try again.", retry_after_s=RETRY_AFTER_S) from error
