"""The hub over Server-Sent Events: the server's messages are events, the client's are POSTed."""

from __future__ import annotations

import asyncio
import time

from websockets.frames import CloseCode

from .....runtime.aiohttp_adapter import encode_chunk
from ....watching.snapshot import PublishedSnapshot
from ...auth import WatchRequest
from ...base import StreamConnection
from ...event_format import LINE_BREAKS_TO_SPACES
from .connection import HubConnection, snapshot_encoders
from .protocols import JSON, HubProtocol
from .session import Hub, HubSession

FIRST_COMMENT = b":\r\n\r\n"  # Firefox counts a stream as open when data arrives


def encode_event(messages: bytes) -> bytes:
    """Return messages as an event."""
    return b"data: %b\r\n\r\n" % messages.translate(LINE_BREAKS_TO_SPACES)


def encode_event_chunk(messages: bytes) -> bytes:
    """Return messages as an event in an HTTP/1.1 chunk."""
    return encode_chunk(encode_event(messages))


EVENT_ENCODERS, CHUNK_ENCODERS = snapshot_encoders(JSON, encode_event), snapshot_encoders(JSON, encode_event_chunk)


class HubEventStream(HubConnection, StreamConnection):
    """An open event stream of the hub. `done` is set when it ends."""

    transport = "signalr_sse"
    __slots__ = ("_encoders", "_frame", "jobs", "session")

    def __init__(
        self, hub: Hub, transport: asyncio.Transport, origin: str | None, first: WatchRequest | None, *, chunked: bool
    ) -> None:
        super().__init__(transport, origin, hub.registry.backpressured)
        self._encoders = CHUNK_ENCODERS if chunked else EVENT_ENCODERS
        self._frame = encode_event_chunk if chunked else encode_event
        self.session = HubSession(hub, self, first)
        self.jobs = self.session.jobs

    def accepts(self, protocol: HubProtocol) -> bool:
        """Return whether the transport can carry a protocol: events are texts."""
        return protocol is JSON

    def use_protocol(self, protocol: HubProtocol) -> None:
        """Called before the answer to a handshake; there is only one protocol."""

    def push(self, messages: bytes) -> None:
        """Send encoded messages."""
        self.write(self._frame(messages))

    def reply(self, messages: bytes) -> None:
        """Send encoded messages that answer the client."""
        self.send_reply(self._frame(messages))

    def send_calls(self, snapshot: PublishedSnapshot, last_percent: bytes) -> None:
        """Call the client's methods for a snapshot."""
        self.write(self._encoders.encode(snapshot, last_percent))

    def reap(self) -> None:
        """End the stream if the client has disconnected or has not subscribed in time; ping."""
        if self.is_closing:
            self.end_stream(CloseCode.ABNORMAL_CLOSURE)
        elif self.is_writable():
            self.session.close_if_idle(time.monotonic())
            self.session.ping_if_due(time.monotonic())

    def end(self, code: CloseCode) -> None:
        """Close the stream after what was sent."""
        self.end_stream(code)

    def send_away(self) -> None:
        """Close the stream, so that its client reconnects, possibly to another replica."""
        self.session.close(code=CloseCode.TRY_AGAIN_LATER, allow_reconnect=True)
