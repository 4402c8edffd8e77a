"""What the services use of aiohttp beyond its documented API. No other module uses undocumented parts of aiohttp.

`detach` takes a connection away from aiohttp, which would keep 16 kB for each WebSocket. It relies on

- `Request.protocol` and its `transport`, `connection_lost()` and `_message_tail` (the bytes after an upgrade request);
- `StreamResponse.prepare()` and `write_eof()` as the only methods that aiohttp calls to write a response.

`attach` does the opposite, because aiohttp has no timeout for the head of a request. It relies on

- `AppRunner.server` as a factory of protocols that accept a transport which is already connected.

`start_stream` starts a response to which events are written without a coroutine for each of them. It relies on

- `StreamWriter` writing nothing between two calls of `write()`, and one chunk per call.

`close_idle_connections` makes a client's next request open a new connection. It relies on

- `BaseConnector._conns`, the idle connections, which are checked with `is_connected()` before they are used again.

`MALFORMED_REQUEST` relies on

- `HttpProcessingError` and `RequestPayloadError` as the base classes of all errors of the parser.

`LINE_TOO_LONG` relies on

- `HttpProcessingError` as the base class of the error that iterating over the lines of a response raises.

`is_hang_up` relies on

- `RuntimeError("Connection closed.")`, which the reader of a body raises if the connection was lost before the read;
- the exception of `Request.content`, which is that of the lost connection.

tests/unit/services/runtime/test_aiohttp_adapter.py fails if one of these changes. Run it before you widen the range of
versions, here and in pyproject.toml.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

import aiohttp
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError

MIN_VERSION, NEXT_VERSION = (3, 14), (3, 15)

MALFORMED_REQUEST = (HttpProcessingError, web.RequestPayloadError)  # a request that is not valid HTTP
LINE_TOO_LONG = HttpProcessingError  # in a response that is read line by line
READ_AFTER_CLOSE = ("Connection closed.",)  # the arguments of a RuntimeError


def is_disconnected(request: web.BaseRequest) -> bool:
    """Return whether the client has closed the connection of a request, or the connection is lost."""
    return request.transport is None or request.transport.is_closing()


def is_hang_up(error: BaseException | None, lost: BaseException | None = None) -> bool:
    """Return whether an exception means that the connection to a client is lost.

    Args:
        error: an exception that was raised while a request was read or answered.
        lost: the exception of the request's body, if there is one.
    """
    if error is None:
        return False
    is_late_read = isinstance(error, RuntimeError) and error.args == READ_AFTER_CLOSE
    return error is lost or isinstance(error, ConnectionError) or is_late_read


def check_version(version: str) -> None:
    """Raise ImportError unless this module supports a version of aiohttp."""
    if not MIN_VERSION <= tuple(map(int, version.split(".")[:2])) < NEXT_VERSION:
        raise ImportError(f"Headway needs aiohttp >=3.14,<3.15; installed is {version}.", name="aiohttp")


check_version(aiohttp.__version__)


class _DetachedResponse(web.StreamResponse):
    """The response of a handler that has detached its connection; it writes nothing."""

    def __init__(self) -> None:
        super().__init__(status=HTTPStatus.SWITCHING_PROTOCOLS)
        self.force_close()

    async def prepare(self, _request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write nothing."""
        return None

    async def write_eof(self, _data: bytes = b"") -> None:
        """Write nothing."""


def detach(request: web.Request, response: bytes, protocol: asyncio.Protocol) -> web.StreamResponse:
    """Answer an upgrade request, and move its connection from aiohttp to a protocol.

    Args:
        request: the upgrade request.
        response: the HTTP response.
        protocol: the protocol that gets the connection, and the bytes that arrived after the request.

    Returns:
        The response that the handler of the request must return.

    Raises:
        ConnectionResetError: the client has disconnected.
    """
    transport, aiohttp_protocol = request.transport, request.protocol
    if transport is None or transport.is_closing():
        raise ConnectionResetError("The client has disconnected.")
    received = aiohttp_protocol._message_tail  # noqa: SLF001
    transport.set_protocol(protocol)
    aiohttp_protocol.transport = None  # or connection_lost would close the transport
    aiohttp_protocol.connection_lost(None)
    transport.write(response)
    protocol.connection_made(transport)
    if not transport.is_reading():  # aiohttp pauses reading when a client sends much after the request
        transport.resume_reading()
    if received:
        protocol.data_received(received)
    return _DetachedResponse()


def attach(runner: web.AppRunner, transport: asyncio.Transport, received: bytes) -> bool:
    """Move a connection, with the bytes received so far, to aiohttp; return False if the runner has stopped."""
    if (server := runner.server) is None:
        return False
    protocol = server()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    protocol.data_received(received)
    return True


def close_idle_connections(session: aiohttp.ClientSession) -> None:
    """Close the connections that a client session keeps for further requests. Its cached DNS addresses stay in use.

    The connector has no public method that closes them without closing itself.
    """
    assert session.connector is not None  # noqa: S101 - it is None once the session is closed
    for connections in session.connector._conns.values():  # noqa: SLF001
        for protocol, _released_at in connections:
            protocol.close()


async def start_stream(
    request: web.Request, headers: Mapping[str, str], first: bytes
) -> tuple[web.StreamResponse, bool]:
    """Start a streaming response with its headers and its first data.

    Further data may be written directly to the request's transport. A client that has disconnected has no transport.

    Returns:
        The response, and whether such data must be encoded as chunks: HTTP/1.0 has none.
    """
    response = web.StreamResponse(headers=headers)
    if is_chunked := request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(first)
    return response, is_chunked


def encode_chunk(data: bytes) -> bytes:
    """Return an HTTP/1.1 chunk (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
