"""What the WebSockets of both generations of clients have in common."""

from __future__ import annotations

import asyncio

from websockets.frames import CloseCode

from headway.timestamp import Timestamp

from ...settings import NotifierSettings
from ..registry import ConnectionRegistry
from ..websocket.base import WebSocket
from ..websocket.protocol import PING


class SignalRWebSocket(WebSocket):
    """A WebSocket that registers itself."""

    __slots__ = ("_registry",)

    def __init__(
        self,
        registry: ConnectionRegistry,
        settings: NotifierSettings,
        transport: asyncio.Transport,
        origin: str | None,
        burst: float,
    ) -> None:
        super().__init__(settings, transport, origin, burst)
        self._registry = registry

    def on_open(self) -> None:
        """Called when the connection opens; the refusal of one too many is a close frame, because it is accepted."""
        if self._registry.at_capacity():
            self.close(CloseCode.TRY_AGAIN_LATER, "too many connections")
        else:
            self._registry.register(self)

    def on_drained(self) -> None:
        """Called when the connection was backpressured and has drained."""
        self._registry.flush(self)

    def on_close(self) -> None:
        """Called when the connection ends."""
        self._registry.unregister(self)

    def encode_heartbeat(self, _now: Timestamp) -> bytes:
        """Return a ping of the WebSocket, to which the browser replies. Pings for the page's script are messages."""
        return PING
