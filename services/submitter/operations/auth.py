"""Authorization of operators.

An operator has an API key with the role `operate` or a token with the scope `operate`; `DASHBOARD_OPEN` needs neither.
A token permits actions on its job, or on the jobs that its filter selects.
"""

from __future__ import annotations

from uuid import UUID

from aiohttp import web
from msgspec import Struct

from headway.grants import DETAILS, OPERATE, Grant, ListGrant
from headway.labels import ALL_JOBS, NO_LABELS, JobFilter, Labels
from headway.tokens import TokenVerifier, is_jwt

from ...runtime.auth import require_scope, verify_token
from ...runtime.errors import Forbidden
from ...runtime.request import bearer_token
from ...runtime.settings import ReloadingFile
from ..api_keys import DIGEST_LENGTH, Permission, key_digest
from ..caller_auth import CallerAuth


class Operator(Struct, frozen=True):
    """An operator, and the jobs that it may act on.

    Attributes:
        name: the name of the API key, of the token or of open mode, for logs.
        filter: what the labels and the kind of the jobs must match.
        job_id: the only job, None if there is no such limit.
        sees_details: whether the operator may see payloads and labels.
    """

    name: str
    filter: JobFilter = ALL_JOBS
    job_id: UUID | None = None
    sees_details: bool = True

    def may_operate(self, job_id: UUID | None, kind: str, labels: Labels | None) -> bool:
        """Return whether the operator may act on a job."""
        return self.job_id in (None, job_id) and self.filter.matches(kind, labels or NO_LABELS)

    def authorize(self, job_id: UUID | None, kind: str, labels: Labels | None) -> None:
        """Raise Forbidden unless the operator may act on a job."""
        if self.job_id not in (None, job_id):
            raise Forbidden("The token is for another job.")
        if not self.may_operate(job_id, kind, labels):
            raise Forbidden("The token does not match the labels of this job.")


class OperatorAuth:
    """Identifies operators, within the rate limit of callers."""

    def __init__(self, caller_auth: CallerAuth, verifier: ReloadingFile[TokenVerifier]) -> None:
        self._caller_auth = caller_auth
        self._verifier = verifier

    def authenticate(self, request: web.Request) -> Operator:
        """Return the operator who sends a request.

        Raises:
            Unauthorized: the request has no valid API key and no valid token; for a token, `code` says why.
            Forbidden: the role or the scope `operate` is required.
            TooManyRequests: the caller has exceeded its rate limit.
        """
        caller = self._caller_auth.identify(request)
        if Permission.OPERATE in caller.permissions:
            return Operator(caller.name)
        if Permission.ISSUE in caller.permissions:  # no caller without a key has it, unless it may operate, too
            raise Forbidden("This needs an API key with the role `operate`.")
        token = bearer_token(request)
        if token is None or not is_jwt(token):
            raise self._caller_auth.key_needed()
        grant = verify_token(token, self._verifier.value.verify_any)
        require_scope(grant, OPERATE)
        self._caller_auth.caller_of_token(grant, Permission.OPERATE)  # the key may have been removed
        return _operator_from_grant(grant, grant.by or f"token:{key_digest(token)[:DIGEST_LENGTH]}")


def _operator_from_grant(grant: Grant | ListGrant, name: str) -> Operator:
    sees_details = DETAILS in grant.scope
    if isinstance(grant, ListGrant):
        return Operator(name, grant.filter, sees_details=sees_details)
    return Operator(name, job_id=grant.job_id, sees_details=sees_details)
