"""One HTTP request as a good client makes it: what is lost or refused for the moment is sent again, for a while."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from headway.backoff import full_jitter_s
from headway.contracts import decode
from headway.tokens import InvalidToken

log = logging.getLogger("headway.client")

RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})  # what a proxy or a service answers that will soon be well again
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.25, 10.0
TIMEOUT_S = 15.0
WARN_AFTER_FAILURES = 3  # failures in a row, from which on it is worth a word


class RequestFailed(Exception):
    """A service refuses, and says why: `code` is stable, `detail` for people, `field` what does not fit."""

    def __init__(self, status: int | None, code: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field

    def __str__(self) -> str:
        return f"{self.detail} ({self.field})" if self.field and self.field not in self.detail else self.detail


class Unreachable(ConnectionError):
    """Nobody answered, for as long as the client's patience lasts."""


class _ErrorBody(Struct):
    code: str
    detail: str
    field: str | None = None


class _TemporaryFailure(Exception):
    """A request failed in a way that passes: `error` says how, and the next one waits for `after_s` at least."""

    def __init__(self, error: Exception, after_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


async def request_with_retry(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    retry_for_s: float,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Send a request until it is answered; return the answer's body, which is empty for a 304.

    Raises:
        Problem, InvalidToken: it is refused.
        Unreachable: nobody answers within `patience_s`.
    """
    bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = partial(
        session.request,
        method,
        url,
        headers={**bearer, **(headers or {})},
        data=body,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        allow_redirects=False,
    )
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + retry_for_s
    for failures in itertools.count(1):
        try:
            return await _request_once(request, url)
        except _TemporaryFailure as failure:
            wait_s = failure.after_s + full_jitter_s(failures, BACKOFF_BASE_S, BACKOFF_CAP_S)
            if clock() + wait_s > give_up_at:
                raise failure.error from failure.__cause__
            if failures == WARN_AFTER_FAILURES:
                log.warning("%s; still trying", failure.error)
        await asyncio.sleep(wait_s)
    raise AssertionError("unreachable")


async def _request_once(request: Callable[[], AbstractAsyncContextManager[aiohttp.ClientResponse]], url: str) -> bytes:
    try:
        async with request() as response:
            text = await response.read()
    except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is one
        raise _TemporaryFailure(Unreachable(f"{url} does not answer: {_reason(error)}")) from error
    if response.status < 300 or response.status == 304:
        return text
    refused = error_from_response(response.status, text)
    if response.status not in RETRYABLE_STATUSES:
        raise refused
    raise _TemporaryFailure(refused, _retry_after_s(response.headers.get("Retry-After", "")))


def error_from_response(status: int | None, text: bytes) -> RequestFailed | InvalidToken:
    """Read a problem+json; whatever else has answered is told by its status."""
    try:
        body = decode(text, _ErrorBody)
    except msgspec.DecodeError:
        body = _ErrorBody("unexpected", f"The server answered {status} without saying why.")
    return error_from_code(status, body.code, body.detail, body.field)


def error_from_code(
    status: int | None, code: str, detail: str, field: str | None = None
) -> RequestFailed | InvalidToken:
    """Make the exception for a code."""
    if code in ("invalid_token", "token_expired"):
        return InvalidToken(code, detail)
    return RequestFailed(status, code, detail, field)


def _reason(error: Exception) -> str:
    cause: Any = getattr(error, "os_error", error)  # aiohttp's own words name no scheme
    return os.strerror(cause.errno) if getattr(cause, "errno", None) else str(error) or type(error).__name__


def _retry_after_s(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0
