"""The session of a client of the hub: the handshake, the methods that the client calls, and the jobs that it watches.

It is the same for all transports, which only move its bytes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct

from headway.contracts import Natural

from .....runtime.token_bucket import TokenBucket
from .... import metrics
from ....records.store import JobStore
from ....settings import NotifierSettings
from ....watching.snapshot import NO_VERSION, PublishedSnapshot
from ...auth import Token, TokenAuth, WatchRequest
from ...base import error_payload
from ...cancellation import cancel_watched
from ...refusals import RejectedToken, TokenAllowance
from ...registry import ConnectionRegistry
from ..calls import UNKNOWN, encode_percent
from .connection import HubConnection
from .protocols import (
    CANCEL_INVOCATION,
    CLOSE,
    INVOCATION,
    PROTOCOLS,
    RECORD_SEPARATOR,
    STREAM_INVOCATION,
    ClientMessage,
    HubProtocol,
    ProtocolViolation,
)
from .session_state import JobState, SessionState

A = TypeVar("A")
HANDSHAKE_VERSIONS = (1, 2)
MAX_HANDSHAKE_BYTES = 4096
PING_INTERVAL_S = 15.0
WATCH_ERROR = "watchError"  # the method of clients that is called with errors
WATCH_JOB = "watchjob"
RENEWABLE = ("token_expired", "invalid_token")


class _HandshakeRequest(Struct, frozen=True):
    protocol: str
    version: int


class _WatchArguments(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The arguments of `Watch` and `WatchJob`; a list token needs the id of the job."""

    token: Token
    version: Natural | None = None
    job_id: UUID | None = None


