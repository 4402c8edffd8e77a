"""The hub over a WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

from websockets.frames import CloseCode, Frame, Opcode

from ....watching.snapshot import PublishedSnapshot
from ...auth import WatchRequest
from ...websocket.protocol import encode_text
from ..calls import SnapshotEncoders
from ..websocket import SignalRWebSocket
from .connection import HubConnection, snapshot_encoders
from .protocols import JSON, MESSAGE_PACK, HubProtocol
from .session import Hub, HubSession


def encode_binary(data: bytes) -> bytes:
    """Return a binary frame."""
    return Frame(Opcode.BINARY, data).serialize(mask=False)


ENCODERS = {JSON: snapshot_encoders(JSON, encode_text), MESSAGE_PACK: snapshot_encoders(MESSAGE_PACK, encode_binary)}


class HubWebSocket(HubConnection, SignalRWebSocket):
    """A WebSocket whose messages are those of a hub protocol."""

    transport, accepts_binary = "signalr_websocket", True
    __slots__ = ("_encoders", "_protocol", "jobs", "session")

    def __init__(self, hub: Hub, transport: asyncio.Transport, origin: str | None, first: WatchRequest | None) -> None:
        burst = hub.settings.messages_per_s + 2 * hub.settings.max_watches
        super().__init__(hub.registry, hub.settings, transport, origin, burst)
        self._protocol: HubProtocol = JSON
        self._encoders: SnapshotEncoders = ENCODERS[JSON]
        self.session = HubSession(hub, self, first)
        self.jobs = self.session.jobs

    def on_message(self, text: str) -> Coroutine[None, None, None]:
        """Called with each text message."""
        return self._receive(text.encode())

    def on_binary(self, data: bytes) -> Coroutine[None, None, None]:
        """Called with each binary message."""
        return self._receive(data)

    async def _receive(self, data: bytes) -> None:
        await self.session.receive(data)
        self.has_subscribed = self.session.jobs.has_subscribed

    def accepts(self, _protocol: HubProtocol) -> bool:
        """Return whether the transport can carry a protocol."""
        return True

    def use_protocol(self, protocol: HubProtocol) -> None:
        """Called before the answer to a handshake."""
        self._protocol, self._encoders = protocol, ENCODERS[protocol]

    def _frame(self, messages: bytes) -> bytes:
        return encode_text(messages) if self._protocol is JSON else encode_binary(messages)

    def push(self, messages: bytes) -> None:
        """Send encoded messages."""
        self.write(self._frame(messages))

    def reply(self, messages: bytes) -> None:
        """Send encoded messages that answer the client."""
        self.send_reply(self._frame(messages))

    def send_calls(self, snapshot: PublishedSnapshot, last_percent: bytes) -> None:
        """Call the client's methods for a snapshot."""
        self._transport.write(self._encoders.encode(snapshot, last_percent))

    def reap(self) -> None:
        """Close a connection that has not subscribed in time; ping."""
        super().reap()
        if self.is_writable():
            self.session.ping_if_due(time.monotonic())

    def end(self) -> None:
        """Close the connection after what was sent."""
        self.close(CloseCode.NORMAL_CLOSURE, "")

    def send_away(self) -> None:
        """Close the connection, so that its client reconnects, possibly to another replica."""
        self.set_close_code(CloseCode.TRY_AGAIN_LATER)
        self.session.close(allow_reconnect=True)

    async def close_for_restart(self) -> None:
        """Close the connection because this replica restarts, and wait until it is closed."""
        self.set_close_code(CloseCode.SERVICE_RESTART)
        self.session.close(allow_reconnect=True)
        await super().close_for_restart()
