"""Authorization of watchers: reads the tokens of requests and messages, and verifies them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NamedTuple, cast
from uuid import UUID

from aiohttp import web
from msgspec import Meta, Struct
from redis.exceptions import RedisError

from headway.contracts import Natural, Timestamp
from headway.tokens import EXPIRED, INVALID, Grant, InvalidToken, TokenVerifier

from ...runtime.auth import authorize_job
from ...runtime.errors import Forbidden, ServiceUnavailable, Unauthorized
from ...runtime.request import bearer_token, read_json_body
from ...runtime.settings import ReloadingFile
from .refusals import RefusalLog, RejectedToken, TokenAllowance, too_many_watches

RETRY_AFTER_S = 1
MAX_BODY_BYTES = 1024 * 1024

Token = Annotated[str, Meta(min_length=1, max_length=4096)]


class WatchEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A token and the newest version that the client has of its job, in the form of a WebSocket message."""

    watch: Token
    version: Natural | None = None


class WatchManyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request to watch many jobs. A plain token is an entry without a version.

    Its size limits the number of tokens. Each one beyond `MAX_WATCHES` gets an error, as over a WebSocket.
    """

    watch: Annotated[list[Token | WatchEntry], Meta(min_length=1)]


class WatchRequest(NamedTuple):
    """A job that the client may watch, the key that signed its token, and the newest version that the client has."""

    grant: Grant
    key_id: str
    version: int | None


class TokenAuth:
    """Verifies tokens with the current public keys; counts and logs those that it rejects."""

    def __init__(self, verifier: ReloadingFile[TokenVerifier]) -> None:
        self._verifier = verifier
        self._refusals = RefusalLog()

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the current public keys."""
        return self._verifier.value.key_ids

    def verify(self, token: str, version: int | None, allowance: TokenAllowance) -> WatchRequest | RejectedToken:
        """Return the job that a token allows its bearer to watch, or the reason why the token was rejected.

        Args:
            token: the token.
            version: the newest version that the client has of the job.
            allowance: that of the client's connection or request.
        """
        verifier = self._verifier.value
        try:
            request = WatchRequest(verifier.verify(token), verifier.key_id_of(token), version)
        except InvalidToken as error:
            rejected = RejectedToken.from_error(error, token)
            self._refusals.add(rejected.code, rejected.job_id)
            allowance.spend(error)
            return rejected
        allowance.restore()
        return request

    def recheck(self, grant: Grant, key_id: str) -> RejectedToken | None:
        """Return the reason why a token that was accepted no longer is, or None."""
        if key_id not in self.key_ids:
            rejected = RejectedToken("invalid_token", INVALID, str(grant.job_id))
        elif grant.is_expired(Timestamp.now()):
            rejected = RejectedToken("token_expired", EXPIRED, str(grant.job_id))
        else:
            return None
        self.count_refusal(rejected.code, rejected.job_id)
        return rejected

    def count_refusal(self, code: str, job_id: str | None) -> None:
        """Count and log a refused token."""
        self._refusals.add(code, job_id)

    def authorize_job(
        self, request: web.Request, version: int | None = None, *, scope: str | None = None
    ) -> WatchRequest:
        """Return the job that the path names, if the token is for it.

        Raises:
            Unauthorized: the token is missing, invalid or expired.
            Forbidden: the token is for another job, or lacks the scope.
            NotFound: the path does not contain a job id.
        """
        token, verifier = presented_token(request), self._verifier.value
        try:
            grant = authorize_job(request, token, verifier, scope)
        except (Unauthorized, Forbidden) as problem:
            if token is not None:
                self.count_refusal(problem.code, request.match_info["id"])
            raise
        return WatchRequest(grant, verifier.key_id_of(cast(str, token)), version)

    async def authorize_jobs(
        self, request: web.Request, max_watches: int
    ) -> tuple[list[WatchRequest], list[RejectedToken]]:
        """Return the jobs that a request's body names, up to `max_watches`, and the reasons for rejecting the others.

        Raises:
            HTTPProblem: the body is not valid.
            Unauthorized: all tokens were rejected, or too many; the error has the code of the first one.
        """
        requests: dict[UUID, WatchRequest] = {}
        rejected = []
        allowance = TokenAllowance(max_watches)
        for entry in (await read_json_body(request, WatchManyBody, MAX_BODY_BYTES)).watch:
            token, version = (entry, None) if isinstance(entry, str) else (entry.watch, entry.version)
            result = self.verify(token, version, allowance)
            await asyncio.sleep(0)  # one verification blocks the event loop for a quarter of a millisecond
            if isinstance(result, RejectedToken):
                rejected.append(result)
            elif result.grant.job_id in requests or len(requests) < max_watches:
                requests[result.grant.job_id] = result
            else:
                rejected.append(too_many_watches(str(result.grant.job_id), max_watches))
            if allowance.is_exceeded:
                break
        if allowance.is_exceeded or not requests:
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
