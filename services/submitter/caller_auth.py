"""Who submits, and whether they may: one of the API keys names its caller; in open mode everyone is one and the same.

The rate counts for a key, or without one for an address, a wrong key being none.
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
    """The caller asks more often than it may."""

    status, code = 429, "too_many_requests"


class CallerAuth:
    """Knows the callers and holds them to their rate."""

    def __init__(self, settings: SubmitterSettings, keys: ReloadingFile[tuple[str, ...]] | None) -> None:
        self._keys = keys
        self._hops = settings.forwarded_hops
        self._rate_limiter = RateLimiter(settings.submit_rate, settings.submit_burst)

    def authenticate(self, request: web.Request) -> str:
        """Return the name of whoever submits, which is no secret; a Problem when they may not, or not now."""
        name = self._caller_name(bearer_token(request))
        wait_s = self._rate_limiter.acquire(name or client_address(request, self._hops), time.monotonic())
        if wait_s > 0:
            metrics.SUBMITTED.labels("limited").inc()
            raise TooManyRequests("These are too many submissions; try again later.", retry_after_s=math.ceil(wait_s))
        if name is None and self._keys is not None:
            raise Unauthorized("Send one of the API keys: Authorization: Bearer <key>.")
        return name or ANONYMOUS

    def _caller_name(self, key: str | None) -> str | None:
        if self._keys is None or key is None or not is_valid_key(key, self._keys.value):
            return None
        return hashlib.sha256(key.encode()).hexdigest()


def client_address(request: web.Request, hops: int) -> str:
    """Return the client's address as the outermost trusted proxy has seen it; what stands before, anyone can say."""
    chain = [hop.strip() for line in request.headers.getall("X-Forwarded-For", ()) for hop in line.split(",")]
    chain.append(request.remote or "")
    return chain[-1 - hops] if hops < len(chain) else chain[-1]
