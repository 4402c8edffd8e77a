"""The exceptions for expected failures of a request, and their wire format, problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

import msgspec
from aiohttp import web

PROBLEM_JSON = "application/problem+json"


class HTTPProblem(Exception):
    """An expected failure of a request. Subclasses define the HTTP status and a stable code for programs.

    Args:
        detail: a message for the caller.
        field: the invalid field, query parameter or header.
        code: a more specific code than the class has.
        retry_after_s: the seconds to send as `Retry-After`.
    """

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
        """Return the headers that the response needs for this failure."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return headers if self.status != HTTPStatus.UNAUTHORIZED else {**headers, "WWW-Authenticate": "Bearer"}


class BadRequest(HTTPProblem):
    """The body cannot be parsed."""

    status, code = 400, "malformed"


class Unauthorized(HTTPProblem):
    """The credentials are missing or wrong."""

    status, code = 401, "unauthorized"


class Forbidden(HTTPProblem):
    """The caller is not allowed to send this request."""

    status, code = 403, "forbidden"


class NotFound(HTTPProblem):
    """The resource does not exist."""

    status, code = 404, "not_found"


class RequestTimeout(HTTPProblem):
    """The whole request did not arrive in time."""

    status, code = 408, "too_slow"


class Conflict(HTTPProblem):
    """The state of the resource does not permit the request."""

    status, code = 409, "conflict"


class PayloadTooLarge(HTTPProblem):
    """The body exceeds its size limit."""

    status, code = 413, "too_large"


class UnsupportedMediaType(HTTPProblem):
    """The endpoint does not accept the body's media type."""

    status, code = 415, "unsupported_media_type"


class UnprocessableContent(HTTPProblem):
    """A field, parameter or header has an invalid value."""

    status, code = 422, "invalid"

    @classmethod
    def from_validation_error(cls, error: msgspec.ValidationError) -> UnprocessableContent:
        """Convert an error of msgspec, such as ``Expected `int` - at `$[3].delivery` ``; `field` is its path."""
        detail, _, path = str(error).partition(" - at `")
        parts = (path.rstrip("`").removeprefix("$").removeprefix("."), _quoted_field(detail))
        return cls(str(error), field=".".join(part for part in parts if part) or None)


class ClientDisconnected(HTTPProblem):
    """The client closed the connection before the whole request had arrived, or before it was answered."""

    status, code = 499, "client_disconnected"  # the status of nginx for it; no client receives it


class ServiceUnavailable(HTTPProblem):
    """A dependency is unavailable; the caller may retry."""

    status, code = 503, "unavailable"


def _quoted_field(detail: str) -> str | None:
    """Return the field in ``Object missing required field `kind` `` or ``Object contains unknown field `x` ``."""
    return detail.split("`")[1] if " field `" in detail else None


def problem_json(status: int, code: str, detail: str, field: str | None = None) -> bytes:
    """Return a problem as JSON; the title is the code in words."""
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
    """Return a response with a problem as its body, which browsers must not take for another type."""
    return web.Response(
        status=status,
        body=problem_json(status, code, detail, field),
        content_type=PROBLEM_JSON,
        headers={"X-Content-Type-Options": "nosniff", **(headers or {})},
    )
