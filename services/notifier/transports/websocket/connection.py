"""An open WebSocket of a client that watches jobs and lists."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec
from websockets.frames import CloseCode

from headway.timestamp import Timestamp

from ....runtime.token_bucket import TokenBucket
from ...settings import NotifierSettings
from ...watching.snapshot import PublishedSnapshot
from ..base import MessageConnection
from ..refusals import TokenAllowance
from .base import WebSocket
from .protocol import encode_heartbeat, encode_hello, encode_log, encode_snapshot, encode_text

MAX_LISTS = 20  # of a connection
MESSAGES_PER_LIST = 20  # that a list counts as: Redis reads up to 2,000 records for it


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


class WebSocketConnection(MessageConnection, WebSocket):
    """An open WebSocket whose messages are JSON texts."""

    transport, encode_log = "websocket", staticmethod(encode_log)
    __slots__ = ("_burst", "_handler", "_list_budget", "has_subscribed", "token_allowance")

    def __init__(self, handler: MessageHandler, transport: asyncio.Transport, origin: str | None) -> None:
        self._handler = handler
        # The burst lets a page open all its lists and watch all its jobs at once, and then cancel and unwatch them.
        self._burst = handler.settings.messages_per_s + 2 * handler.settings.max_watches + MAX_LISTS
        super().__init__(handler.settings, transport, origin, self._burst)
        self._list_budget: TokenBucket | None = None  # before the first list
        self.token_allowance = TokenAllowance(handler.settings.max_watches, origin)
        self.has_subscribed = False  # whether the client has ever sent a valid token

    def on_open(self) -> None:
        """Called when the connection opens."""
        self._handler.on_open(self)

    def on_drained(self) -> None:
        """Called when the connection was backpressured and has drained."""
        self._handler.on_drained(self)

    def on_close(self) -> None:
        """Called when the connection ends."""
        self._handler.on_close(self)

    def on_message(self, text: str) -> Coroutine[None, None, None] | None:
        """Called with each message."""
        return self._handler.on_message(self, text)

    def spend_list(self) -> bool:
        """Return whether the client may open a list, which counts as many messages; close the connection if not."""
        if self._list_budget is None:
            burst = self._burst + MAX_LISTS * MESSAGES_PER_LIST
            self._list_budget = TokenBucket(self.settings.messages_per_s, burst, time.monotonic())
        return self._spend(self._list_budget, MESSAGES_PER_LIST)

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:  # noqa: ARG002
        """Send a snapshot; return False if the connection is backpressured or closing."""
        if self._is_backpressured or self.closing:
            return False
        self._transport.write(snapshot.encoded(encode_snapshot))
        return True

    def reap(self) -> None:
        """Close a connection that has not subscribed in time, or free the protocol of an idle one."""
        super().reap()
        if not self.has_subscribed and time.monotonic() - self.opened_at > self.settings.first_message_s:
            self.close_over_limit("first_message", CloseCode.POLICY_VIOLATION, "ask for something")

    def encode_error(self, error: dict[str, Any]) -> bytes:
        """Return an error as a text frame."""
        return encode_text(msgspec.json.encode({"error": error}))

    def encode_heartbeat(self, now: Timestamp) -> bytes:
        """Return a hello and a ping."""
        return encode_heartbeat(now, self.settings.max_silence_s)

    def announce_restart(self, now: Timestamp, reconnect_s: float) -> None:
        """Send a last hello."""
        if not self.closing:
            self.write(encode_hello(now, self.settings.max_silence_s, reconnect_s))
