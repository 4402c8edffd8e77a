"""From HTTP to a WebSocket (RFC 6455 §4.2), and off aiohttp: what stays of a connection is our own protocol alone.

aiohttp would keep the request, its parser, a task and a reader for as long as a connection is open: 16 kB for each that
says nothing. Handing it over rests on what is private to aiohttp 3.14, which is pinned, and tested frame by frame.
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
_RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)


class BadUpgrade(HTTPProblem):
    """The request asks for no WebSocket, or not as it should."""

    status, code = 400, "no_upgrade"


class UnsupportedVersion(HTTPProblem):
    """The request asks for a version of WebSocket that there is not here."""

    status, code = 426, "wrong_version"


class DetachedResponse(web.StreamResponse):
    """What a handler returns that has handed its connection over: there is nothing left to answer."""

    def __init__(self) -> None:
        super().__init__(status=HTTPStatus.SWITCHING_PROTOCOLS)
        self.force_close()

    async def prepare(self, _request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write nothing."""
        return None

    async def write_eof(self, _data: bytes = b"") -> None:
        """Write nothing."""


def accept_key(request: web.Request) -> bytes:
    """Return the answer to a request's key. Raises NoUpgrade or WrongVersion."""
    headers = request.headers
    if "websocket" not in _tokens(headers.getall("Upgrade", [])) or "upgrade" not in _tokens(
        headers.getall("Connection", [])
    ):
        raise BadUpgrade("This is a WebSocket: ask for an upgrade.")
    if headers.get("Sec-WebSocket-Version") != VERSION:
        raise UnsupportedVersion(f"This is version {VERSION} of WebSocket.")
    key = headers.get("Sec-WebSocket-Key", "")
    try:
        fits = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        fits = False
    if not fits or request.version < HttpVersion11:
        raise BadUpgrade("Expected a key of 16 bytes as base64 in Sec-WebSocket-Key.")
    digest = hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest)


def detach_from_aiohttp(request: web.Request, accept: bytes, protocol: asyncio.Protocol) -> web.StreamResponse:
    """Accept the upgrade, and give the connection to a protocol; the handler returns what this returns.

    Raises ConnectionResetError when the other side has gone meanwhile.
    """
    transport, aiohttp_protocol = request.transport, request.protocol
    if transport is None or transport.is_closing():
        raise ConnectionResetError("The other side has gone.")
    received = aiohttp_protocol._message_tail  # noqa: SLF001 - what came right behind the request
    transport.set_protocol(protocol)
    aiohttp_protocol.transport = None  # so that aiohttp lets go of the connection, and does not close it
    aiohttp_protocol.connection_lost(None)
    transport.write(_RESPONSE % accept)
    protocol.connection_made(transport)
    if not transport.is_reading():  # aiohttp may have had enough of what came early
        transport.resume_reading()
    if received:
        protocol.data_received(received)
    return DetachedResponse()


def _tokens(values: list[str]) -> set[str]:
    return {word.strip().lower() for value in values for word in value.split(",")}
