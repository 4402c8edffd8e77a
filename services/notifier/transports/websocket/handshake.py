"""The opening handshake (RFC 6455 §4.2), and the handoff of the connection from aiohttp to `WebSocketConnection`.

aiohttp would keep the request, its parser, a task and a reader for as long as a connection is open: 16 kB for each idle
connection. The handoff uses private attributes of aiohttp 3.14, which is pinned.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from ....runtime.errors import HTTPProblem

VERSION = "13"
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # §1.3
_SWITCHING_PROTOCOLS = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)


class BadUpgrade(HTTPProblem):
    """The request is not a valid upgrade to a WebSocket."""

    status, code = 400, "no_upgrade"


class UnsupportedVersion(HTTPProblem):
    """The request asks for an unsupported version of the WebSocket protocol."""

    status, code = 426, "wrong_version"


class DetachedResponse(web.StreamResponse):
    """The response of a handler that has detached its connection; it writes nothing."""

    def __init__(self) -> None:
        super().__init__(status=HTTPStatus.SWITCHING_PROTOCOLS)
        self.force_close()

    async def prepare(self, _request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write nothing."""
        return None

    async def write_eof(self, _data: bytes = b"") -> None:
        """Write nothing."""


def accept_key(request: web.Request) -> bytes:
    """Return the value of `Sec-WebSocket-Accept` for a request (§4.2.2).

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
    digest = hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest)


def detach_from_aiohttp(request: web.Request, accept: bytes, protocol: asyncio.Protocol) -> web.StreamResponse:
    """Accept the upgrade and move the connection from aiohttp to a protocol.

    Args:
        request: the request to upgrade.
        accept: the value of `Sec-WebSocket-Accept`.
        protocol: the protocol that gets the connection, and the bytes that arrived after the request.

    Returns:
        The response that the handler of the request must return.

    Raises:
        ConnectionResetError: the client has disconnected.
    """
    transport, aiohttp_protocol = request.transport, request.protocol
    if transport is None or transport.is_closing():
        raise ConnectionResetError("The client has disconnected.")
    received = aiohttp_protocol._message_tail  # noqa: SLF001 - the bytes that arrived after the request
    transport.set_protocol(protocol)
    aiohttp_protocol.transport = None  # or connection_lost would close the transport
    aiohttp_protocol.connection_lost(None)
    transport.write(_SWITCHING_PROTOCOLS % accept)
    protocol.connection_made(transport)
    if not transport.is_reading():  # aiohttp pauses reading when a client sends much after the request
        transport.resume_reading()
    if received:
        protocol.data_received(received)
    return DetachedResponse()


def _tokens(values: list[str]) -> set[str]:
    return {word.strip().lower() for value in values for word in value.split(",")}
