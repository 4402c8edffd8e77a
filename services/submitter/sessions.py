"""Sessions: a token for all jobs, which an API key has asked for, is renewed with itself while the key exists.

So the dashboard need not keep the key. A session ends `MAX_SESSION_S` after the key was presented.
"""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

from headway.contracts import Timestamp
from headway.grants import DETAILS, Grant, ListGrant
from headway.tokens import EXPIRED, TokenVerifier, is_jwt

from ..runtime.auth import require_scope, verify_token
from ..runtime.errors import Forbidden, Unauthorized
from ..runtime.request import bearer_token
from ..runtime.settings import ReloadingFile
from .api_keys import Permission
from .caller_auth import Caller, CallerAuth

MAX_SESSION_S = 12 * 3600


class Session(Struct, frozen=True):
    """The caller who asks for a token.

    Attributes:
        caller: its name and what it may do now.
        token: the token with which it asks; None if it presents an API key, or needs none.
    """

    caller: Caller
    token: ListGrant | None = None

    @property
    def ends_at(self) -> Timestamp | None:
        """The time after which its token is not renewed; None without a token."""
        if self.token is None or self.token.signed_in_at is None:
            return None
        return self.token.signed_in_at.after(MAX_SESSION_S)


class SessionAuth:
    """Identifies the callers who ask for tokens, within the rate limit of callers."""

    def __init__(self, caller_auth: CallerAuth, verifier: ReloadingFile[TokenVerifier]) -> None:
        self._caller_auth = caller_auth
        self._verifier = verifier

    def authenticate(self, request: web.Request, permission: Permission, *, scope: str = DETAILS) -> Session:
        """Return the session of a request whose caller has the permission.

        Args:
            request: the request.
            permission: what the caller needs: without a key, or by the one that it presents or its token stands for.
            scope: what its token needs, if it presents one.

        Raises:
            Unauthorized: the request has no valid API key and no valid token, or the key of the token is gone.
            Forbidden: the token does not stand for a key, or lacks the scope.
            TooManyRequests: the caller has exceeded its rate limit.
        """
        caller = self._caller_auth.identify(request)
        if permission in caller.permissions:
            return Session(caller)
        token = bearer_token(request)
        if token is None or not is_jwt(token):
            raise self._caller_auth.key_needed()
        grant = verify_token(token, self._verifier.value.verify_any)
        require_scope(grant, scope)
        return self._resume(grant, permission)

    def _resume(self, grant: Grant | ListGrant, permission: Permission) -> Session:
        caller = self._caller_auth.caller_of_token(grant, permission)
        if caller is None or not isinstance(grant, ListGrant) or grant.signed_in_at is None:
            raise Forbidden("This needs an API key, or a token for all jobs for which a key was presented.")
        session = Session(caller, grant)
        if session.ends_at is not None and session.ends_at < Timestamp.now():
            raise Unauthorized(EXPIRED, code="token_expired")
        return session
