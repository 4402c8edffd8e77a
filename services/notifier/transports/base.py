"""The base classes of client connections.

Snapshots are written directly to a connection and never awaited. A connection above its buffer limit gets no snapshots;
when it drains, it gets the newest snapshot of each job.
"""

from __future__ import annotations

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import structlog
from websockets.frames import CloseCode

from headway.timestamp import Timestamp

from .. import metrics
from ..logs.piece import LogPiece
from ..watching.hub import Subscription
from ..watching.snapshot import PublishedSnapshot

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LOG_FORBIDDEN = "The log of this job is only for tokens with the scope `details`."
RECONNECT_SPREAD_S = 2.0  # the time over which clients reconnect after a loss
MIN_RECONNECT_SPREAD_S = 0.5  # the same for clients that a drain has closed one after the other
MAX_BUFFERED_BYTES = 256 * 1024  # in a connection's write buffer; more is backpressure


class ClientConnection(ABC):
    """An open connection. Only `close_for_restart` may wait. Methods that not every transport needs do nothing here.

    `transport` names the transport in metrics and logs. With `logs_lifecycle`, opening and closing are logged.
    """

    transport: ClassVar[str]
    logs_lifecycle: ClassVar[bool] = True
    __slots__ = ("_close_code", "_transport", "opened_at", "origin", "subscriptions")

    def __init__(self, transport: asyncio.Transport, origin: str | None) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.opened_at = time.monotonic()
        self.origin = None if origin is None else sys.intern(origin)  # most connections have the same few origins
        self._transport = transport
        self._close_code: int | None = None

    @property
    def is_closing(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._transport.is_closing()

    @property
    def close_code(self) -> int:
        """The code that the connection closed with; for a stream or poll, the code that a WebSocket would have.

        All private codes count as one, to bound the metric's labels.
        """
        return int(min(self._close_code or CloseCode.ABNORMAL_CLOSURE, metrics.FIRST_PRIVATE_CLOSE_CODE))

    def set_close_code(self, code: int) -> None:
        """Set why the connection closes, unless that is known already."""
        self._close_code = self._close_code or code

    @abstractmethod
    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot; return False if the connection is backpressured."""

    @abstractmethod
    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Send an error about a job, or about a request if `job_id` is None."""

    def is_writable(self) -> bool:
        """Return whether the connection takes more bytes now; if not, the registry flushes it when it drains."""
        return True

    def send_log(self, piece: LogPiece) -> None:  # noqa: B027
        """Send a piece of a job's log."""

    def refuse_log(self, job_id: str) -> None:  # noqa: B027
        """Send the error that the token does not open the log of a job."""

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:  # noqa: B027
        """Called when the job's record was read and the client already has that version."""

    def on_failure(self, error: Exception) -> None:
        """Called with an error that another method has raised, which is a bug: log it, and disconnect."""
        if not self.is_closing:
            log.error("delivery_failed", transport=self.transport, exc_info=error)
            self.set_close_code(CloseCode.INTERNAL_ERROR)
            self.abort()

    def abort(self) -> None:
        """Close the connection immediately, without a close message."""
        self._transport.abort()

    def heartbeat(self, now: Timestamp) -> None:  # noqa: B027
        """Send the server's time to the client; close the connection if the client has been silent for too long."""

    def stalled_for(self, now: float) -> float:  # noqa: ARG002
        """Return for how many seconds a backpressured connection has not drained at all."""
        return 0.0

    def close_stalled(self) -> None:  # noqa: B027
        """Close a connection that has not drained for too long."""

    @abstractmethod
    def reap(self) -> None:
        """Clean up if the client has disconnected or never subscribed to anything."""

    @abstractmethod
    def send_away(self) -> None:
        """Close the connection, so that its client reconnects, possibly to another replica."""

    def announce_restart(self, now: Timestamp, reconnect_s: float) -> None:  # noqa: B027
        """Called before `close_for_restart`: tell the client within which time to reconnect."""

    async def close_for_restart(self) -> None:
        """Close the connection, because this replica restarts."""
        self.set_close_code(CloseCode.SERVICE_RESTART)
        self.send_away()


class BackpressuredConnection(ClientConnection):
    """A long-lived connection with a limited write buffer: a WebSocket or an event stream."""

    __slots__ = ("_buffered_bytes", "_stalled_since")

    def __init__(self, transport: asyncio.Transport, origin: str | None) -> None:
        super().__init__(transport, origin)
        self._buffered_bytes = 0  # at the last check
        self._stalled_since: float | None = None

    def send_reply(self, data: bytes) -> None:
        """Send a reply. Abort a backpressured connection: its client sends requests without reading the replies."""
        if self.is_backpressured():
            self.abort()
        else:
            self.write(data)

    def is_backpressured(self) -> bool:
        """Return whether the write buffer is over its limit."""
        return self._transport.get_write_buffer_size() > MAX_BUFFERED_BYTES

    def stalled_for(self, now: float) -> float:
        """Return for how many seconds the buffer has been over its limit without shrinking."""
        before, self._buffered_bytes = self._buffered_bytes, self._transport.get_write_buffer_size()
        if self._buffered_bytes <= MAX_BUFFERED_BYTES or self._buffered_bytes < before:
            self._stalled_since = None
            return 0.0
        if self._stalled_since is None:
            self._stalled_since = now
        return now - self._stalled_since

    def close_stalled(self) -> None:
        """Abort the connection."""
        self.set_close_code(CloseCode.TRY_AGAIN_LATER)
        metrics.LIMITS_EXCEEDED.labels("stuck").inc()
        self.abort()

    def write(self, data: bytes) -> None:
        """Write encoded bytes, unless the connection is closing."""
        if not self._transport.is_closing():
            self._transport.write(data)


class StreamConnection(BackpressuredConnection):
    """An event stream, which the handler of its request ends when `done` is set.

    Its transport does not notify when it drains, so it adds itself to `backpressured`, whose connections the registry
    flushes.
    """

    __slots__ = ("_backpressured", "done")

    def __init__(self, transport: asyncio.Transport, origin: str | None, backpressured: set[ClientConnection]) -> None:
        super().__init__(transport, origin)
        self._backpressured = backpressured
        self.done = asyncio.Event()

    def is_writable(self) -> bool:
        """Return whether the connection is not backpressured."""
        if self.is_backpressured():
            self._backpressured.add(self)
            return False
        return True

    def end(self, code: int) -> None:
        """End the stream after what was sent."""
        self.set_close_code(code)
        self.done.set()


class MessageConnection(BackpressuredConnection):
    """A connection whose errors and logs are messages of their own."""

    __slots__ = ()

    def send_log(self, piece: LogPiece) -> None:
        """Send a piece of a log."""
        self.write(piece.encoded(self.encode_log))

    @staticmethod
    @abstractmethod
    def encode_log(piece: LogPiece) -> bytes:
        """Return a piece of a log in the transport's wire format."""

    @abstractmethod
    def encode_error(self, error: dict[str, Any]) -> bytes:
        """Return an error in the transport's wire format."""

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Send an error."""
        self.send_reply(self.encode_error(error_payload(job_id, code, message)))

    def refuse_log(self, job_id: str) -> None:
        """Send the error that the token does not open the log of a job. The client goes on watching the job."""
        self.send_reply(self.encode_error(log_refusal(job_id)))


def log_refusal(job_id: str) -> dict[str, Any]:
    """Return the error that a token does not open the log of a job; `log` tells it from one about the job itself."""
    return error_payload(job_id, "forbidden", LOG_FORBIDDEN) | {"log": True}


def error_payload(job_id: str | None, code: str, message: str) -> dict[str, str]:
    """Return the fields of an error, which are the same for every transport."""
    return {"code": code, "message": message} | ({} if job_id is None else {"job_id": job_id})
