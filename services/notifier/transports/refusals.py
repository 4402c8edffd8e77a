"""Refused watches: counted by code and origin, logged at a limited rate, and limited for each connection."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

import structlog

from headway.tokens import ForgedToken, InvalidToken, UnknownKey, unverified_job_id

from ...runtime.errors import Forbidden, HTTPProblem, NotFound, Unauthorized, UnprocessableContent
from ...runtime.redaction import redact
from ...runtime.token_bucket import TokenBucket
from .. import metrics
from .base import error_payload

log: structlog.stdlib.BoundLogger = structlog.get_logger()

UNAVAILABLE = "The job records are unavailable; try again."
LOGGED_PER_S, LOGGED_BURST = 1.0, 10  # lines about refused watches
MAX_LOGGED_ORIGIN_LENGTH = 200
NO_ORIGIN, OTHER_ORIGIN = "none", "other"  # values of the metric's label
ORIGIN_NOT_ALLOWED = "origin_not_allowed"
CODES = ("invalid_token", "token_expired", "forbidden", ORIGIN_NOT_ALLOWED)
MIN_ALLOWANCE = 1_000
FORGED_COST = 50  # each one costs a signature check, and no page has any
INVALID_COST = 10
UNKNOWN_KEY_COST = 2  # a page has many of them after a key was removed
EXPIRED_COST = 1  # a page that was left open has as many of them as it watches jobs


PROBLEMS: dict[str, type[HTTPProblem]] = {
    "unknown": NotFound,
    "forbidden": Forbidden,
    "invalid": UnprocessableContent,
}


def problem_for(code: str, message: str) -> HTTPProblem:
    """Return the HTTP problem of an error about a token or its job."""
    return PROBLEMS.get(code, Unauthorized)(message, code=code)


class RejectedToken(NamedTuple):
    """The reason why a token was rejected. Keeping the exception would form a reference cycle through its traceback."""

    code: str
    message: str
    job_id: str | None

    @classmethod
    def from_error(cls, error: InvalidToken, token: str) -> RejectedToken:
        """Return the reason, with the id of the token's job if that is known."""
        job_id = error.job_id or unverified_job_id(token)
        return cls(error.code, str(error), None if job_id is None else str(job_id))

    @property
    def error(self) -> dict[str, str]:
        """The error as it is sent over every transport."""
        return error_payload(self.job_id, self.code, self.message)


def too_many_watches(job_id: str, max_watches: int) -> RejectedToken:
    """Count a job that its connection may not watch in addition, and return the reason."""
    metrics.LIMITS_EXCEEDED.labels("watches").inc()
    return RejectedToken("too_many_watches", f"One connection may watch at most {max_watches} jobs.", job_id)


class TokenAllowance:
    """How many more rejected tokens a connection or request may present.

    These are 20 forged tokens, 100 malformed ones, 500 of an unknown key, or 1,000 expired ones. An accepted token
    makes up for a malformed one.

    Attributes:
        left: what is left of it, in expired tokens; all at first.
        origin: the origin of the connection or request, None if it has none.
    """

    __slots__ = ("_limit", "left", "origin")

    def __init__(self, max_watches: int, origin: str | None) -> None:
        self._limit = self.left = max(MIN_ALLOWANCE, max_watches)
        self.origin = origin

    def spend(self, error: InvalidToken) -> None:
        """Count a rejected token."""
        if isinstance(error, ForgedToken):
            self.left -= FORGED_COST
        elif isinstance(error, UnknownKey):
            self.left -= UNKNOWN_KEY_COST
        else:
            self.left -= EXPIRED_COST if error.code == "token_expired" else INVALID_COST

    def restore(self) -> None:
        """Count an accepted token."""
        self.left = min(self._limit, self.left + INVALID_COST)

    @property
    def is_exceeded(self) -> bool:
        """Whether too many rejected tokens were presented."""
        return self.left < 0


class RefusalLog:
    """Counts and logs refused watches.

    Args:
        origins: the allowed origins; the metric counts all others as one.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)
        self._budget = TokenBucket(LOGGED_PER_S, LOGGED_BURST, time.monotonic())
        self._suppressed = 0  # lines since the last one
        for code in CODES:
            for origin in (NO_ORIGIN, *self._origins, OTHER_ORIGIN):
                metrics.WATCH_REFUSED.labels(code, origin)

    def add_token(self, code: str, job_id: str | None, origin: str | None) -> None:
        """Count a refused token, and log it unless too many lines were logged."""
        self._count(code, origin)
        if (suppressed := self._spend_line()) is not None:
            log.info("token_rejected", job_id=job_id, code=code, origin=origin, **suppressed)

    def add_origin(self, origin: str) -> None:
        """Count a request of a page whose origin is not allowed, and log it unless too many lines were logged."""
        self._count(ORIGIN_NOT_ALLOWED, origin)
        if (suppressed := self._spend_line()) is not None:
            log.info("origin_rejected", origin=redact(origin)[:MAX_LOGGED_ORIGIN_LENGTH], **suppressed)

    def _count(self, code: str, origin: str | None) -> None:
        known = NO_ORIGIN if origin is None else origin if origin in self._origins else OTHER_ORIGIN
        metrics.WATCH_REFUSED.labels(code, known).inc()

    def _spend_line(self) -> dict[str, int] | None:
        """Return how many lines are missing before the next one, as a field of it; None if it is missing, too."""
        if self._budget.acquire(time.monotonic()) > 0:
            self._suppressed += 1
            return None
        suppressed, self._suppressed = self._suppressed, 0
        return {"suppressed": suppressed} if suppressed else {}
