"""One open WebSocket: a protocol of its own, from which nothing hangs while it is silent."""

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
MAX_MISSED_PINGS = 2.5  # a peer that says nothing for so many of them is gone
FIRST_PRIVATE_CLOSE_CODE = 3000  # the first close code that has no common meaning


class MessageHandler(Protocol):
    """Whoever serves connections."""

    settings: NotifierSettings

    def on_message(self, connection: WebSocketConnection, text: str) -> Coroutine[None, None, None] | None:
        """Do what a message asks; what this returns is still to be done, before the next message has its turn."""

    def on_open(self, connection: WebSocketConnection) -> None:
        """Take that a connection is open."""

    def on_drained(self, connection: WebSocketConnection) -> None:
        """Take that a connection takes more again."""

    def on_close(self, connection: WebSocketConnection) -> None:
        """Take that a connection has ended."""


class WebSocketConnection(BackpressuredConnection, asyncio.Protocol):
    """One open socket."""

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
        self._parser: FrameParser | None = FrameParser(MAX_MESSAGE_BYTES)  # None once what comes is not read any more
        # A page asks for all its jobs at once, and cancels and leaves them at once.
        self._message_budget = TokenBucket(
            settings.messages_per_s, settings.messages_per_s + 2 * settings.max_watches, self.opened_at
        )
        self.has_subscribed = False  # whether it has sent anything that makes sense
        self._last_received = self.opened_at
        self._close_code: int | None = None  # with which it closes
        self.closing = False  # whether this side has said that it closes
        self._paused = False  # whether what has come is to be worked off before more is read
        self._pending_task: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._is_backpressured = False
        self._pinged_at: float | None = None  # while no answer has come
        transport.set_write_buffer_limits(high=MAX_BUFFERED_BYTES)

    @property
    def close_code(self) -> int:
        """Tell how it closed; private codes are one to those who count."""
        return int(min(self._close_code or CloseCode.ABNORMAL, FIRST_PRIVATE_CLOSE_CODE))

    # What the loop tells.

    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._handler.on_open(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """End."""
        self.closing = True
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        self._handler.on_close(self)

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        self._last_received = time.monotonic()
        if self._parser is not None:
            self._parser.feed(data)
            if not self._paused:
                self._process_frames()

    def pause_writing(self) -> None:
        """Take that too much waits."""
        self._is_backpressured = True

    def resume_writing(self) -> None:
        """Take that there is room again."""
        self._is_backpressured = False
        self._handler.on_drained(self)

    def is_backpressured(self) -> bool:
        """Tell whether too much waits already."""
        return self._is_backpressured

    # What the other side says.

    def _process_frames(self) -> None:
        """Take frame after frame; behind a message others have their turn first, since a signature takes its time."""
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
                metrics.REFUSED.labels("message_size").inc()
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
            metrics.RECEIVED.inc()
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
        """Read no more until something is done, and others have had their turn."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if pending is None:
            asyncio.get_running_loop().call_soon(self._process_frames)
        else:
            self._pending_task = asyncio.create_task(pending)
            self._pending_task.add_done_callback(self._on_task_done)

    def _on_task_done(self, done: asyncio.Future[None]) -> None:
        self._pending_task = None
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("request_failed", exc_info=error)
            self.abort()
        self._process_frames()

    # What this side says.

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:  # noqa: ARG002
        """Write a snapshot, unless the connection is slow or closing: in few steps, since a thousand do it at once."""
        if self._is_backpressured or self.closing:
            return False
        self._transport.write(snapshot.encoded(encode_snapshot))
        return True

    def encode_error(self, error: dict[str, str]) -> bytes:
        """Return an error as a frame."""
        return encode_frame(Opcode.TEXT, msgspec.json.encode({"error": error}))

    def write(self, data: bytes) -> None:
        """Write a ready frame, unless the connection is closing: nothing may follow a close frame."""
        if not self.closing:
            super().write(data)

    def abort(self) -> None:
        """End the connection without a word."""
        self.closing = True
        super().abort()

    def heartbeat(self) -> None:
        """Ping the peer, or end the connection when it has been silent for too long."""
        if time.monotonic() - self._last_received > MAX_MISSED_PINGS * self._handler.settings.ping_s:
            self.abort()
        else:
            self._pinged_at = time.monotonic()
            self.write(PING)

    def reap(self) -> None:
        """Close a connection that asks for nothing; one whose peer has left ends by itself."""
        if not self.has_subscribed and time.monotonic() - self.opened_at > self._handler.settings.first_message_s:
            self.close_over_limit("first_message", CloseCode.POLICY_VIOLATION, "ask for something")

    def close_stalled(self) -> None:
        """Close with a code, which a peer that begins to read still gets."""
        self.close_over_limit("stuck", CloseCode.TRY_LATER, "reads too slowly")

    def close_over_limit(self, limit: str, code: CloseCode, reason: str) -> None:
        """Close, since the client asks for more than it may."""
        if not self.closing:
            metrics.REFUSED.labels(limit).inc()
            self.close(code, reason)

    async def close_for_restart(self) -> None:
        """Close, since the service restarts, and wait until that is done."""
        self._closed = asyncio.get_running_loop().create_future()
        self.close(CloseCode.RESTART, "restarting")
        if not self._transport.is_closing():
            await self._closed

    def close(self, code: int, reason: str = "") -> None:
        """Close (§7.1.2): say so, and leave it to the other side to agree; one that reads nothing never does."""
        if not self.closing:
            self.write(encode_close(code, reason))
            self._close_code, self.closing = code, True
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)


def encode_snapshot(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as a text frame."""
    return encode_frame(Opcode.TEXT, b'{"job":%b}' % snapshot.text)
