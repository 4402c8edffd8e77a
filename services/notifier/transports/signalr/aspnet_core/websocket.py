"""The hub over a WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from websockets.frames import CloseCode, Frame, Opcode

from ...auth import WatchRequest
from ...websocket.protocol import encode_text
from ..calls import WireFormat
from ..websocket import SignalRWebSocket
from .connection import LongLivedHubConnection, wire_format
from .hub import Hub
from .protocols import JSON, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, MESSAGE_PACK, HubProtocol
from .session import HubSession

MAX_SILENT_PINGS = 1.5  # 30 s, the client timeout of ASP.NET Core, with the default of PING_S


def encode_binary(data: bytes) -> bytes:
    """Return a binary frame."""
    return Frame(Opcode.BINARY, data).serialize(mask=False)


FRAMES: dict[HubProtocol, WireFormat] = {
    JSON: wire_format(JSON, encode_text),
    MESSAGE_PACK: wire_format(MESSAGE_PACK, encode_binary),
}


class HubWebSocket(LongLivedHubConnection, SignalRWebSocket):
    """A WebSocket whose messages are those of a hub protocol."""

    transport, accepts_binary, max_frame_bytes = "signalr_websocket", True, MAX_BATCH_BYTES
    __slots__ = ("_forget", "_no_batch_at", "jobs", "session", "wire_format")

    def __init__(
        self,
        hub: Hub,
        first: WatchRequest | None,
        forget: Callable[[], object],
        transport: asyncio.Transport,
        origin: str | None,
    ) -> None:
        """Create a connection.

        Args:
            hub: what all sessions use.
            first: the job that its URL names, None without one.
            forget: called when it ends.
            transport: its bytes.
            origin: the origin of the client's page.
        """
        super().__init__(hub.registry, hub.settings, transport, origin, hub.message_burst)
        self.wire_format = FRAMES[JSON]
        self.session = HubSession(hub, self, first)
        self.jobs = self.session.jobs
        self._forget = forget
        self._no_batch_at = self.opened_at  # when less than a batch was last received of an incomplete message

    def on_close(self) -> None:
        """Called when the connection ends."""
        super().on_close()
        self._forget()

    def on_message(self, text: str) -> Coroutine[None, None, None]:
        """Called with each text message."""
        return self.session.receive(text.encode())

    def on_binary(self, data: bytes) -> Coroutine[None, None, None]:
        """Called with each binary message."""
        return self.session.receive(data)

    def accepts(self, _protocol: HubProtocol) -> bool:
        """Return whether the transport can carry a protocol."""
        return True

    def use_protocol(self, protocol: HubProtocol) -> None:
        """Called before the answer to a handshake."""
        self.wire_format = FRAMES[protocol]

    def reap(self) -> None:
        """Close a connection that is silent, has not subscribed in time, or holds a part of a batch in memory; ping.

        The answer to a WebSocket's ping counts: signalrcore sends no message while it receives some.
        """
        super().reap()
        now = time.monotonic()
        if not self._paused and now - self._last_received > MAX_SILENT_PINGS * self.settings.ping_s:
            self.abort()
            return
        if self._paused or self._incomplete_bytes <= MAX_MESSAGE_BYTES:
            self._no_batch_at = now
        elif now - self._no_batch_at > self.settings.stuck_s:
            self.close_over_limit("stuck", CloseCode.POLICY_VIOLATION, "the message is not complete")
        if self.is_writable():
            self.session.close_if_idle(now)
            self.session.ping_if_due(now)

    @property
    def _incomplete_bytes(self) -> int:
        return self._reader.buffered_bytes + sum(len(fragment.data) for fragment in self._fragments)

    def close(self, code: CloseCode, reason: str) -> None:
        """Send a message that names the reason, or asks the client to reconnect, and a close frame."""
        reconnects = code in (CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER)
        self.session.close(None if reconnects else reason, code, allow_reconnect=reconnects)

    def end(self, code: CloseCode) -> None:
        """Send a close frame after what was sent."""
        super().close(code, "")
