"""Which job a SignalR connection watches, as its URL says: `jobId`, and the token in a header or in the query."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from headway.timestamp import Timestamp
from headway.tokens import WATCH, Grant

from ....runtime.errors import Unauthorized, UnprocessableContent
from ..auth import NO_KEY, TokenAuth, WatchRequest, presented_token, request_origin
from ..refusals import RejectedToken, TokenAllowance, problem_for

RANDOM_UUID_VERSION = 4
GRANT_S = 10 * 365 * 86_400  # of a connection without a token, which ends when its client closes it
UNAUTHORIZED = "Send a token of the job: `access_token` or `token` in the query, or Authorization: Bearer <token>."


class ConnectionAuth:
    """Authorizes connections.

    Args:
        auth: verifies tokens, and knows whether a random job id alone opens its job.
    """

    def __init__(self, auth: TokenAuth) -> None:
        self._auth = auth

    def authorize(self, request: web.Request, version: int | None = None) -> WatchRequest | None:
        """Return the job that a connection watches; None if it names none, with or without a list token.

        Args:
            request: a request of the connection.
            version: the newest version that the client has.

        Raises:
            UnprocessableContent: `jobId` is not a UUID.
            HTTPProblem: the token is missing, not valid, expired, or for another job.
        """
        job_id = _job_id(request)
        token = presented_token(request) or request.query.get("token") or None
        if token is None:
            return None if job_id is None else self._open_by_id(job_id, version)
        result = self._auth.verify(token, version, TokenAllowance(1, request_origin(request)), job_id)
        if not isinstance(result, RejectedToken):
            return result
        if job_id is None and result.code == "invalid":
            return None  # a list token; the client names jobs later
        raise problem_for(result.code, result.message)

    def _open_by_id(self, job_id: UUID, version: int | None) -> WatchRequest:
        if not self._auth.by_job_id or job_id.version != RANDOM_UUID_VERSION:
            raise Unauthorized(UNAUTHORIZED)
        now = Timestamp.now()
        grant = Grant(
            job_id=job_id,
            kind="",
            submitted_at=now,
            expires_at=now.after(GRANT_S),
            scope=frozenset({WATCH}),
            requires_record=True,
        )
        return WatchRequest(grant, NO_KEY, version)


def _job_id(request: web.Request) -> UUID | None:
    text = next((value for name, value in request.query.items() if name.lower() == "jobid"), None)
    try:
        return None if text is None else UUID(text)
    except ValueError as error:
        raise UnprocessableContent("Expected the id of a job, a UUID.", field="jobId") from error
