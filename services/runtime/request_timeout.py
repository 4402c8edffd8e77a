"""Time limits for the first request of a connection, so that slow clients cannot keep connections open.

aiohttp has no limit for the time that a request's head takes. A connection therefore starts with
`IdleConnection`, a small protocol that passes it to aiohttp when the first bytes arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web

from . import metrics
from .aiohttp_adapter import attach
from .errors import PROBLEM_JSON, RequestTimeout, problem_json

REQUEST_HEAD_TIMEOUT_S = 10.0  # for the whole head
FIRST_BYTE_TIMEOUT_S = 15.0  # browsers open some connections in advance

Handoff = Callable[[asyncio.Transport, bytes], None]  # passes a connection to aiohttp, with the bytes received so far
END_OF_HEAD = b"\r\n\r\n"
_BODY = problem_json(RequestTimeout.status, RequestTimeout.code, "The request did not arrive in time.")
_HEAD = "HTTP/1.1 408 Request Timeout\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"
REQUEST_TIMEOUT_RESPONSE = _HEAD.format(PROBLEM_JSON, len(_BODY)).encode() + _BODY


class HeadTimeouts:
    """The connections of one listener whose first request head is incomplete, each with its timer."""

    def __init__(self) -> None:
        self._timers: dict[asyncio.Transport, asyncio.TimerHandle] = {}

    def start(self, transport: asyncio.Transport) -> None:
        """Start the timer of a connection."""
        loop = asyncio.get_running_loop()
        self._timers[transport] = loop.call_later(REQUEST_HEAD_TIMEOUT_S, self.expire, transport)

    def complete(self, transport: asyncio.Transport | None) -> None:
        """Cancel the timer of a connection, if it has one, because a whole head has arrived."""
        if self._timers and transport is not None and (timer := self._timers.pop(transport, None)):
            timer.cancel()

    def expire(self, transport: asyncio.Transport) -> None:
        """Answer 408 and close the connection."""
        del self._timers[transport]
        if not transport.is_closing():
            metrics.REQUESTS.labels("unknown", "unmatched", RequestTimeout.status).inc()
            transport.write(REQUEST_TIMEOUT_RESPONSE)
            transport.close()


HEAD_TIMEOUTS = web.AppKey("head_timeouts", HeadTimeouts)


class ListenerProtocolFactory:
    """Creates the protocol of each new connection of a listener."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self._head_timeouts = runner.app[HEAD_TIMEOUTS]

    def __call__(self) -> asyncio.Protocol:
        """Return a protocol that waits for the connection's first byte."""
        return IdleConnection(self._hand_to_aiohttp)

    def _hand_to_aiohttp(self, transport: asyncio.Transport, data: bytes) -> None:
        if END_OF_HEAD not in data.lstrip(b"\r\n"):  # empty lines before a request are allowed (RFC 9112 §2.2)
            self._head_timeouts.start(transport)
        if not attach(self._runner, transport, data):
            transport.close()


class IdleConnection(asyncio.Protocol):
    """A connection before its first byte; it needs little memory."""

    def __init__(self, handoff: Handoff) -> None:
        self._handoff = handoff

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when a client connects."""
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(FIRST_BYTE_TIMEOUT_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """Called when the first bytes arrive."""
        self._timer.cancel()
        self._handoff(self._transport, data)

    def connection_lost(self, _error: Exception | None) -> None:
        """Called when the connection ends before its first byte."""
        self._timer.cancel()
