"""HTTP requests with retries: temporary failures are retried with exponential backoff, for a limited time."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from headway.backoff import full_jitter_s
from headway.client.connection_errors import INVALID_URL, connection_problem
from headway.contracts import Timestamp, decode
from headway.timestamp import RemoteClock
from headway.tokens import InvalidToken

log = logging.getLogger("headway.client")

RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})  # overload or a restart, answered by a service or a proxy
UNEXPECTED = "unexpected"  # the code of an error that no service of Headway has sent, but a proxy, for example
RANGE_NOT_SATISFIABLE = 416  # of a log that has no more text
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.25, 10.0
REQUEST_TIMEOUT_S = 15.0
WARN_AFTER_FAILURES = 3  # consecutive failures until a warning is logged


class RequestFailed(Exception):
    """A service rejected a request.

    Attributes:
        status: the HTTP status, or None if the error came over a WebSocket or from the client itself.
        code: a stable code for programs, such as `invalid`.
        detail: an explanation for people.
        field: the name of the invalid field, if there is one.
        is_repeated: whether the request was sent before without an answer, and may have had its effect then.
    """

    is_repeated = False

    def __init__(self, status: int | None, code: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field

    def __str__(self) -> str:
        return f"{self.detail} ({self.field})" if self.field and self.field not in self.detail else self.detail


class Unreachable(ConnectionError):
    """A service did not respond within the client's `retry_for_s`."""


class Response(Struct, frozen=True):
    """A response to a request that was not refused. The names of the headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class _ErrorBody(Struct):
    code: str
    detail: str
    field: str | None = None


class _TemporaryFailure(Exception):
    """A request failed in a way that a retry may fix; the retry waits for at least `min_delay_s`."""

    def __init__(self, error: Exception, min_delay_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.min_delay_s = min_delay_s


async def request_with_retry(session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> bytes:
    """Send a request as `respond_with_retry` does, and return the response body (empty for a 304)."""
    return (await respond_with_retry(session, method, url, **options)).body


async def respond_with_retry(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    retry_for_s: float,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout_s: float = REQUEST_TIMEOUT_S,
    clock: RemoteClock | None = None,
) -> Response:
    """Send a request, retry temporary failures for `retry_for_s`, and return the response.

    A clock is set to the time at which the server sent the response.

    Raises:
        RequestFailed: the service rejected the request, or was still failing at the end.
        InvalidToken: the service rejected the token.
        Unreachable: the service did not respond within `retry_for_s`.
    """
    bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
    all_headers, timeout = {**bearer, **(headers or {})}, aiohttp.ClientTimeout(total=timeout_s)
    request = partial(
        session.request, method, url, headers=all_headers, data=body, timeout=timeout, allow_redirects=False
    )
    loop_time = asyncio.get_running_loop().time
    deadline = loop_time() + retry_for_s
    for failures in itertools.count(1):
        try:
            return await _request_once(request, url, clock, is_repeated=failures > 1)
        except _TemporaryFailure as failure:
            delay_s = failure.min_delay_s + full_jitter_s(failures, BACKOFF_BASE_S, BACKOFF_CAP_S)
            if loop_time() + delay_s > deadline:
                raise failure.error from failure.__cause__
            if failures == WARN_AFTER_FAILURES:
                log.warning("%s; retrying", failure.error)
        await asyncio.sleep(delay_s)
    raise AssertionError("unreachable")


async def _request_once(
    request: Callable[[], AbstractAsyncContextManager[aiohttp.ClientResponse]],
    url: str,
    clock: RemoteClock | None,
    *,
    is_repeated: bool,
) -> Response:
    try:
        async with request() as response:
            body = await response.read()
    except (aiohttp.ClientError, OSError, UnicodeError) as error:  # TimeoutError is an OSError
        unreachable = Unreachable(f"{url} does not answer: {connection_problem(error, url)}")
        if isinstance(error, INVALID_URL):
            raise unreachable from error
        raise _TemporaryFailure(unreachable) from error
    if response.status < 300 or response.status in (304, RANGE_NOT_SATISFIABLE):
        if clock is not None:
            with suppress(ValueError):  # a proxy has removed or changed the header
                date = parsedate_to_datetime(response.headers.get("Date", ""))
                clock.receive(Timestamp.at(date.timestamp()), time.monotonic())
        return Response(response.status, {name.lower(): value for name, value in response.headers.items()}, body)
    rejection = error_from_response(response.status, body)
    if isinstance(rejection, RequestFailed):
        rejection.is_repeated = is_repeated
    if response.status not in RETRYABLE_STATUSES:
        raise rejection
    raise _TemporaryFailure(rejection, retry_after_s(response.headers.get("Retry-After", "")))


def error_from_response(status: int | None, body: bytes) -> RequestFailed | InvalidToken:
    """Return the exception for a problem+json body; for any other body, such as a proxy's, it names the status."""
    try:
        problem = decode(body, _ErrorBody)
    except msgspec.DecodeError:
        problem = _ErrorBody(UNEXPECTED, f"The server answered {status} without an explanation.")
    return error_from_code(status, problem.code, problem.detail, problem.field)


def error_from_code(
    status: int | None, code: str, detail: str, field: str | None = None
) -> RequestFailed | InvalidToken:
    """Return the exception for an error code."""
    if code in ("invalid_token", "token_expired"):
        return InvalidToken(code, detail)
    return RequestFailed(status, code, detail, field)


def retry_after_s(text: str) -> float:
    """Return the seconds of a `Retry-After` header, or 0 for any other text."""
    return float(text) if text.isdecimal() else 0.0
