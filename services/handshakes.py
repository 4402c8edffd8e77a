"""The time that a connection gets for its first request: nobody holds one by never finishing a request's head."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web

from services import heads, metrics
from services.problems import PROBLEM, TooSlow, render

HEAD_S = 10.0  # for a whole head, however it drips in
SPARE_S = 15.0  # until the first byte: browsers open some connections in advance

Serve = Callable[[asyncio.Transport, bytes], None]  # gives a connection to aiohttp, with what has come over it
Front = Callable[[Serve], asyncio.Protocol]

END = b"\r\n\r\n"  # of a head
_BODY = render(TooSlow.status, TooSlow.code, "The request does not come.")
_HEAD = "HTTP/1.1 408 Request Timeout\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"
_GIVEN_UP = _HEAD.format(PROBLEM, len(_BODY)).encode() + _BODY


class Handshakes:
    """Stands before aiohttp on each connection; whoever begins a request there and does not make it is told so: 408.

    A front, where there is one, speaks first, and gives to aiohttp what is not for it.
    """

    def __init__(self, runner: web.AppRunner, front: Front | None = None) -> None:
        self._runner = runner
        self._front = front

    def __call__(self) -> asyncio.Protocol:
        """Return what waits for a connection's first byte."""
        front = self._front
        return _Spare(self._serve if front is None else lambda *first: _begin(front(self._serve), *first))

    def _serve(self, transport: asyncio.Transport, data: bytes) -> None:
        if (server := self._runner.server) is None:  # it has stopped meanwhile
            transport.close()
            return
        protocol = server()
        if END not in data.lstrip(b"\r\n"):  # empty lines before a request are nothing
            heads.coming(protocol, asyncio.get_running_loop().call_later(HEAD_S, _give_up, protocol, transport))
        _begin(protocol, transport, data)


def _begin(protocol: asyncio.Protocol, transport: asyncio.Transport, data: bytes) -> None:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    protocol.data_received(data)


def _give_up(protocol: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
    heads.give_up(protocol)
    if not transport.is_closing():
        metrics.REQUESTS.labels("unknown", "unmatched", TooSlow.status).inc()
        transport.write(_GIVEN_UP)
        transport.close()


class _Spare(asyncio.Protocol):
    """A connection before its first byte, which costs next to nothing."""

    def __init__(self, begin: Callable[[asyncio.Transport, bytes], None]) -> None:
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(SPARE_S, transport.close)

    def data_received(self, data: bytes) -> None:
        self._timer.cancel()
        self._begin(self._transport, data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._timer.cancel()
