"""The hub over long polling: a poll answers with the messages since the one before. Any replica may answer it.

Between two polls, Redis has the session: its protocol, and which version of each job the client has.
"""

from __future__ import annotations

import asyncio
import time

from ....watching.snapshot import PublishedSnapshot
from ...auth import WatchRequest
from ...base import MAX_BUFFERED_BYTES
from ...polling import PollConnection
from ..calls import WireFormat
from .connection import HubConnection, wire_format
from .hub import Hub
from .protocols import JSON, MESSAGE_PACK, HubProtocol
from .session import HubSession

ANSWERS: dict[HubProtocol, WireFormat] = {protocol: wire_format(protocol, bytes) for protocol in (JSON, MESSAGE_PACK)}


class HubPoll(PollConnection, HubConnection):
    """An open poll of the hub. `messages` are those of its answer."""

    transport = "signalr_poll"
    __slots__ = ("_answer_bytes", "jobs", "messages", "session", "wire_format")

    def __init__(
        self, hub: Hub, transport: asyncio.Transport, origin: str | None, first: WatchRequest | None, age_s: float
    ) -> None:
        """Create a connection.

        Args:
            hub: what all sessions use.
            transport: its bytes.
            origin: the origin of its page, None if it has none.
            first: the job that its URL names, None without one or after the handshake.
            age_s: how long ago the client has connected.
        """
        super().__init__(transport, origin)
        self.wire_format = ANSWERS[JSON]
        self.messages: list[bytes] = []
        self._answer_bytes = 0
        self.session = HubSession(hub, self, first, age_s)
        self.jobs = self.session.jobs

    def accepts(self, _protocol: HubProtocol) -> bool:
        """Return whether the transport can carry a protocol."""
        return True

    def use_protocol(self, protocol: HubProtocol) -> None:
        """Called before the answer to a handshake, and when a session goes on."""
        self.wire_format = ANSWERS[protocol]

    def is_writable(self) -> bool:
        """Return whether the answer takes more snapshots; the next poll gets the newest one of the other jobs."""
        return self._answer_bytes <= MAX_BUFFERED_BYTES

    def push(self, messages: bytes) -> None:
        """Add encoded messages to the answer, which completes the poll."""
        self.messages.append(messages)
        self._answer_bytes += len(messages)
        self.ready.set()

    reply = push

    def send_calls(self, snapshot: PublishedSnapshot, last_percent: bytes) -> None:
        """Call the client's methods for a snapshot."""
        self.push(self.wire_format.encode_snapshot(snapshot, last_percent))

    def reap(self) -> None:
        """Complete the poll if the client has disconnected or has not subscribed in time."""
        super().reap()
        if not self.is_closing:
            self.session.close_if_idle(time.monotonic())
