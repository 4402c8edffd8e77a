"""Authentication and rate limits of submissions.

An API key identifies its caller; in open mode all requests have the same caller. The rate limit applies to each key, or
to the client's address if the request has no valid key.
"""

from __future__ import annotations

import hashlib
import math
import time

from aiohttp import web

from ..runtime.errors import HTTPProblem, Unauthorized
from ..runtime.request import bearer_token, is_valid_key
from ..runtime.settings import ReloadingFile
from . import metrics
from .rate_limiter import RateLimiter
from .settings import SubmitterSettings

ANONYMOUS = "anyone"


class TooManyRequests(HTTPProblem):
    """The caller has exceeded its rate limit."""

    status, code = 429, "too_many_requests"


class CallerAuth:
    """Identifies callers and applies their rate limit."""

    def __init__(self, settings: SubmitterSettings, keys: ReloadingFile[tuple[str, ...]] | None) -> None:
        self._keys = keys
        self._hops = settings.forwarded_hops
        self._rate_limiter = RateLimiter(settings.submit_rate, settings.submit_burst)

    def authenticate(self, request: web.Request) -> str:
        """Return the caller's name: a digest of its key, or `ANONYMOUS` in open mode.

        Raises:
            Unauthorized: the request has no valid API key.
            TooManyRequests: the caller has exceeded its rate limit.
        """
        name = self._caller_name(bearer_token(request))
        wait_s = self._rate_limiter.acquire(name or client_address(request, self._hops), time.monotonic())
        if wait_s > 0:
            metrics.SUBMISSIONS.labels("limited").inc()
            raise TooManyRequests("Too many submissions; try again later.", retry_after_s=math.ceil(wait_s))
        if name is None and self._keys is not None:
            raise Unauthorized("Send an API key: Authorization: Bearer <key>.")
        return name or ANONYMOUS

    def _caller_name(self, key: str | None) -> str | None:
        if self._keys is None or key is None or not is_valid_key(key, self._keys.value):
            return None
        return hashlib.sha256(key.encode()).hexdigest()


def client_address(request: web.Request, hops: int) -> str:
    """Return the client's address as seen by the outermost trusted proxy; clients can forge the entries before it."""
    chain = [hop.strip() for line in request.headers.getall("X-Forwarded-For", ()) for hop in line.split(",")]
    chain.append(request.remote or "")
    return chain[-1 - hops] if hops < len(chain) else chain[-1]
