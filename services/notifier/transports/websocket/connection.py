"""An open WebSocket: an asyncio protocol that has no task while the connection is idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Protocol

import msgspec
import structlog

from ....runtime.token_bucket import TokenBucket
from ... import metrics
from ...settings import NotifierSettings
from ...watching.snapshot import PublishedSnapshot
from ..base import MAX_BUFFERED_BYTES, BackpressuredConnection
from .frames import (
    CloseCode,
    Frame,
    FrameParser,
    Opcode,
    ProtocolError,
    decode_text,
    encode_close,
    encode_frame,
    parse_close_code,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_MESSAGE_BYTES = 64 * 1024
PING = encode_frame(Opcode.PING)
CLOSE_TIMEOUT_S = 3.0
MAX_SILENT_PINGS = 2.5  # a client that sends nothing for this many ping intervals counts as lost
FIRST_PRIVATE_CLOSE_CODE = 3000  # this and higher codes have no registered meaning


class MessageHandler(Protocol):
    """Handles the events of WebSocket connections."""

    settings: NotifierSettings

    def on_message(self, connection: WebSocketConnection, text: str) -> Coroutine[None, None, None] | None:
        """Called with each message; the result, if there is one, is awaited before the next message."""

    def on_open(self, connection: WebSocketConnection) -> None:
        """Called when a connection opens."""

    def on_drained(self, connection: WebSocketConnection) -> None:
        """Called when a backpressured connection drains."""

    def on_close(self, connection: WebSocketConnection) -> None:
        """Called when a connection ends."""


class WebSocketConnection(BackpressuredConnection, asyncio.Protocol):
    """An open WebSocket."""

    transport = "websocket"
    __slots__ = (
        "_close_code",
        "_closed",
        "_handler",
        "_is_backpressured",
        "_last_received",
        "_message_budget",
        "_parser",
        "_paused",
        "_pending_task",
        "_pinged_at",
        "closing",
        "has_subscribed",
    )

    def __init__(self, handler: MessageHandler, transport: asyncio.Transport, origin: str | None) -> None:
        super().__init__(transport, origin)
        settings = handler.settings
        self._handler = handler
        self._parser: FrameParser | None = FrameParser(MAX_MESSAGE_BYTES)  # None: ignore further data
        # The burst lets a page watch all its jobs together, and cancel and unwatch them together.
        self._message_budget = TokenBucket(
            settings.messages_per_s, settings.messages_per_s + 2 * settings.max_watches, self.opened_at
        )
        self.has_subscribed = False  # whether the client has ever sent a valid token
        self._last_received = self.opened_at
        self._close_code: int | None = None
        self.closing = False  # whether a close frame was sent
        self._paused = False  # whether reading is paused until the received frames have been handled
        self._pending_task: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._is_backpressured = False
        self._pinged_at: float | None = None  # None after the pong
        transport.set_write_buffer_limits(high=MAX_BUFFERED_BYTES)

    @property
    def close_code(self) -> int:
        """The code that the connection closed with. All private codes count as one, to bound the metric's labels."""
        return int(min(self._close_code or CloseCode.ABNORMAL, FIRST_PRIVATE_CLOSE_CODE))

    # asyncio.Protocol

    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        """Called when the connection begins."""
        self._handler.on_open(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """Called when the connection ends."""
        self.closing = True
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        self._handler.on_close(self)

    def data_received(self, data: bytes) -> None:
        """Called when the client sends bytes."""
        self._last_received = time.monotonic()
        if self._parser is not None:
            self._parser.feed(data)
            if not self._paused:
                self._process_frames()

    def pause_writing(self) -> None:
        """Called when the write buffer exceeds its limit."""
        self._is_backpressured = True

    def resume_writing(self) -> None:
        """Called when the write buffer has drained."""
        self._is_backpressured = False
        self._handler.on_drained(self)

    def is_backpressured(self) -> bool:
        """Return whether the write buffer is over its limit."""
        return self._is_backpressured

    # Receiving

    def _process_frames(self) -> None:
        """Handle the received frames; yield to the event loop after each message, since verifying a token is slow."""
        try:
            while (
                self._parser is not None and not self.is_closing and (received := self._parser.next_frame()) is not None
            ):
                pending = self._handle_frame(received)
                if pending is not None or (received.opcode is Opcode.TEXT and self._parser and self._parser.has_data):
                    self._pause(pending)
                    return
        except ProtocolError as violation:
            if violation.code is CloseCode.TOO_BIG:
                metrics.LIMITS_EXCEEDED.labels("message_size").inc()
            self.close(violation.code, str(violation))
            self._parser = None
        if self._paused and not self.is_closing:
            self._paused = False
            self._transport.resume_reading()

    def _handle_frame(self, frame: Frame) -> Coroutine[None, None, None] | None:
        if self._message_budget.acquire(time.monotonic()) > 0:
            self.close_over_limit("messages", CloseCode.POLICY_VIOLATION, "too many messages")
            self._parser = None
        elif frame.opcode is Opcode.CLOSE:
            self.close(parse_close_code(frame.data))
            self._transport.close()
        elif self.closing:
            return None
        elif frame.opcode is Opcode.TEXT:
            metrics.MESSAGES_RECEIVED.inc()
            return self._handler.on_message(self, decode_text(frame.data))
        elif frame.opcode is Opcode.BINARY:
            self.close_over_limit("binary", CloseCode.UNSUPPORTED_DATA, "send text")
        elif frame.opcode is Opcode.PING and not self.is_backpressured():
            self.write(encode_frame(Opcode.PONG, frame.data))
        elif frame.opcode is Opcode.PONG and self._pinged_at is not None:
            metrics.PING_RTT.observe(time.monotonic() - self._pinged_at)
            self._pinged_at = None
        return None

    def _pause(self, pending: Coroutine[None, None, None] | None) -> None:
        """Stop reading and continue with the next frame later: after `pending`, or in the next event-loop iteration."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if pending is None:
            asyncio.get_running_loop().call_soon(self._process_frames)
        else:
            self._pending_task = asyncio.create_task(pending)
            self._pending_task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Future[None]) -> None:
        self._pending_task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("request_failed", exc_info=error)
            self.abort()
        self._process_frames()

    # Sending

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:  # noqa: ARG002
        """Send a snapshot; return False if the connection is backpressured or closing."""
        if self._is_backpressured or self.closing:
            return False
        self._transport.write(snapshot.encoded(encode_snapshot))
        return True

    def encode_error(self, error: dict[str, str]) -> bytes:
        """Return an error as a text frame."""
        return encode_frame(Opcode.TEXT, msgspec.json.encode({"error": error}))

    def write(self, data: bytes) -> None:
        """Write an encoded frame, unless a close frame was sent, which must be the last (§5.5.1)."""
        if not self.closing:
            super().write(data)

    def abort(self) -> None:
        """Close the connection immediately, without a close frame."""
        self.closing = True
        super().abort()

    def heartbeat(self) -> None:
        """Ping the client, or abort the connection if the client has been silent for too long."""
        if time.monotonic() - self._last_received > MAX_SILENT_PINGS * self._handler.settings.ping_s:
            self.abort()
        else:
            self._pinged_at = time.monotonic()
            self.write(PING)

    def reap(self) -> None:
        """Close a connection that has not subscribed in time; asyncio reports a disconnected client by itself."""
        if not self.has_subscribed and time.monotonic() - self.opened_at > self._handler.settings.first_message_s:
            self.close_over_limit("first_message", CloseCode.POLICY_VIOLATION, "ask for something")

    def close_stalled(self) -> None:
        """Close the connection with a code, which reaches a client that starts to read again."""
        self.close_over_limit("stuck", CloseCode.TRY_LATER, "reads too slowly")

    def close_over_limit(self, limit: str, code: CloseCode, reason: str) -> None:
        """Close the connection because the client exceeded a limit, and count it."""
        if not self.closing:
            metrics.LIMITS_EXCEEDED.labels(limit).inc()
            self.close(code, reason)

    async def close_for_restart(self) -> None:
        """Close the connection because this replica restarts, and wait until it is closed."""
        self._closed = asyncio.get_running_loop().create_future()
        self.close(CloseCode.RESTART, "restarting")
        if not self._transport.is_closing():
            await self._closed

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame (§7.1.2); abort the connection if the client does not answer it in time."""
        if not self.closing:
            self.write(encode_close(code, reason))
            self._close_code, self.closing = code, True
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)


def encode_snapshot(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as a text frame."""
    return encode_frame(Opcode.TEXT, b'{"job":%b}' % snapshot.text)
