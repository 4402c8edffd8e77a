"""The opening handshake of a WebSocket (RFC 6455 §4.2)."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import TypeVar

from aiohttp import HttpVersion11, web
from websockets.utils import accept_key

from ....runtime.aiohttp_adapter import detach
from ....runtime.errors import HTTPProblem
from ..auth import request_origin

W = TypeVar("W", bound=asyncio.Protocol)
VERSION = "13"
_RESPONSE = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n"
)


class BadUpgrade(HTTPProblem):
    """The request is not a valid upgrade to a WebSocket."""

    status, code = 400, "no_upgrade"


class UnsupportedVersion(HTTPProblem):
    """The request asks for an unsupported version of the WebSocket protocol."""

    status, code = 426, "wrong_version"


def open_websocket(
    request: web.Request, create: Callable[[asyncio.Transport, str | None], W]
) -> tuple[W, web.StreamResponse]:
    """Upgrade a request to a WebSocket, which from then on runs without aiohttp.

    Args:
        request: the request.
        create: returns the WebSocket on a connection, for the origin of the client's page.

    Returns:
        The WebSocket, and the response that the handler of the request must return.

    Raises:
        BadUpgrade, UnsupportedVersion: as `accept_upgrade`.
        ConnectionResetError: the client has disconnected.
    """
    upgrade = accept_upgrade(request)
    if request.transport is None:
        raise ConnectionResetError
    websocket = create(request.transport, request_origin(request))
    return websocket, detach(request, upgrade, websocket)


def accept_upgrade(request: web.Request) -> bytes:
    """Return the response that upgrades a request to a WebSocket.

    Raises:
        BadUpgrade: the request is not a valid upgrade to a WebSocket.
        UnsupportedVersion: the request asks for another version of the protocol.
    """
    headers = request.headers
    if "websocket" not in _tokens(headers.getall("Upgrade", [])) or "upgrade" not in _tokens(
        headers.getall("Connection", [])
    ):
        raise BadUpgrade("This is a WebSocket endpoint: send Upgrade: websocket and Connection: Upgrade.")
    if headers.get("Sec-WebSocket-Version") != VERSION:
        raise UnsupportedVersion(f"Expected Sec-WebSocket-Version: {VERSION}.")
    key = headers.get("Sec-WebSocket-Key", "")
    try:
        key_is_valid = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        key_is_valid = False
    if not key_is_valid or request.version < HttpVersion11:
        raise BadUpgrade("Expected HTTP/1.1 and a Sec-WebSocket-Key of 16 bytes in base64.")
    return _RESPONSE.format(accept_key(key)).encode()


def _tokens(values: list[str]) -> set[str]:
    return {word.strip().lower() for value in values for word in value.split(",")}
