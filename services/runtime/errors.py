"""Expected failures as exceptions, and their form on the wire: problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

import msgspec
from aiohttp import web

PROBLEM_JSON = "application/problem+json"


class HTTPProblem(Exception):
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


class BadRequest(HTTPProblem):
    """The body is not JSON at all."""

    status, code = 400, "malformed"


class Unauthorized(HTTPProblem):
    """Nobody has said who asks, or it is not true."""

    status, code = 401, "unauthorized"


class Forbidden(HTTPProblem):
    """Whoever asks may not."""

    status, code = 403, "forbidden"


class NotFound(HTTPProblem):
    """There is no such thing."""

    status, code = 404, "not_found"


class RequestTimeout(HTTPProblem):
    """The body does not come."""

    status, code = 408, "too_slow"


class PayloadTooLarge(HTTPProblem):
    """The body is over its limit."""

    status, code = 413, "too_large"


class UnsupportedMediaType(HTTPProblem):
    """The body's media type is none that is taken here."""

    status, code = 415, "unsupported_media_type"


class UnprocessableContent(HTTPProblem):
    """The body is JSON, but a field does not fit."""

    status, code = 422, "invalid"

    @classmethod
    def from_validation_error(cls, error: msgspec.ValidationError) -> UnprocessableContent:
        """Name the field as msgspec tells it: ``Expected `int` - at `$[3].delivery` ``."""
        detail, _, path = str(error).partition(" - at `")
        places = (path.rstrip("`").removeprefix("$").removeprefix("."), _named_field(detail))
        return cls(str(error), field=".".join(place for place in places if place) or None)


class ServiceUnavailable(HTTPProblem):
    """What this needs is away; ask again."""

    status, code = 503, "unavailable"


def _named_field(detail: str) -> str | None:
    """Find the field in ``Object missing required field `kind` `` and ``Object contains unknown field `x` ``."""
    return detail.split("`")[1] if " field `" in detail else None


def problem_json(status: int, code: str, detail: str, field: str | None = None) -> bytes:
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


def problem_response(
    status: int, code: str, detail: str, *, field: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    """Answer with one problem."""
    return web.Response(
        status=status, body=problem_json(status, code, detail, field), content_type=PROBLEM_JSON, headers=headers
    )
