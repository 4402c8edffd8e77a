"""Authorization of watchers: reads the tokens of requests and messages, and verifies them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Annotated, NamedTuple
from uuid import UUID

from aiohttp import web
from msgspec import Meta, Struct
from redis.exceptions import RedisError

from headway.contracts import Natural, Timestamp
from headway.tokens import EXPIRED, INVALID, WATCH, Grant, InvalidToken, ListGrant, TokenVerifier

from ...runtime.auth import authorize_job, require_scope, require_token, verify_token
from ...runtime.errors import Forbidden, ServiceUnavailable, Unauthorized
from ...runtime.request import bearer_token, read_json_body
from ...runtime.settings import ReloadingFile
from ..records.record_read import RecordRead
from .refusals import UNAVAILABLE, RefusalLog, RejectedToken, TokenAllowance, problem_for, too_many_watches

RETRY_AFTER_S = 1
MAX_BODY_BYTES = 1024 * 1024
NO_KEY = ""  # the key id of a grant without a token

Token = Annotated[str, Meta(min_length=1, max_length=4096)]


class WatchEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A token and the newest version that the client has of its job, in the form of a WebSocket message.

    A list token needs the id of the job. With `log`, the client follows the log, which it has up to that offset.
    """

    watch: Token
    version: Natural | None = None
    job_id: UUID | None = None
    log: Natural | None = None


class WatchManyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request to watch many jobs. A plain token is an entry without a version.

    Its size limits the number of tokens. Each one beyond `MAX_WATCHES` gets an error, as over a WebSocket.
    """

    watch: Annotated[list[Token | WatchEntry], Meta(min_length=1)]


class WatchRequest(NamedTuple):
    """A job that the client may watch.

    Attributes:
        grant: what its token allows.
        key_id: the key that signed the token.
        version: the newest version that the client has.
        log: the offset up to which the client has the log; None if it does not follow the log.
    """

    grant: Grant
    key_id: str
    version: int | None
    log: int | None = None


class TokenAuth:
    """Verifies tokens with the current public keys; counts and logs those that it rejects.

    Args:
        verifier: the keys.
        origins: the allowed origins, which the metric of refused tokens names.
        by_job_id: whether grants without a token are valid, of clients that know only the id of their job.
    """

    def __init__(
        self, verifier: ReloadingFile[TokenVerifier], origins: Collection[str], *, by_job_id: bool = False
    ) -> None:
        self._verifier = verifier
        self.by_job_id = by_job_id
        self.refusals = RefusalLog(origins)

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the current public keys, and that of grants without a token if these are valid."""
        return self._verifier.value.key_ids | ({NO_KEY} if self.by_job_id else set())

    def verify(
        self, token: str, version: int | None, allowance: TokenAllowance, job_id: UUID | None = None
    ) -> WatchRequest | RejectedToken:
        """Return the job that a token allows its bearer to watch, or the reason why the token was rejected.

        Args:
            token: the token.
            version: the newest version that the client has of the job.
            allowance: that of the client's connection or request.
            job_id: the job; only a list token needs it.
        """
        verified = self.verify_any(token, allowance)
        if isinstance(verified, RejectedToken):
            return verified
        grant, key_id = verified
        if isinstance(grant, ListGrant):
            if job_id is None:
                return RejectedToken("invalid", "Send `job_id` together with a list token.", None)
            if not grant.permits(WATCH):
                return self._reject("forbidden", "The token does not have the scope `watch`.", job_id, allowance.origin)
            grant = grant.for_job(job_id)
        elif job_id not in (None, grant.job_id):
            return self._reject("forbidden", "The token is for another job.", job_id, allowance.origin)
        return WatchRequest(grant, key_id, version)

    def verify_any(self, token: str, allowance: TokenAllowance) -> tuple[Grant | ListGrant, str] | RejectedToken:
        """Return the grant and the key id of a token, or the reason why the token was rejected."""
        verifier = self._verifier.value
        try:
            grant = verifier.verify_any(token)
        except InvalidToken as error:
            rejected = RejectedToken.from_error(error, token)
            self.refusals.add_token(rejected.code, rejected.job_id, allowance.origin)
            allowance.spend(error)
            return rejected
        allowance.restore()
        return grant, verifier.key_id_of(token)

    def _reject(self, code: str, message: str, job_id: UUID | None, origin: str | None) -> RejectedToken:
        rejected = RejectedToken(code, message, None if job_id is None else str(job_id))
        self.refusals.add_token(rejected.code, rejected.job_id, origin)
        return rejected

    def recheck(self, grant: Grant | ListGrant, key_id: str, origin: str | None) -> RejectedToken | None:
        """Return the reason why a token that was accepted no longer is, or None."""
        job_id = grant.job_id if isinstance(grant, Grant) else None
        if key_id not in self.key_ids:
            return self._reject("invalid_token", INVALID, job_id, origin)
        if grant.is_expired(Timestamp.now()):
            return self._reject("token_expired", EXPIRED, job_id, origin)
        return None

    def check_record(self, grant: Grant, record: RecordRead | None, origin: str | None) -> RejectedToken | None:
        """Return the reason why a token does not open a job with this record, or without one, or None if it does."""
        job_id = str(grant.job_id)
        if record is None:
            return RejectedToken("unknown", "This job has no record.", job_id) if grant.requires_record else None
        if grant.filter is None or record.matches(grant.filter):
            return None
        return self.reject_job(job_id, origin)

    def require_record(self, request: web.Request, grant: Grant, record: RecordRead | None) -> None:
        """Raise the problem of a request whose token does not open a job with this record, or without one."""
        if (rejected := self.check_record(grant, record, request_origin(request))) is not None:
            raise problem_for(rejected.code, rejected.message)

    def reject_job(self, job_id: str, origin: str | None) -> RejectedToken:
        """Count and return the error for a token whose filter does not match the job's record."""
        self.refusals.add_token("forbidden", job_id, origin)
        return RejectedToken("forbidden", "The token does not match the labels of this job.", job_id)

    def authorize_job(self, request: web.Request, version: int | None = None, *, scope: str = WATCH) -> WatchRequest:
        """Return the job that the path names, if the token is for it or is a list token.

        Raises:
            Unauthorized: the token is missing, invalid or expired.
            Forbidden: the token is for another job, or lacks the scope.
            NotFound: the path does not contain a job id.
        """
        token, verifier = presented_token(request), self._verifier.value
        with self._counting_refusals(request, token, request.match_info["id"]):
            grant = authorize_job(request, token, verifier.verify_any, scope)
            return WatchRequest(grant, verifier.key_id_of(require_token(token)), version)

    def authorize_list(self, request: web.Request, scope: str) -> ListGrant:
        """Return the grant of a list token.

        Raises:
            Unauthorized: the token is missing, invalid or expired.
            Forbidden: the token is for one job, or lacks the scope.
        """
        token = presented_token(request)
        with self._counting_refusals(request, token, None):
            grant = verify_token(require_token(token), self._verifier.value.verify_any)
            if not isinstance(grant, ListGrant):
                raise Forbidden("Send a list token; this one is for one job.")
            require_scope(grant, scope)
            return grant

    @contextmanager
    def _counting_refusals(self, request: web.Request, token: str | None, job_id: str | None) -> Iterator[None]:
        """Count and log a refusal, unless there is no token."""
        try:
            yield
        except (Unauthorized, Forbidden) as problem:
            if token is not None:
                self.refusals.add_token(problem.code, job_id, request_origin(request))
            raise

    async def authorize_jobs(
        self, request: web.Request, max_watches: int
    ) -> tuple[list[WatchRequest], list[RejectedToken]]:
        """Return the jobs that a request's body names, up to `max_watches`, and the reasons for rejecting the others.

        Raises:
            HTTPProblem: the body is not valid, or all tokens were rejected, or too many; then the error has the code
                of the first one.
        """
        requests: dict[UUID, WatchRequest] = {}
        rejected = []
        allowance = TokenAllowance(max_watches, request_origin(request))
        for entry in (await read_json_body(request, WatchManyBody, MAX_BODY_BYTES)).watch:
            watch = WatchEntry(entry) if isinstance(entry, str) else entry
            result = self.verify(watch.watch, watch.version, allowance, watch.job_id)
            await asyncio.sleep(0)  # one verification blocks the event loop for a quarter of a millisecond
            if isinstance(result, RejectedToken):
                rejected.append(result)
            elif result.grant.job_id in requests or len(requests) < max_watches:
                requests[result.grant.job_id] = result._replace(log=watch.log)
            else:
                rejected.append(too_many_watches(str(result.grant.job_id), max_watches))
            if allowance.is_exceeded:
                break
        if allowance.is_exceeded or not requests:
            raise problem_for(rejected[0].code, rejected[0].message)
        return list(requests.values()), rejected


def request_origin(request: web.Request) -> str | None:
    """Return the origin of the page that sends a request; programs and some pages of the same origin send none."""
    return request.headers.get("Origin")


def presented_token(request: web.Request) -> str | None:
    """Return the token of the Authorization header or of `?access_token=`, or None without either."""
    return bearer_token(request) or request.query.get("access_token") or None


@contextmanager
def unavailable_without_store() -> Iterator[None]:
    """Raise ServiceUnavailable instead of the errors of Redis."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise ServiceUnavailable(UNAVAILABLE, retry_after_s=RETRY_AFTER_S) from error
