"""One open WebSocket: a protocol of its own, from which nothing hangs while it is silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Protocol

import msgspec
import structlog

from services.notifier import metrics
from services.notifier.frames import CloseCode, Frame, Frames, Opcode, Violation, close_code, closing, frame, text_of
from services.notifier.hub import Snapshot
from services.notifier.settings import NotifierSettings
from services.notifier.transports.outlet import BUFFER_BYTES, Pipe
from services.runtime.token_bucket import TokenBucket

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MESSAGE_BYTES = 64 * 1024
PING = frame(Opcode.PING)
CLOSE_S = 3.0
SILENT_PINGS = 2.5  # a peer that says nothing for so many of them is gone
PRIVATE = 3000  # the first close code that has no common meaning


class Service(Protocol):
    """Whoever serves connections."""

    settings: NotifierSettings

    def heard(self, connection: Connection, text: str) -> Coroutine[None, None, None] | None:
        """Do what a message asks; what this returns is still to be done, before the next message has its turn."""

    def opened(self, connection: Connection) -> None:
        """Take that a connection is open."""

    def drained(self, connection: Connection) -> None:
        """Take that a connection takes more again."""

    def lost(self, connection: Connection) -> None:
        """Take that a connection has ended."""


class Connection(Pipe, asyncio.Protocol):
    """One open socket."""

    transport = "websocket"
    __slots__ = (
        "_allowance",
        "_code",
        "_doing",
        "_frames",
        "_heard_at",
        "_over",
        "_paused",
        "_pinged_at",
        "_service",
        "_slow",
        "asked",
        "closing",
    )

    def __init__(self, service: Service, connection: asyncio.Transport, origin: str | None) -> None:
        super().__init__(connection, origin)
        settings = service.settings
        self._service = service
        self._frames: Frames | None = Frames(MESSAGE_BYTES)  # None once what comes is not read any more
        # A page asks for all its jobs at once, and cancels and leaves them at once.
        self._allowance = TokenBucket(
            settings.messages_per_s, settings.messages_per_s + 2 * settings.max_watches, self.opened_at
        )
        self.asked = False  # whether it has sent anything that makes sense
        self._heard_at = self.opened_at
        self._code: int | None = None  # with which it closes
        self.closing = False  # whether this side has said that it closes
        self._paused = False  # whether what has come is to be worked off before more is read
        self._doing: asyncio.Future[None] | None = None
        self._over: asyncio.Future[None] | None = None
        self._slow = False
        self._pinged_at: float | None = None  # while no answer has come
        connection.set_write_buffer_limits(high=BUFFER_BYTES)

    @property
    def code(self) -> int:
        """Tell how it closed; private codes are one to those who count."""
        return int(min(self._code or CloseCode.ABNORMAL, PRIVATE))

    # What the loop tells.

    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._service.opened(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """End."""
        self.closing = True
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        self._service.lost(self)

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        self._heard_at = time.monotonic()
        if self._frames is not None:
            self._frames.feed(data)
            if not self._paused:
                self._work()

    def pause_writing(self) -> None:
        """Take that too much waits."""
        self._slow = True

    def resume_writing(self) -> None:
        """Take that there is room again."""
        self._slow = False
        self._service.drained(self)

    def slow(self) -> bool:
        """Tell whether too much waits already."""
        return self._slow

    # What the other side says.

    def _work(self) -> None:
        """Take frame after frame; behind a message others have their turn first, since a signature takes its time."""
        try:
            while self._frames is not None and not self.gone and (told := self._frames.next()) is not None:
                doing = self._take(told)
                if doing is not None or (told.opcode is Opcode.TEXT and self._frames and self._frames.waiting):
                    self._pause(doing)
                    return
        except Violation as violation:
            if violation.code is CloseCode.TOO_BIG:
                metrics.REFUSED.labels("message_size").inc()
            self.close(violation.code, str(violation))
            self._frames = None
        if self._paused and not self.gone:
            self._paused = False
            self._connection.resume_reading()

    def _take(self, told: Frame) -> Coroutine[None, None, None] | None:
        if self._allowance.acquire(time.monotonic()) > 0:
            self.refuse("messages", CloseCode.POLICY_VIOLATION, "too many messages")
            self._frames = None
        elif told.opcode is Opcode.CLOSE:
            self.close(close_code(told.data))
            self._connection.close()
        elif self.closing:
            return None
        elif told.opcode is Opcode.TEXT:
            metrics.RECEIVED.inc()
            return self._service.heard(self, text_of(told.data))
        elif told.opcode is Opcode.BINARY:
            self.refuse("binary", CloseCode.UNSUPPORTED_DATA, "send text")
        elif told.opcode is Opcode.PING and not self.slow():
            self.write(frame(Opcode.PONG, told.data))
        elif told.opcode is Opcode.PONG and self._pinged_at is not None:
            metrics.PING_RTT.observe(time.monotonic() - self._pinged_at)
            self._pinged_at = None
        return None

    def _pause(self, doing: Coroutine[None, None, None] | None) -> None:
        """Read no more until something is done, and others have had their turn."""
        if not self._paused:
            self._paused = True
            self._connection.pause_reading()
        if doing is None:
            asyncio.get_running_loop().call_soon(self._work)
        else:
            self._doing = asyncio.create_task(doing)
            self._doing.add_done_callback(self._go_on)

    def _go_on(self, done: asyncio.Future[None]) -> None:
        self._doing = None
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("request_failed", exc_info=error)
            self.abort()
        self._work()

    # What this side says.

    def push(self, job_id: str, snapshot: Snapshot) -> bool:  # noqa: ARG002
        """Write a snapshot, unless the connection is slow or closing: in few steps, since a thousand do it at once."""
        if self._slow or self.closing:
            return False
        self._connection.write(snapshot.message)
        return True

    def spell_error(self, error: dict[str, str]) -> bytes:
        """Return an error as a frame."""
        return frame(Opcode.TEXT, msgspec.json.encode({"error": error}))

    def write(self, data: bytes) -> None:
        """Write a ready frame, unless the connection is closing: nothing may follow a close frame."""
        if not self.closing:
            super().write(data)

    def abort(self) -> None:
        """End the connection without a word."""
        self.closing = True
        super().abort()

    def beat(self) -> None:
        """Ping the peer, or end the connection when it has been silent for too long."""
        if time.monotonic() - self._heard_at > SILENT_PINGS * self._service.settings.ping_s:
            self.abort()
        else:
            self._pinged_at = time.monotonic()
            self.write(PING)

    def check(self) -> None:
        """Close a connection that asks for nothing; one whose peer has left ends by itself."""
        if not self.asked and time.monotonic() - self.opened_at > self._service.settings.first_message_s:
            self.refuse("first_message", CloseCode.POLICY_VIOLATION, "ask for something")

    def give_up(self) -> None:
        """Close with a code, which a peer that begins to read still gets."""
        self.refuse("stuck", CloseCode.TRY_LATER, "reads too slowly")

    def refuse(self, limit: str, code: CloseCode, reason: str) -> None:
        """Close, since the client asks for more than it may."""
        if not self.closing:
            metrics.REFUSED.labels(limit).inc()
            self.close(code, reason)

    async def end(self) -> None:
        """Close, since the service restarts, and wait until that is done."""
        self._over = asyncio.get_running_loop().create_future()
        self.close(CloseCode.RESTART, "restarting")
        if not self._connection.is_closing():
            await self._over

    def close(self, code: int, reason: str = "") -> None:
        """Close (§7.1.2): say so, and leave it to the other side to agree; one that reads nothing never does."""
        if not self.closing:
            self.write(closing(code, reason))
            self._code, self.closing = code, True
            asyncio.get_running_loop().call_later(CLOSE_S, self.abort)
