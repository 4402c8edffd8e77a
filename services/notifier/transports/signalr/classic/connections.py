"""The connections of clients of the classic hub. Each one watches the job that its URL names."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Coroutine

from websockets.frames import CloseCode

from .....runtime.aiohttp_adapter import encode_chunk
from ....settings import NotifierSettings
from ....watching.snapshot import PublishedSnapshot
from ...base import BackpressuredConnection, ClientConnection, StreamConnection
from ...event_format import LINE_BREAKS_TO_SPACES
from ...polling import PollConnection
from ...registry import ConnectionRegistry
from ...websocket.protocol import encode_text
from ..calls import WireFormat, encode_percent
from ..websocket import SignalRWebSocket
from .calls import answer_call
from .envelopes import KEEP_ALIVE, Cursor, encode_envelope, encode_error, wire_format
from .requests import ConnectionRequest

KEEP_ALIVE_S = 8.0  # clients warn after two thirds of KEEP_ALIVE_TIMEOUT_S
EVENT_PREFIX = b"data: initialized\n\n"


def encode_event(data: bytes) -> bytes:
    """Return an envelope as an event."""
    return b"data: %b\n\n" % data.translate(LINE_BREAKS_TO_SPACES)


def encode_event_chunk(data: bytes) -> bytes:
    """Return an envelope as an event in an HTTP/1.1 chunk."""
    return encode_chunk(encode_event(data))


FRAMES, ANSWERS = wire_format(encode_text), wire_format(bytes)
EVENTS, CHUNKS = wire_format(encode_event), wire_format(encode_event_chunk)


class ClassicConnection(ClientConnection):
    """A connection of the classic hub.

    A client that has not subscribed to the hub gets no snapshots: they would raise an error in the page.

    Attributes:
        request: the request that has opened it.
        cursor: what its client has now.
        wire_format: how it sends envelopes.
    """

    request: ConnectionRequest
    cursor: Cursor
    wire_format: WireFormat

    @abstractmethod
    def send(self, envelope: bytes) -> None:
        """Send an envelope."""

    @abstractmethod
    def send_encoded(self, data: bytes) -> None:
        """Send an envelope in the wire format."""

    @abstractmethod
    def end(self, code: CloseCode) -> None:
        """Close the connection after what was sent."""

    def advance(self, cursor: Cursor) -> None:
        """Called when a snapshot was sent."""
        self.cursor = cursor

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:  # noqa: ARG002
        """Send a snapshot; return False if the connection is backpressured."""
        if not self.is_writable():
            return False
        if self.request.is_subscribed:
            self.send_encoded(self.wire_format.encode_snapshot(snapshot, self.cursor.percent))
            self.advance(Cursor(snapshot.version, snapshot.encoded(encode_percent)))
        return True

    def send_error(self, job_id: str | None, code: str, message: str) -> None:  # noqa: ARG002
        """End the connection with an error, unless the job may still get a record. The client does not reconnect."""
        if code != "unknown":
            self.send(encode_error(self.cursor, f"{code}: {message}", self.request.protocol))
            self.end(CloseCode.POLICY_VIOLATION)

    def send_away(self) -> None:
        """Close the connection; its client reconnects after two seconds, possibly to another replica."""
        self.end(CloseCode.TRY_AGAIN_LATER)


class LongLivedClassicConnection(ClassicConnection, BackpressuredConnection):
    """A WebSocket or an event stream."""

    _kept_alive_at: float

    def send(self, envelope: bytes) -> None:
        """Send an envelope."""
        self.write(self.wire_format.frame(envelope))

    def send_encoded(self, data: bytes) -> None:
        """Send an envelope in the wire format."""
        self.write(data)

    def keep_alive_if_due(self) -> None:
        """Send a keep-alive, which shows the page's script that the server is alive, if the last one was long ago."""
        if self.is_writable() and time.monotonic() - self._kept_alive_at >= KEEP_ALIVE_S:
            self._kept_alive_at = time.monotonic()
            self.send(KEEP_ALIVE)


class ClassicWebSocket(LongLivedClassicConnection, SignalRWebSocket):
    """A WebSocket whose messages are envelopes."""

    transport, wire_format = "signalr_classic_websocket", FRAMES

    def __init__(
        self,
        registry: ConnectionRegistry,
        settings: NotifierSettings,
        request: ConnectionRequest,
        transport: asyncio.Transport,
        origin: str | None,
    ) -> None:
        super().__init__(registry, settings, transport, origin, settings.messages_per_s)
        self._kept_alive_at = self.opened_at
        self.request, self.cursor = request, request.cursor

    def on_open(self) -> None:
        """Called when the connection opens."""
        super().on_open()
        if self.request.is_new:
            self.send(encode_envelope(self.cursor, initial=True))  # unless it is closing

    def on_message(self, text: str) -> Coroutine[None, None, None] | None:
        """Called with each message, the call of a method."""
        try:
            self.send_reply(encode_text(answer_call(text)))
        except ValueError:
            self.close(CloseCode.INVALID_DATA, "expected a call")
        return None

    def reap(self) -> None:
        """Free the protocol of an idle connection; send a keep-alive."""
        super().reap()
        self.keep_alive_if_due()

    def end(self, code: CloseCode) -> None:
        """Close the connection after what was sent."""
        self.close(code, "")


class ClassicEventStream(StreamConnection, LongLivedClassicConnection):
    """An event stream of envelopes. `done` is set when it ends."""

    transport = "signalr_classic_sse"

    def __init__(
        self,
        transport: asyncio.Transport,
        origin: str | None,
        backpressured: set[ClientConnection],
        request: ConnectionRequest,
        *,
        chunked: bool,
    ) -> None:
        super().__init__(transport, origin, backpressured)
        self.wire_format = CHUNKS if chunked else EVENTS
        self._kept_alive_at = self.opened_at
        self.request, self.cursor = request, request.cursor

    def reap(self) -> None:
        """End the stream if the client has disconnected; send a keep-alive."""
        if self.is_closing:
            self.end(CloseCode.ABNORMAL_CLOSURE)
        else:
            self.keep_alive_if_due()


class ClassicPoll(PollConnection, ClassicConnection):
    """A poll. `answer` is its answer, None until there is one."""

    transport, wire_format = "signalr_classic_poll", ANSWERS

    def __init__(self, transport: asyncio.Transport, origin: str | None, request: ConnectionRequest) -> None:
        super().__init__(transport, origin)
        self.request, self.cursor = request, request.cursor
        self.answer: bytes | None = None

    def advance(self, cursor: Cursor) -> None:
        """Called when a snapshot is the answer: a later one replaces it, so the client's cursor stays."""

    def send(self, envelope: bytes) -> None:
        """Answer with an envelope."""
        self.answer = envelope
        self.ready.set()

    def send_encoded(self, data: bytes) -> None:
        """Answer with an envelope in the wire format."""
        self.send(data)
