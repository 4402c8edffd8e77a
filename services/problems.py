"""Errors as HTTP tells them: problem+json (RFC 9457), rendered in one place."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import ClassVar, TypeVar

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import PayloadEncodingError as PayloadError

from headway.contracts import decode
from services import heads, metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()
T = TypeVar("T")
B = TypeVar("B", bytes, bytearray)
JSON = "application/json"
PROBLEM = "application/problem+json"
BODY_S = 10.0  # for a whole body, however it drips in
HELD = web.RequestKey("held", bool)  # set on a request whose answer is held back
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(Exception):
    """An expected failure: a status, a stable code and a message fit for the caller."""

    status: ClassVar[int] = 400
    code: str = "bad_request"

    def __init__(
        self, detail: str, *, field: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code or self.code
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        """Return what its answer says besides."""
        told = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return told if self.status != HTTPStatus.UNAUTHORIZED else {**told, "WWW-Authenticate": "Bearer"}


class Malformed(Problem):
    """The body is not JSON at all."""

    status, code = 400, "malformed"


class Unauthorized(Problem):
    """Nobody has said who asks, or it is not true."""

    status, code = 401, "unauthorized"


class Forbidden(Problem):
    """Whoever asks may not."""

    status, code = 403, "forbidden"


class NotFound(Problem):
    """There is no such thing."""

    status, code = 404, "not_found"


class TooSlow(Problem):
    """The body does not come."""

    status, code = 408, "too_slow"


class TooLarge(Problem):
    """The body is over its limit."""

    status, code = 413, "too_large"


class UnsupportedType(Problem):
    """The body's media type is none that is taken here."""

    status, code = 415, "unsupported_media_type"


class Unprocessable(Problem):
    """The body is JSON, but a field does not fit."""

    status, code = 422, "invalid"

    @classmethod
    def at(cls, error: msgspec.ValidationError) -> Unprocessable:
        """Name the field as msgspec tells it: ``Expected `int` - at `$[3].delivery` ``."""
        detail, _, path = str(error).partition(" - at `")
        places = (path.rstrip("`").removeprefix("$").removeprefix("."), _named_field(detail))
        return cls(str(error), field=".".join(place for place in places if place) or None)


class Unavailable(Problem):
    """What this needs is away; ask again."""

    status, code = 503, "unavailable"


def _named_field(detail: str) -> str | None:
    """Find the field in ``Object missing required field `kind` `` and ``Object contains unknown field `x` ``."""
    return detail.split("`")[1] if " field `" in detail else None


def render(status: int, code: str, detail: str, field: str | None = None) -> bytes:
    """Render one problem as JSON."""
    return msgspec.json.encode(
        {
            "type": "about:blank",
            "title": code.replace("_", " ").capitalize(),
            "status": status,
            "code": code,
            "detail": detail,
        }
        | ({"field": field} if field else {})
    )


def respond(
    status: int, code: str, detail: str, *, field: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    """Answer with one problem."""
    return web.Response(status=status, body=render(status, code, detail, field), content_type=PROBLEM, headers=headers)


@web.middleware
async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem, and measure the request."""
    heads.came(request.protocol)
    started = time.perf_counter()
    route = route_of(request)
    try:
        response = await handler(request)
    except Problem as problem:
        response = respond(problem.status, problem.code, problem.detail, field=problem.field, headers=problem.headers())
    except web.HTTPException as error:  # aiohttp's own: no such route, wrong method
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        response = respond(error.status, error.reason.lower().replace(" ", "_"), error.reason, headers=headers)
    except Exception:
        log.exception("request_failed", method=request.method, route=route)
        response = respond(500, "internal_error", "Internal error")
    metrics.REQUESTS.labels(request.method, route, response.status).inc()
    if isinstance(response, web.Response) and not _held(request):
        duration_s = time.perf_counter() - started
        metrics.REQUEST_DURATION.labels(request.method, route).observe(duration_s)
    return response


def _held(request: web.Request) -> bool:
    """Tell whether a request's answer was held back, which takes long and says nothing."""
    return HELD in request or "Prefer" in request.headers


@web.middleware
async def log_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log one line a public request: its route's template, never its query, which may hold a token."""
    started = time.perf_counter()
    response = await handler(request)
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS:  # a socket logs its opening and closing itself
        duration_ms, route = round((time.perf_counter() - started) * 1000, 1), route_of(request)
        said = log.debug if route.startswith("/assets/") else log.info
        said("request_answered", method=request.method, route=route, status=response.status, duration_ms=duration_ms)
    return response


def route_of(request: web.Request) -> str:
    """Return the route's template, `unmatched` when there is none."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical


async def read_body(request: web.Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes; TooLarge when there is more, TooSlow when it does not come in time."""
    content = request.content
    body = bytearray()
    if (request.content_length or 0) > limit:
        raise TooLarge(f"The body is larger than {limit} bytes.")
    try:
        if content.is_eof() and content.exception() is None:  # it came with its head
            return _within(content.read_nowait(), limit)
        async with asyncio.timeout(BODY_S):
            async for chunk in content.iter_any():
                body += chunk
                _within(body, limit)
    except TimeoutError as error:
        raise TooSlow(f"The body did not come within {BODY_S:.0f} seconds.") from error
    except (PayloadError, web.RequestPayloadError) as error:
        raise Malformed("The body does not come through as its headers promise.") from error
    return bytes(body)


def _within(body: B, limit: int) -> B:
    if len(body) > limit:
        raise TooLarge(f"The body is larger than {limit} bytes.")
    return body


def read_contract(body: bytes, kind: type[T]) -> T:
    """Read a JSON body; a Problem says that it is none, or names the element and the field that do not fit."""
    try:
        return decode(body, kind)
    except msgspec.ValidationError as error:
        raise Unprocessable.at(error) from error
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from error


async def read_json_body(request: web.Request, kind: type[T], limit: int) -> T:
    """Read a body that must be sent as JSON; a Problem says what is wrong with its type, its size or a field."""
    if request.content_type != JSON:
        raise UnsupportedType(f"Send {JSON}.")
    return read_contract(await read_body(request, limit), kind)


def read_query(request: web.Request, kind: type[T]) -> T:
    """Read the query as a contract; a Problem names the parameter that does not fit."""
    try:
        return msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise Unprocessable.at(error) from error


def bearer(request: web.Request) -> str | None:
    """Return the token of the Authorization header, if it has one."""
    return token_of(request.headers.get("Authorization", ""))


def token_of(authorization: str) -> str | None:
    """Return the token that such a header tells, if it is that of a bearer."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def known_key(presented: str | None, keys: tuple[str, ...]) -> bool:
    """Tell whether the key is one of these, in a time that tells nothing else."""
    given = (presented or "").encode(errors="surrogateescape")  # a header may hold any byte
    matches = [hmac.compare_digest(given, key.encode()) for key in keys]  # all of them, whichever it is
    return any(matches)
