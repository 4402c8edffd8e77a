"""An open WebSocket: an asyncio protocol that has no task while the connection is idle.

The sans-I/O protocol of websockets checks the client's frames (RFC 6455), and replies to pings, violations and close
frames. It parses ahead of the frame that is being handled, so its replies wait until that frame's turn, and
what the server sends does not pass through it: snapshots are encoded once for all connections.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import ClassVar

import structlog
from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SEND_EOF

from headway.timestamp import Timestamp

from ....runtime.token_bucket import TokenBucket
from ... import metrics
from ...settings import NotifierSettings
from ..base import MAX_BUFFERED_BYTES, BackpressuredConnection
from .frame_reader import FrameReader
from .protocol import MAX_MESSAGE_BYTES, PING, encode_close

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CLOSE_TIMEOUT_S = 3.0
DATA_FRAMES = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class WebSocket(BackpressuredConnection, asyncio.Protocol):
    """An open WebSocket, whatever its messages are.

    Args:
        settings: the limits of the connection.
        transport: the connection.
        origin: the origin of the client's page.
        burst: how many messages the client may send at once.
    """

    accepts_binary: ClassVar[bool] = False
    max_frame_bytes: ClassVar[int] = MAX_MESSAGE_BYTES
    __slots__ = (
        "_closed",
        "_fragments",
        "_is_backpressured",
        "_last_received",
        "_message_budget",
        "_paused",
        "_pending_task",
        "_pinged_at",
        "_reader",
        "closing",
        "settings",
    )

    def __init__(
        self, settings: NotifierSettings, transport: asyncio.Transport, origin: str | None, burst: float
    ) -> None:
        super().__init__(transport, origin)
        self.settings = settings
        self._reader = FrameReader(self.max_frame_bytes)
        self._fragments: list[Frame] = []  # of an incomplete message
        self._message_budget = TokenBucket(settings.messages_per_s, burst, self.opened_at)
        self._last_received = self.opened_at
        self.closing = False  # whether a close frame was sent
        self._paused = False  # whether reading is paused until the received frames have been handled
        self._pending_task: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._is_backpressured = False
        self._pinged_at: float | None = None  # None after the pong
        transport.set_write_buffer_limits(high=MAX_BUFFERED_BYTES)

    @abstractmethod
    def on_open(self) -> None:
        """Called when the connection opens."""

    @abstractmethod
    def on_drained(self) -> None:
        """Called when the connection was backpressured and has drained."""

    @abstractmethod
    def on_close(self) -> None:
        """Called when the connection ends."""

    @abstractmethod
    def on_message(self, text: str) -> Coroutine[None, None, None] | None:
        """Called with each text message; the result, if there is one, is awaited before the next message."""

    def on_binary(self, data: bytes) -> Coroutine[None, None, None] | None:  # noqa: ARG002
        """Called with each binary message, as with a text. Only called if the connection `accepts_binary`."""
        return None

    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        """Called when the connection begins."""
        self.on_open()

    def connection_lost(self, _error: Exception | None) -> None:
        """Called when the connection ends."""
        self.closing = True
        self._reader.free()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        self.on_close()

    def data_received(self, data: bytes) -> None:
        """Called when the client sends bytes."""
        self._last_received = time.monotonic()
        self._reader.receive(data)
        if not self._paused:
            self._process_frames()

    def pause_writing(self) -> None:
        """Called when the write buffer exceeds its limit."""
        self._is_backpressured = True

    def resume_writing(self) -> None:
        """Called when the write buffer has drained."""
        self._is_backpressured = False
        self.on_drained()

    def is_backpressured(self) -> bool:
        """Return whether the write buffer is over its limit."""
        return self._is_backpressured

    def _process_frames(self) -> None:
        """Handle the received frames; yield to the event loop after each message, since verifying a token is slow."""
        while not self.is_closing and (frame := self._next_frame()) is not None:
            pending = self._handle_frame(frame)
            if pending is not None or (frame.opcode is Opcode.TEXT and self._reader.has_more):
                self._pause(pending)
                return
        if self._paused and not self.is_closing:
            self._paused = False
            self._transport.resume_reading()

    def _next_frame(self) -> Frame | None:
        """Return the next frame, or None until it is complete."""
        while (frame := self._reader.take()) is None:
            self._write_replies()
            if not self._reader.parse():
                return None
        return frame

    def _handle_frame(self, frame: Frame) -> Coroutine[None, None, None] | None:
        if not self._spend(self._message_budget, 1) or self.closing:
            return None
        if frame.opcode is Opcode.BINARY and not self.accepts_binary:
            self.close_over_limit("binary", CloseCode.UNSUPPORTED_DATA, "send text")
        elif frame.opcode in DATA_FRAMES:
            return self._handle_fragment(frame)
        elif frame.opcode is Opcode.PONG and self._pinged_at is not None:
            metrics.PING_RTT.observe(time.monotonic() - self._pinged_at)
            self._pinged_at = None
        return None

    def _spend(self, budget: TokenBucket, count: int) -> bool:
        if budget.acquire(time.monotonic(), count) == 0:
            return True
        self.close_over_limit("messages", CloseCode.POLICY_VIOLATION, "too many messages")
        return False

    def _handle_fragment(self, fragment: Frame) -> Coroutine[None, None, None] | None:
        """Handle a message when its last fragment, which is usually its only one, has arrived."""
        self._fragments.append(fragment)
        if not fragment.fin:
            return None
        data, is_binary = b"".join(each.data for each in self._fragments), self._fragments[0].opcode is Opcode.BINARY
        self._fragments.clear()
        metrics.MESSAGES_RECEIVED.inc()
        if is_binary:
            return self.on_binary(data)
        try:
            return self.on_message(data.decode())
        except UnicodeDecodeError:
            self.close(CloseCode.INVALID_DATA, "text is UTF-8")
            return None

    def _write_replies(self) -> None:
        """Write the pongs and the close frame with which the protocol replies to the frames that it has parsed."""
        protocol = self._reader.protocol
        replies, close = protocol.data_to_send(), protocol.close_sent
        if not replies or (close is None and self._is_backpressured):
            return  # no pongs for a client that sends pings without reading
        self.write(b"".join(replies))
        if close is not None and not self.closing:
            self._begin_closing(close.code)
            if isinstance(protocol.parser_exc, PayloadTooBig):
                metrics.LIMITS_EXCEEDED.labels("message_size").inc()
        if SEND_EOF in replies and not self.is_closing:
            self._transport.write_eof()

    def _pause(self, pending: Coroutine[None, None, None] | None) -> None:
        """Stop reading and continue with the next frame later: after `pending`, or in the next event-loop iteration."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if pending is None:
            asyncio.get_running_loop().call_soon(self._process_frames)
        else:
            context = copy_context()  # the task adds the job's id to it
            self._pending_task = asyncio.create_task(pending, context=context)
            self._pending_task.add_done_callback(lambda task: self._on_task_done(task, context))

    def _on_task_done(self, task: asyncio.Future[None], context: Context) -> None:
        self._pending_task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            context.run(log.error, "request_failed", exc_info=error)
            self.abort()
        self._process_frames()

    def is_writable(self) -> bool:
        """Return whether the connection is neither backpressured nor closing."""
        return not (self._is_backpressured or self.closing)

    def write(self, data: bytes) -> None:
        """Write an encoded frame, unless a close frame was sent, which must be the last (§5.5.1)."""
        if not self.closing:
            super().write(data)

    def abort(self) -> None:
        """Close the connection immediately, without a close frame."""
        self.closing = True
        super().abort()

    @abstractmethod
    def encode_heartbeat(self, now: Timestamp) -> bytes:
        """Return the server's time in a message, and a ping."""

    def heartbeat(self, now: Timestamp) -> None:
        """Send the server's time and a ping, or abort the connection if the client has been silent for too long."""
        if time.monotonic() - self._last_received > self.settings.max_silence_s:
            self.abort()
        else:
            self._pinged_at = time.monotonic()
            # A slow consumer receives snapshots meanwhile, and would read the server's time too late.
            self.write(PING if self._is_backpressured else self.encode_heartbeat(now))

    def reap(self) -> None:
        """Free the protocol of an idle connection."""
        if not (self._fragments or self._paused or self.closing):
            self._reader.free_if_idle()

    def close_stalled(self) -> None:
        """Close the connection with a code, which reaches a client that starts to read again."""
        self.close_over_limit("stuck", CloseCode.TRY_AGAIN_LATER, "reads too slowly")

    def close_over_limit(self, limit: str, code: CloseCode, reason: str) -> None:
        """Close the connection because the client exceeded a limit, count it, and ignore what the client sends."""
        if not self.closing:
            metrics.LIMITS_EXCEEDED.labels(limit).inc()
            self.close(code, reason)
        self._reader.fail(code)

    def send_away(self) -> None:
        """Close the connection because this replica has lost Redis."""
        self.close(CloseCode.TRY_AGAIN_LATER, "lost Redis")

    async def close_for_restart(self) -> None:
        """Close the connection because this replica restarts, and wait until it is closed."""
        self._closed = asyncio.get_running_loop().create_future()
        self.close(CloseCode.SERVICE_RESTART, "restarting")
        if not self._transport.is_closing():
            await self._closed

    def close(self, code: CloseCode, reason: str) -> None:
        """Send a close frame (§7.1.2), unless one was sent."""
        if not self.closing:
            self.write(encode_close(code, reason))
            self._begin_closing(code)

    def _begin_closing(self, code: int) -> None:
        """Abort the connection if the client does not answer a close frame in time."""
        self.closing = True
        self.set_close_code(code)
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)
