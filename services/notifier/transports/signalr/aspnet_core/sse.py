"""The hub over Server-Sent Events: the server's messages are events, the client's are POSTed."""

from __future__ import annotations

import asyncio
import time

from websockets.frames import CloseCode

from headway.timestamp import Timestamp

from .....runtime.aiohttp_adapter import encode_chunk
from ....watching.snapshot import PublishedSnapshot
from ...auth import WatchRequest
from ...base import BackpressuredConnection
from ...event_format import LINE_BREAKS_TO_SPACES
from .connection import HubConnection, snapshot_calls
from .protocols import JSON, HubProtocol
from .session import Hub, HubSession

FIRST_COMMENT = b":\r\n\r\n"  # Firefox counts a stream as open when data arrives


def encode_event(messages: bytes) -> bytes:
    """Return messages as an event."""
    return b"data: %b\r\n\r\n" % messages.translate(LINE_BREAKS_TO_SPACES)


def encode_event_chunk(messages: bytes) -> bytes:
    """Return messages as an event in an HTTP/1.1 chunk."""
    return encode_chunk(encode_event(messages))


EVENT_CALLS, CHUNK_CALLS = snapshot_calls(JSON, encode_event), snapshot_calls(JSON, encode_event_chunk)


class HubEventStream(HubConnection, BackpressuredConnection):
    """An open event stream of the hub. `done` is set when it ends."""

    transport = "signalr_sse"
    __slots__ = ("_calls", "_frame", "_hub", "done", "jobs", "session")

    def __init__(
        self, hub: Hub, transport: asyncio.Transport, origin: str | None, first: WatchRequest | None, *, chunked: bool
    ) -> None:
        super().__init__(transport, origin)
        self._hub = hub
        self._calls = CHUNK_CALLS if chunked else EVENT_CALLS
        self._frame = encode_event_chunk if chunked else encode_event
        self.done = asyncio.Event()
        self.session = HubSession(hub, self, first)
        self.jobs = self.session.jobs

    def is_writable(self) -> bool:
        """Return whether the connection is not backpressured; if it is, the registry flushes it later."""
        if self.is_backpressured():
            self._hub.registry.backpressured.add(self)
            return False
        return True

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

    def send_calls(self, snapshot: PublishedSnapshot, *, progressed: bool) -> None:
        """Call the client's methods for a snapshot."""
        self.write(snapshot.encoded(self._calls.progressed if progressed else self._calls.changed))

    def heartbeat(self, now: Timestamp) -> None:
        """The session sends pings of its own."""

    def reap(self) -> None:
        """End the stream if the client has disconnected or has not subscribed in time; ping."""
        if self.is_closing:
            self.set_close_code(CloseCode.ABNORMAL_CLOSURE)
            self.done.set()
        elif self.session.is_idle_for(time.monotonic() - self.opened_at):
            self.set_close_code(CloseCode.POLICY_VIOLATION)
            self.session.close("Watch a job.")
        elif self.is_writable():
            self.session.ping_if_due(time.monotonic())

    def end(self) -> None:
        """Close the stream after what was sent."""
        self.set_close_code(CloseCode.NORMAL_CLOSURE)
        self.done.set()

    def send_away(self) -> None:
        """Close the stream, so that its client reconnects, possibly to another replica."""
        self.set_close_code(CloseCode.TRY_AGAIN_LATER)
        self.session.close(allow_reconnect=True)
