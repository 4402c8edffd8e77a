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
from headway.tokens import InvalidToken, Pass, TokenVerifier, claimed_job
from services.notifier.transports.outlet import problem
from services.runtime.auth import authorize_job
from services.runtime.errors import Forbidden, ServiceUnavailable, Unauthorized
from services.runtime.request import bearer_token, read_json_body
from services.runtime.settings import ReloadingFile

RETRY_AFTER_S = 1
BODY_BYTES = 1024 * 1024

Token = Annotated[str, Meta(min_length=1, max_length=4096)]


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """A token and the newest version that the watcher has seen of its job, as a socket's message spells them."""

    watch: Token
    version: Natural | None = None


class Many(Struct, frozen=True, forbid_unknown_fields=True):
    """The body that asks for many jobs; a token alone is an entry without a version."""

    watch: Annotated[list[Token | Entry], Meta(min_length=1, max_length=1000)]


class Asked(NamedTuple):
    """A job that may be watched, and what the watcher has seen of it."""

    granted: Pass
    version: int | None


class Refused(NamedTuple):
    """A token that opens nothing, told as an error of its job; the exception knows by its frames who has this."""

    code: str
    message: str
    job_id: str | None

    @property
    def problem(self) -> dict[str, str]:
        """Spell it as every transport tells an error."""
        return problem(self.job_id, self.code, self.message)


class Access:
    """Reads what tokens grant."""

    def __init__(self, verifier: ReloadingFile[TokenVerifier]) -> None:
        self._verifier = verifier

    def grant(self, token: str) -> Pass | Refused:
        """Return what a token grants, or why nothing: the watcher has many, so that is told with its job."""
        try:
            return self._verifier.value.verify(token)
        except InvalidToken as error:
            job_id = error.job_id or claimed_job(token)
            return Refused(error.code, str(error), None if job_id is None else str(job_id))

    def granted_for(self, request: web.Request, *, scope: str | None = None) -> Pass:
        """Return the pass for the job that the path names; a Problem when the token does not open it so far."""
        granted = authorize_job(request, presented_token(request), self._verifier.value)
        if scope is not None and scope not in granted.scope:
            raise Forbidden(f"The token does not allow to {scope}.")
        return granted

    async def granted_many(self, request: web.Request) -> tuple[list[Asked], list[Refused]]:
        """Read the body that asks for many jobs; a Problem when no token of it opens anything."""
        asked: dict[UUID, Asked] = {}
        refused = []
        for entry in (await read_json_body(request, Many, BODY_BYTES)).watch:
            token, version = (entry, None) if isinstance(entry, str) else (entry.watch, entry.version)
            granted = self.grant(token)
            await asyncio.sleep(0)  # a signature takes a quarter of a millisecond, and others are waiting
            if isinstance(granted, Refused):
                refused.append(granted)
            else:
                asked[granted.job_id] = Asked(granted, version)
        if not asked:
            raise Unauthorized(refused[0].message, code=refused[0].code)
        return list(asked.values()), refused


def presented_token(request: web.Request) -> str | None:
    """Return the token of the Authorization header or of `?access_token=`, if there is one."""
    return bearer_token(request) or request.query.get("access_token") or None


@contextmanager
def records_needed() -> Iterator[None]:
    """Answer 503 when the records cannot be asked."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise ServiceUnavailable("The records are away; try again.", retry_after_s=RETRY_AFTER_S) from error
