"""The hub over Server-Sent Events: the server's messages are events, the client's are POSTed."""

from __future__ import annotations

import asyncio
import time

from websockets.frames import CloseCode

from .....runtime.aiohttp_adapter import encode_chunk
from ...auth import WatchRequest
from ...base import StreamConnection
from ...event_format import LINE_BREAKS_TO_SPACES
from .connection import LongLivedHubConnection, wire_format
from .hub import Hub
from .protocols import JSON, HubProtocol
from .session import HubSession

FIRST_COMMENT = b":\r\n\r\n"  # Firefox counts a stream as open when data arrives


def encode_event(messages: bytes) -> bytes:
    """Return messages as an event."""
    return b"data: %b\r\n\r\n" % messages.translate(LINE_BREAKS_TO_SPACES)


def encode_event_chunk(messages: bytes) -> bytes:
    """Return messages as an event in an HTTP/1.1 chunk."""
    return encode_chunk(encode_event(messages))


EVENTS, CHUNKS = wire_format(JSON, encode_event), wire_format(JSON, encode_event_chunk)


class HubEventStream(StreamConnection, LongLivedHubConnection):
    """An open event stream of the hub. `done` is set when it ends."""

    transport = "signalr_sse"
    __slots__ = ("jobs", "session", "wire_format")

    def __init__(
        self, hub: Hub, transport: asyncio.Transport, origin: str | None, first: WatchRequest | None, *, chunked: bool
    ) -> None:
        super().__init__(transport, origin, hub.registry.backpressured)
        self.wire_format = CHUNKS if chunked else EVENTS
        self.session = HubSession(hub, self, first)
        self.jobs = self.session.jobs

    def accepts(self, protocol: HubProtocol) -> bool:
        """Return whether the transport can carry a protocol: events are texts."""
        return protocol is JSON

    def use_protocol(self, protocol: HubProtocol) -> None:
        """Called before the answer to a handshake; there is only one protocol."""

    def reap(self) -> None:
        """End the stream if the client has disconnected or has not subscribed in time; ping."""
        if self.is_closing:
            self.end(CloseCode.ABNORMAL_CLOSURE)
        elif self.is_writable():
            self.session.close_if_idle(time.monotonic())
            self.session.ping_if_due(time.monotonic())

    def send_away(self) -> None:
        """Close the stream, so that its client reconnects, possibly to another replica."""
        self.session.close(code=CloseCode.TRY_AGAIN_LATER, allow_reconnect=True)
