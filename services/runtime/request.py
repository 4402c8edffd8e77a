"""Read what a request carries: its body, its query and its credentials."""

from __future__ import annotations

import asyncio
import hmac
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import PayloadEncodingError as PayloadError

from headway.contracts import decode

from .errors import (
    BadRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnprocessableContent,
    UnsupportedMediaType,
)

T = TypeVar("T")
B = TypeVar("B", bytes, bytearray)
JSON = "application/json"
BODY_TIMEOUT_S = 10.0  # for a whole body, however it drips in


async def read_body(request: web.Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes; TooLarge when there is more, TooSlow when it does not come in time."""
    content = request.content
    body = bytearray()
    if (request.content_length or 0) > limit:
        raise PayloadTooLarge(f"The body is larger than {limit} bytes.")
    try:
        if content.is_eof() and content.exception() is None:  # it came with its head
            return check_size(content.read_nowait(), limit)
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in content.iter_any():
                body += chunk
                check_size(body, limit)
    except TimeoutError as error:
        raise RequestTimeout(f"The body did not come within {BODY_TIMEOUT_S:.0f} seconds.") from error
    except (PayloadError, web.RequestPayloadError) as error:
        raise BadRequest("The body does not come through as its headers promise.") from error
    return bytes(body)


def check_size(body: B, limit: int) -> B:
    """Return the body; raise PayloadTooLarge if it has more than `limit` bytes."""
    if len(body) > limit:
        raise PayloadTooLarge(f"The body is larger than {limit} bytes.")
    return body


def decode_body(body: bytes, kind: type[T]) -> T:
    """Read a JSON body; a Problem says that it is none, or names the element and the field that do not fit."""
    try:
        return decode(body, kind)
    except msgspec.ValidationError as error:
        raise UnprocessableContent.from_validation_error(error) from error
    except msgspec.DecodeError as error:
        raise BadRequest(str(error)) from error


async def read_json_body(request: web.Request, kind: type[T], limit: int) -> T:
    """Read a body that must be sent as JSON; a Problem says what is wrong with its type, its size or a field."""
    if request.content_type != JSON:
        raise UnsupportedMediaType(f"Send {JSON}.")
    return decode_body(await read_body(request, limit), kind)


def read_query(request: web.Request, kind: type[T]) -> T:
    """Read the query as a contract; a Problem names the parameter that does not fit."""
    try:
        return msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise UnprocessableContent.from_validation_error(error) from error


def bearer_token(request: web.Request) -> str | None:
    """Return the token of the Authorization header, if it has one."""
    return parse_bearer(request.headers.get("Authorization", ""))


def parse_bearer(authorization: str) -> str | None:
    """Return the token that such a header tells, if it is that of a bearer."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def is_valid_key(presented: str | None, keys: tuple[str, ...]) -> bool:
    """Tell whether the key is one of these, in a time that tells nothing else."""
    presented_bytes = (presented or "").encode(errors="surrogateescape")  # a header may hold any byte
    matches = [hmac.compare_digest(presented_bytes, key.encode()) for key in keys]  # all of them, whichever it is
    return any(matches)
