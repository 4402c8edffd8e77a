"""The session of a client of the hub: its handshake, messages and limits, and what a poll leaves to the next one.

It is the same for all transports, which only move its bytes.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
from msgspec import Struct
from websockets.frames import CloseCode

from headway.contracts import decode, encode

from .....runtime.token_bucket import TokenBucket
from .... import metrics
from ...auth import WatchRequest
from ...refusals import TokenAllowance
from .connection import HubConnection
from .hub import Hub, HubMethods, MethodFailed
from .protocols import (
    CANCEL_INVOCATION,
    CLOSE,
    INVOCATION,
    MAX_SPLIT,
    PROTOCOLS,
    RECORD_SEPARATOR,
    STREAM_INVOCATION,
    ClientMessage,
    HubProtocol,
    MessageTooLarge,
    ProtocolViolation,
)
from .session_state import SessionState
from .watched_jobs import WatchedJobs

MAX_HANDSHAKE_VERSION = 2  # and all before, as in .NET: signalrcore sends 0
MAX_HANDSHAKE_BYTES = 4096
PING_INTERVAL_S = 15.0


class _HandshakeRequest(Struct, frozen=True):
    protocol: str
    version: int


class HubSession:
    """The session of a connection.

    Args:
        hub: what all sessions use.
        connection: the connection.
        first: the job that the URL of the connection names, None without one or after the handshake.
        age_s: how long ago the client has connected.
    """

    __slots__ = (
        "_allowance",
        "_first",
        "_hub",
        "_message_budget",
        "_methods",
        "_opened_at",
        "_pinged_at",
        "_received",
        "connection",
        "has_ended",
        "jobs",
        "protocol",
        "registry",
    )

    def __init__(self, hub: Hub, connection: HubConnection, first: WatchRequest | None, age_s: float = 0.0) -> None:
        self._hub = hub
        self.registry = hub.registry
        self.connection = connection
        self._first = first
        self._allowance = TokenAllowance(hub.settings.max_watches, connection.origin)
        now = time.monotonic()
        self._message_budget = TokenBucket(hub.settings.messages_per_s, hub.message_burst, now)
        self._opened_at, self._pinged_at = now - age_s, now
        self._received = b""  # of a message that is not complete
        self.protocol: HubProtocol | None = None  # before the handshake
        self.jobs = WatchedJobs(self)
        self.has_ended = False
        self._methods = HubMethods(hub, connection, self.jobs, self._allowance)

    async def receive(self, data: bytes) -> None:
        """Handle what the client has sent at once; messages may begin and end anywhere in it."""
        if self.has_ended:
            return
        self._received += data
        try:
            if self.protocol is not None or self._shake_hands():
                await self._handle_received()
        except MessageTooLarge as error:
            self.close_over_limit("message_size", str(error), CloseCode.MESSAGE_TOO_BIG)
        except ProtocolViolation as error:
            self.close(str(error), CloseCode.PROTOCOL_ERROR)

    async def _handle_received(self) -> None:
        assert self.protocol is not None  # noqa: S101 - since the handshake
        has_more = True
        while has_more:
            messages, self._received = self.protocol.split(self._received)
            has_more = len(messages) == MAX_SPLIT
            if self._message_budget.acquire(time.monotonic(), max(1, len(messages))) > 0:
                self.close_over_limit("messages", "too many messages")
                return
            for message in messages:
                await self._handle(self.protocol.decode(message))
                await asyncio.sleep(0)  # one verification blocks the event loop for a quarter of a millisecond

    def close_if_idle(self, now: float) -> None:
        """Close the session if the client should have watched a job by now, and has never sent a valid token."""
        if not self.jobs.has_subscribed and now - self._opened_at > self._hub.settings.first_message_s:
            self.close_over_limit("first_message", "watch a job")

    def ping_if_due(self, now: float) -> None:
        """Send a ping if the last one was PING_INTERVAL_S ago. Clients count a server as lost after 30 seconds."""
        if self.protocol is not None and now - self._pinged_at >= PING_INTERVAL_S:
            self._pinged_at = now
            self.connection.push(self.protocol.ping)

    def _shake_hands(self) -> bool:
        """Answer the handshake, once it is complete; return whether it has succeeded."""
        text, separator, rest = self._received.partition(RECORD_SEPARATOR)
        if not separator and len(self._received) <= MAX_HANDSHAKE_BYTES:
            return False
        try:
            request = decode(text if separator and len(text) <= MAX_HANDSHAKE_BYTES else b"", _HandshakeRequest)
        except msgspec.DecodeError:
            return self._refuse_handshake("Expected a handshake request.")
        protocol = PROTOCOLS.get(request.protocol)
        if protocol is None or not self.connection.accepts(protocol):
            return self._refuse_handshake(f"The protocol '{request.protocol}' is not supported.")
        if request.version > MAX_HANDSHAKE_VERSION:
            return self._refuse_handshake(
                f"Version {request.version} of the '{protocol.name}' protocol is not supported."
            )
        self._received = rest
        self.connection.use_protocol(protocol)
        self.connection.reply(b"{}" + RECORD_SEPARATOR)
        self.protocol = protocol
        if self._first is not None:
            self.jobs.add(self._first, None, is_of_connection=True)
        return True

    def _refuse_handshake(self, reason: str) -> bool:
        self.has_ended = True
        self.connection.reply(msgspec.json.encode({"error": reason}) + RECORD_SEPARATOR)
        self.connection.end(CloseCode.NORMAL_CLOSURE)
        return False

    def close(
        self, error: str | None = None, code: CloseCode = CloseCode.NORMAL_CLOSURE, *, allow_reconnect: bool = False
    ) -> None:
        """Send the message that ends the session, and close the connection.

        The message names the error and whether the client should reconnect; a WebSocket closes with the code, too.
        """
        if self.has_ended:
            return
        self.has_ended = True
        if self.protocol is not None:
            self.connection.push(self.protocol.close(error, allow_reconnect=allow_reconnect))
        self.connection.end(code)

    def close_over_limit(self, limit: str, error: str, code: CloseCode = CloseCode.POLICY_VIOLATION) -> None:
        """Close the session because the client exceeded a limit, and count it."""
        if not self.has_ended:
            metrics.LIMITS_EXCEEDED.labels(limit).inc()
            self.close(error, code)

    async def _handle(self, message: ClientMessage) -> None:
        if self.has_ended:
            return
        if message.type in (INVOCATION, STREAM_INVOCATION):
            await self._invoke(message)
        elif message.type == CANCEL_INVOCATION and message.invocation_id is not None:
            self.jobs.end_stream(message.invocation_id)
        elif message.type == CLOSE:
            self.has_ended = True
            self.connection.end(CloseCode.NORMAL_CLOSURE)

    async def _invoke(self, message: ClientMessage) -> None:
        """Call a method of the hub, and answer unless the client expects no answer. A stream answers when it ends."""
        error, streams = None, message.type == STREAM_INVOCATION
        if streams and message.invocation_id is None:
            raise ProtocolViolation("A stream needs the id of its invocation.")
        try:
            await self._methods.call(message)
        except MethodFailed as failure:
            error = str(failure)
        if self._allowance.is_exceeded:
            self.close_over_limit("tokens", "too many invalid tokens")
        if message.invocation_id is not None and (error is not None or not streams):
            self._answer(message.invocation_id, error)

    def _answer(self, invocation_id: str, error: str | None) -> None:
        if self.protocol is not None and not self.has_ended:
            self.connection.reply(self.protocol.completion(invocation_id, error))

    def dump(self) -> bytes | None:
        """Return what the next poll needs, None before the handshake."""
        if self.protocol is None:
            return None
        budget, age_s = self._message_budget, time.monotonic() - self._message_budget.updated_at
        return encode(
            SessionState(
                protocol=self.protocol.name,
                received=self._received,
                has_subscribed=self.jobs.has_subscribed,
                jobs=self.jobs.dump(),
                messages_left=budget.tokens,
                messages_left_at=self._hub.store.clock.now().after(-age_s),
                allowance_left=self._allowance.left,
            )
        )

    def restore(self, text: bytes) -> None:
        """Go on with the session of the poll before.

        Raises:
            msgspec.DecodeError: another release or another program has stored it.
        """
        state = decode(text, SessionState)
        self.protocol, self._received = PROTOCOLS[state.protocol], state.received
        self.connection.use_protocol(self.protocol)
        age_s = (self._hub.store.clock.now() - state.messages_left_at) / 1000
        self._message_budget.tokens = state.messages_left
        self._message_budget.updated_at = time.monotonic() - max(0.0, age_s)
        self._allowance.left = state.allowance_left
        self.jobs.restore(state.jobs)
        self.jobs.has_subscribed = state.has_subscribed