class _JobArguments(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The arguments of `Unwatch` and `Cancel`."""

    job_id: UUID


class MethodFailed(Exception):
    """The error with which a method of the hub answers."""


class WatchedJob:
    """A job on a connection: whether the client's methods are called for it, and its streams."""

    __slots__ = ("is_called", "percent", "streams", "token", "version")

    def __init__(self) -> None:
        self.token: str | None = None  # the last one; None: that of the connection
        self.is_called = False
        self.version = NO_VERSION  # the newest one for which the client's methods were called
        self.percent = UNKNOWN  # the last one with which `updateProgress` was called
        self.streams: dict[str, int] = {}  # the newest version of each, by the id of its invocation


class Hub(NamedTuple):
    """What all sessions use."""

    registry: ConnectionRegistry
    store: JobStore
    auth: TokenAuth
    settings: NotifierSettings


class HubSession:
    """The session of a connection.

    Args:
        hub: what all sessions use.
        connection: the connection.
        first: the job that the URL of the connection names, None without one.
    """

    def __init__(self, hub: Hub, connection: HubConnection, first: WatchRequest | None) -> None:
        self._hub = hub
        self._connection = connection
        self._first = first
        self._allowance = TokenAllowance(hub.settings.max_watches)
        burst = hub.settings.messages_per_s + 2 * hub.settings.max_watches
        self._message_budget = TokenBucket(hub.settings.messages_per_s, burst, time.monotonic())
        self._pinged_at = time.monotonic()
        self._received = b""  # of a message that is not complete
        self.protocol: HubProtocol | None = None  # before the handshake
        self.jobs: dict[str, WatchedJob] = {}
        self.has_ended = False
        self.has_subscribed = False  # whether the client has ever sent a valid token
        self._methods = {"watch": self._watch_calls, "unwatch": self._unwatch, "cancel": self._cancel}

    def is_idle_for(self, seconds: float) -> bool:
        """Return whether the client should have watched a job by now, and has never sent a valid token."""
        return not self.has_subscribed and seconds > self._hub.settings.first_message_s

    async def receive(self, data: bytes) -> None:
        """Handle what the client has sent; messages may begin and end anywhere in it."""
        self._received += data
        try:
            if self.protocol is None and not self._shake_hands():
                return
            assert self.protocol is not None  # noqa: S101 - since the handshake
            messages, self._received = self.protocol.split(self._received)
            for message in messages:
                if self.has_ended:
                    return
                await self._handle(self.protocol.decode(message))
                await asyncio.sleep(0)  # one verification blocks the event loop for a quarter of a millisecond
        except ProtocolViolation as error:
            self.close(str(error))

    def ping_if_due(self, now: float) -> None:
        """Send a ping if the last one was PING_INTERVAL_S ago. Clients count a server as lost after 30 seconds."""
        if self.protocol is not None and now - self._pinged_at >= PING_INTERVAL_S:
            self._pinged_at = now
            self._connection.push(self.protocol.ping)

    def _shake_hands(self) -> bool:
        """Answer the handshake, once it is complete; return whether it has succeeded."""
        text, separator, rest = self._received.partition(RECORD_SEPARATOR)
        if not separator and len(self._received) <= MAX_HANDSHAKE_BYTES:
            return False
        try:
            request = msgspec.json.decode(text if separator else b"", type=_HandshakeRequest)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._refuse_handshake("Expected a handshake request.")
        protocol = PROTOCOLS.get(request.protocol)
        if protocol is None or not self._connection.accepts(protocol):
            return self._refuse_handshake(f"The protocol '{request.protocol}' is not supported.")
        if request.version not in HANDSHAKE_VERSIONS:
            return self._refuse_handshake(
                f"Version {request.version} of the '{protocol.name}' protocol is not supported."
            )
        self._received = rest
        self._connection.use_protocol(protocol)
        self._connection.reply(b"{}" + RECORD_SEPARATOR)
        self.protocol = protocol
        if self._first is not None:
            self._subscribe(self._first, None, None)
        return True

    def _refuse_handshake(self, reason: str) -> bool:
        self.has_ended = True
        self._connection.reply(msgspec.json.encode({"error": reason}) + RECORD_SEPARATOR)
        self._connection.end()
        return False

    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> None:
        """Send the message that ends the session, and close the connection."""
        if self.has_ended:
            return
        self.has_ended = True
        if self.protocol is not None:
            self._connection.reply(self.protocol.close(error, allow_reconnect=allow_reconnect))
        self._connection.end()

    async def _handle(self, message: ClientMessage) -> None:
        if self._message_budget.acquire(time.monotonic()) > 0:
            metrics.LIMITS_EXCEEDED.labels("messages").inc()
            self.close("Too many messages.")
        elif message.type in (INVOCATION, STREAM_INVOCATION):
            await self._invoke(message)
        elif message.type == CANCEL_INVOCATION and message.invocation_id is not None:
            self._end_stream(message.invocation_id)
        elif message.type == CLOSE:
            self.has_ended = True
            self._connection.end()

    async def _invoke(self, message: ClientMessage) -> None:
        """Call a method of the hub, and answer unless the client expects no answer. A stream answers when it ends."""
        error, streams = None, message.type == STREAM_INVOCATION
        try:
            await self._call(message.target, message.arguments, message.invocation_id, streams=streams)
        except MethodFailed as failure:
            error = str(failure)
        if message.invocation_id is not None and (error is not None or not streams):
            self._answer(message.invocation_id, error)

    async def _call(self, target: str, arguments: tuple[Any, ...], invocation_id: str | None, *, streams: bool) -> None:
        name = target.lower()  # as in .NET, the case does not matter
        if name not in (*self._methods, WATCH_JOB):
            raise MethodFailed(f"The hub has no method '{target}'.")
        if streams != (name == WATCH_JOB):
            raise MethodFailed(f"Call '{target}' with `{'invoke' if streams else 'stream'}`.")
        if streams:
            self._watch(arguments, invocation_id)
        else:
            await self._methods[name](arguments)

    def _answer(self, invocation_id: str, error: str | None = None) -> None:
        if self.protocol is not None and not self.has_ended:
            self._connection.reply(self.protocol.completion(invocation_id, error))

    async def _watch_calls(self, arguments: tuple[Any, ...]) -> None:
        self._watch(arguments, None)

    def _watch(self, arguments: tuple[Any, ...], stream: str | None) -> None:
        watch = _convert(arguments, _WatchArguments)
        request = self._hub.auth.verify(watch.token, watch.version, self._allowance, watch.job_id)
        if not isinstance(request, RejectedToken):
            self._subscribe(request, watch.token, stream)
            return
        if self._allowance.is_exceeded:
            metrics.LIMITS_EXCEEDED.labels("tokens").inc()
            self.close("Too many invalid tokens.")
        raise MethodFailed(f"{request.code}: {request.message}")

    async def _unwatch(self, arguments: tuple[Any, ...]) -> None:
        job_id = str(_convert(arguments, _JobArguments).job_id)
        if (job := self.jobs.get(job_id)) is not None:
            job.is_called = False
            self._release(job_id)

    async def _cancel(self, arguments: tuple[Any, ...]) -> None:
        job_id = str(_convert(arguments, _JobArguments).job_id)
        structlog.contextvars.bind_contextvars(job_id=job_id)  # for the log lines of this task
        hub = self._hub
        rejected = await cancel_watched(self._connection, job_id, hub.registry, hub.store, hub.auth)
        if rejected is not None:
            raise MethodFailed(f"{rejected.code}: {rejected.message}")

    def _subscribe(self, request: WatchRequest, token: str | None, stream: str | None) -> None:
        """Watch a job: call the client's methods, or send a stream."""
        job_id, version = str(request.grant.job_id), NO_VERSION if request.version is None else request.version
        job = self.jobs.get(job_id) or WatchedJob()
        if job.is_called or job.streams:
            request = request._replace(version=None)  # the record is read again; each has the version that it needs
        if not self._hub.registry.subscribe(self._connection, request):
            raise MethodFailed("too_many_watches: The connection watches too many jobs.")
        self.has_subscribed = True
        self.jobs[job_id], job.token = job, token
        if stream is not None:
            job.streams[stream] = version
        elif not job.is_called:
            job.is_called, job.version = True, version

    def dump(self) -> SessionState | None:
        """Return what the next poll needs, None before the handshake."""
        if self.protocol is None:
            return None
        jobs = {
            job_id: JobState(job.token, job.version if job.is_called else None, job.percent.decode(), job.streams)
            for job_id, job in self.jobs.items()
        }
        return SessionState(self.protocol.name, self._received, jobs)

    def restore(self, state: SessionState) -> None:
        """Go on with the session of the poll before."""
        self.protocol, self._received = PROTOCOLS[state.protocol], state.received
        self._connection.use_protocol(self.protocol)
        for job_id, job_state in state.jobs.items():
            job = self.jobs[job_id] = WatchedJob()
            job.token, job.percent, job.streams = job_state.token, job_state.percent.encode(), job_state.streams
            if job_state.version is not None:
                job.is_called, job.version = True, job_state.version
            self._resume(job_id, job)

    def _resume(self, job_id: str, job: WatchedJob) -> None:
        """Subscribe to a job again, from the oldest version that the client needs."""
        versions = [*job.streams.values(), *([job.version] if job.is_called else [])]
        version = min(versions, default=NO_VERSION)
        request: WatchRequest | RejectedToken | None = self._first
        if job.token is not None:
            request = self._hub.auth.verify(job.token, None, self._allowance, UUID(job_id))
        if isinstance(request, RejectedToken):
            self.on_error(job_id, request.code, request.message)
        elif request is not None and str(request.grant.job_id) == job_id:
            self.has_subscribed = True
            request = request._replace(version=None if version == NO_VERSION else version)
            self._hub.registry.subscribe(self._connection, request)

    def _release(self, job_id: str) -> None:
        """End the subscription to a job that no longer needs one."""
        job = self.jobs.get(job_id)
        if job is not None and not job.is_called and not job.streams:
            del self.jobs[job_id]
            self._hub.registry.unsubscribe(self._connection, job_id)

    def deliver(self, job_id: str, snapshot: PublishedSnapshot) -> None:
        """Send a snapshot to the client's methods and streams that have an older version."""
        job = self.jobs.get(job_id)
        if job is None:
            return
        if job.is_called and snapshot.version > job.version:
            percent = snapshot.encoded(encode_percent)
            progressed = percent not in (UNKNOWN, job.percent)
            job.version, job.percent = snapshot.version, percent
            self._connection.send_calls(snapshot, progressed=progressed)
        if job.streams:
            self._deliver_to_streams(job_id, job, snapshot)

    def _deliver_to_streams(self, job_id: str, job: WatchedJob, snapshot: PublishedSnapshot) -> None:
        assert self.protocol is not None  # noqa: S101 - streams are opened after the handshake
        for stream, version in job.streams.items():
            if snapshot.version > version:
                job.streams[stream] = snapshot.version
                self._connection.push(self.protocol.stream_item(stream, snapshot.text))
        if snapshot.ended:
            self.complete_streams(job_id)

    def complete_streams(self, job_id: str) -> None:
        """End the streams of a job that has ended."""
        if (job := self.jobs.get(job_id)) is not None:
            self._end_streams(job_id, job, None)

    def _end_streams(self, job_id: str, job: WatchedJob, error: str | None) -> None:
        for stream in list(job.streams):
            del job.streams[stream]
            self._answer(stream, error)
        asyncio.get_running_loop().call_soon(self._release, job_id)  # not while the hub iterates over subscriptions

    def _end_stream(self, stream: str) -> None:
        """Called when the client cancels a stream."""
        for job_id, job in self.jobs.items():
            if job.streams.pop(stream, None) is not None:
                self._answer(stream)
                self._release(job_id)
                return

    def on_error(self, job_id: str, code: str, message: str) -> None:
        """Called when a job cannot be watched: for now, if it is `unknown`, or any longer."""
        job = self.jobs.get(job_id)
        if job is None or self.protocol is None:
            return
        text = f"{code}: {message}"
        if job.is_called:
            error = msgspec.json.encode(error_payload(job_id, code, message))
            self._connection.push(self.protocol.invocation(WATCH_ERROR, error))
        if code != "unknown":
            del self.jobs[job_id]
            self._end_streams(job_id, job, text)
            if job.token is None:  # a client that reconnects sends a new token
                self.close(text, allow_reconnect=code in RENEWABLE)
        elif NO_VERSION in job.streams.values():  # otherwise the record was lost, and the worker's reports restore it
            self._end_streams(job_id, job, text)


def _convert(arguments: tuple[Any, ...], arguments_type: type[A]) -> A:
    try:
        return msgspec.convert(arguments, arguments_type)
    except msgspec.ValidationError as error:
        raise MethodFailed(f"invalid: {error}") from error
