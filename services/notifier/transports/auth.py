"""Who may watch: the tokens that a request presents, and what they grant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NamedTuple
from uuid import UUID

from aiohttp import web
from msgspec import Meta, Struct
from redis.exceptions import RedisError

from headway.contracts import Natural
from headway.tokens import Grant, InvalidToken, TokenVerifier, claimed_job

from ...runtime.auth import authorize_job
from ...runtime.errors import Forbidden, ServiceUnavailable, Unauthorized
from ...runtime.request import bearer_token, read_json_body
from ...runtime.settings import ReloadingFile
from .base import error_payload

RETRY_AFTER_S = 1
MAX_BODY_BYTES = 1024 * 1024

Token = Annotated[str, Meta(min_length=1, max_length=4096)]


class WatchEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A token and the newest version that the watcher has seen of its job, as a socket's message spells them."""

    watch: Token
    version: Natural | None = None


class WatchManyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body that asks for many jobs; a token alone is an entry without a version."""

    watch: Annotated[list[Token | WatchEntry], Meta(min_length=1, max_length=1000)]


class WatchRequest(NamedTuple):
    """A job that may be watched, and what the watcher has seen of it."""

    grant: Grant
    version: int | None


class RejectedToken(NamedTuple):
    """A token that opens nothing, told as an error of its job; the exception knows by its frames who has this."""

    code: str
    message: str
    job_id: str | None

    @property
    def error(self) -> dict[str, str]:
        """Spell it as every transport tells an error."""
        return error_payload(self.job_id, self.code, self.message)


class TokenAuth:
    """Reads what tokens grant."""

    def __init__(self, verifier: ReloadingFile[TokenVerifier]) -> None:
        self._verifier = verifier

    def verify(self, token: str) -> Grant | RejectedToken:
        """Return what a token grants, or why nothing: the watcher has many, so that is told with its job."""
        try:
            return self._verifier.value.verify(token)
        except InvalidToken as error:
            job_id = error.job_id or claimed_job(token)
            return RejectedToken(error.code, str(error), None if job_id is None else str(job_id))

    def authorize_job(self, request: web.Request, *, scope: str | None = None) -> Grant:
        """Return the pass for the job that the path names; a Problem when the token does not open it so far."""
        grant = authorize_job(request, presented_token(request), self._verifier.value)
        if scope is not None and scope not in grant.scope:
            raise Forbidden(f"The token does not allow to {scope}.")
        return grant

    async def authorize_jobs(self, request: web.Request) -> tuple[list[WatchRequest], list[RejectedToken]]:
        """Read the body that asks for many jobs; a Problem when no token of it opens anything."""
        requests: dict[UUID, WatchRequest] = {}
        rejected = []
        for entry in (await read_json_body(request, WatchManyBody, MAX_BODY_BYTES)).watch:
            token, version = (entry, None) if isinstance(entry, str) else (entry.watch, entry.version)
            grant = self.verify(token)
            await asyncio.sleep(0)  # a signature takes a quarter of a millisecond, and others are waiting
            if isinstance(grant, RejectedToken):
                rejected.append(grant)
            else:
                requests[grant.job_id] = WatchRequest(grant, version)
        if not requests:
            raise Unauthorized(rejected[0].message, code=rejected[0].code)
        return list(requests.values()), rejected


def presented_token(request: web.Request) -> str | None:
    """Return the token of the Authorization header or of `?access_token=`, if there is one."""
    return bearer_token(request) or request.query.get("access_token") or None


@contextmanager
def unavailable_without_store() -> Iterator[None]:
    """Answer 503 when the records cannot be asked."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise ServiceUnavailable("The records are away; try again.", retry_after_s=RETRY_AFTER_S) from error
