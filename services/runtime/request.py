"""Reading a request: its body, its query and its credentials."""

from __future__ import annotations

import asyncio
import hmac
from typing import TypeVar

import msgspec
from aiohttp import web

from headway.contracts import decode

from .aiohttp_adapter import MALFORMED_REQUEST
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
BODY_TIMEOUT_S = 10.0  # for the whole body


async def read_body(request: web.Request, limit: int) -> bytes:
    """Read a request's body.

    Raises:
        PayloadTooLarge: the body has more than `limit` bytes. The rest is not read.
        RequestTimeout: the body did not arrive within BODY_TIMEOUT_S.
        BadRequest: the body is not encoded as its headers say.
    """
    content = request.content
    body = bytearray()
    if (request.content_length or 0) > limit:
        raise PayloadTooLarge(f"The body is larger than {limit} bytes.")
    try:
        if content.is_eof() and content.exception() is None:  # it arrived together with the head
            return check_size(content.read_nowait(), limit)
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in content.iter_any():
                body += chunk
                check_size(body, limit)
    except TimeoutError as error:
        raise RequestTimeout(f"The body did not arrive within {BODY_TIMEOUT_S:.0f} seconds.") from error
    except MALFORMED_REQUEST as error:
        raise BadRequest("The body does not match the headers of the request.") from error
    return bytes(body)


def check_size(body: B, limit: int) -> B:
    """Return the body; raise PayloadTooLarge if it has more than `limit` bytes."""
    if len(body) > limit:
        raise PayloadTooLarge(f"The body is larger than {limit} bytes.")
    return body


def decode_body(body: bytes, body_type: type[T]) -> T:
    """Decode a JSON body.

    Raises:
        BadRequest: the body is not JSON.
        UnprocessableContent: a value is invalid; `field` is its path, such as `[3].delivery`.
    """
    try:
        return decode(body, body_type)
    except msgspec.ValidationError as error:
        raise UnprocessableContent.from_validation_error(error) from error
    except msgspec.DecodeError as error:
        raise BadRequest(str(error)) from error


async def read_json_body(request: web.Request, body_type: type[T], limit: int) -> T:
    """Read and decode a body of at most `limit` bytes.

    Raises:
        UnsupportedMediaType: the content type is not `application/json`.
        HTTPProblem: as `read_body` and `decode_body`.
    """
    if request.content_type != JSON:
        raise UnsupportedMediaType(f"Send {JSON}.")
    return decode_body(await read_body(request, limit), body_type)


def read_query(request: web.Request, query_type: type[T]) -> T:
    """Decode the query string; raise UnprocessableContent, which names the parameter, if a value is invalid."""
    try:
        return msgspec.convert(dict(request.query), query_type, strict=False)
    except msgspec.ValidationError as error:
        raise UnprocessableContent.from_validation_error(error) from error


def bearer_token(request: web.Request) -> str | None:
    """Return the bearer token of the request, or None if it has none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def is_valid_key(presented: str | None, keys: tuple[str, ...]) -> bool:
    """Return whether the presented key is one of `keys`; the comparison takes constant time."""
    presented_bytes = (presented or "").encode(errors="surrogateescape")  # a header may hold any byte
    # Compares with all keys, so that the time does not depend on which of them matches.
    matches = [hmac.compare_digest(presented_bytes, key.encode()) for key in keys]
    return any(matches)
