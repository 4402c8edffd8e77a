"""Authentication of callers, what they may do, and their rate limit.

An API key identifies its caller; callers without one have the same name. The rate limit applies to each key, or to the
client's address if the request has no valid key.
"""

from __future__ import annotations

import math
import time

from aiohttp import web
from msgspec import Struct

from headway.grants import Grant, ListGrant

from ..runtime.errors import HTTPProblem, Unauthorized
from ..runtime.request import bearer_token
from ..runtime.settings import ReloadingFile
from .api_keys import ANONYMOUS, ApiKey, Permission, key_digest
from .rate_limiter import RateLimiter
from .settings import SubmitterSettings

KEY_ID_LENGTH = 16  # digits of the digest: enough that no other key has the same


class TooManyRequests(HTTPProblem):
    """The caller has exceeded its rate limit."""

    status, code = 429, "too_many_requests"


class Caller(Struct, frozen=True):
    """The sender of a request.

    Attributes:
        id: the digest of the API key, or `ANONYMOUS`.
        name: the name of the API key for logs, or `ANONYMOUS`.
        permissions: what the caller may do.
    """

    id: str
    name: str
    permissions: Permission

    @property
    def key_id(self) -> str | None:
        """The id of the API key in tokens, None without a key."""
        return None if self.id == ANONYMOUS else self.id[:KEY_ID_LENGTH]


class CallerAuth:
    """Identifies callers and applies their rate limit."""

    def __init__(self, settings: SubmitterSettings, keys: ReloadingFile[dict[str, ApiKey]] | None) -> None:
        self._keys = keys
        self._anonymous = Caller(ANONYMOUS, ANONYMOUS, _permissions_without_key(settings))
        self._hops = settings.forwarded_hops
        self._rate_limiter = RateLimiter(settings.submit_rate, settings.submit_burst)

    def identify(self, request: web.Request) -> Caller:
        """Return the caller of a request; raise TooManyRequests if it has exceeded its rate limit."""
        caller = self._caller(bearer_token(request))
        address = client_address(request, self._hops)
        wait_s = self._rate_limiter.acquire(address if caller is self._anonymous else caller.id, time.monotonic())
        if wait_s > 0:
            raise TooManyRequests("Too many requests; try again later.", retry_after_s=math.ceil(wait_s))
        return caller

    def key_needed(self) -> Unauthorized:
        """Return the error for a request without a valid API key."""
        return Unauthorized(
            "This needs an API key, but SUBMITTER_API_KEYS is not set. On one machine, set DASHBOARD_OPEN=true."
            if self._keys is None
            else "Send an API key: Authorization: Bearer <key>."
        )

    def caller_of_token(self, grant: Grant | ListGrant, permission: Permission) -> Caller | None:
        """Return the caller whose API key has asked for a token, None if the token names no key.

        Raises:
            Unauthorized: the key does not exist any more, or no longer has the permission.
        """
        if grant.key_id is None:
            return None
        for digest, key in ({} if self._keys is None else self._keys.value).items():
            if digest.startswith(grant.key_id) and permission in key.permissions:
                return Caller(digest, key.name, key.permissions)
        raise Unauthorized("The API key of this token does not exist any more, or may do less; sign in again.")

    def _caller(self, key: str | None) -> Caller:
        if self._keys is None or key is None:
            return self._anonymous
        digest = key_digest(key)
        known = self._keys.value.get(digest)
        if known is None:
            return self._anonymous
        return Caller(digest, known.name, known.permissions | self._anonymous.permissions)


def _permissions_without_key(settings: SubmitterSettings) -> Permission:
    permissions = Permission.SUBMIT if settings.submitter_open else Permission(0)
    if settings.dashboard_open:
        permissions |= Permission.LABEL | Permission.ISSUE | Permission.OPERATE
    return permissions


def client_address(request: web.Request, hops: int) -> str:
    """Return the client's address as seen by the outermost trusted proxy; clients can forge the entries before it."""
    chain = [hop.strip() for line in request.headers.getall("X-Forwarded-For", ()) for hop in line.split(",")]
    chain.append(request.remote or "")
    return chain[-1 - hops] if hops < len(chain) else chain[-1]
