"""The jobs that a client of the hub watches: by calls of its methods, and as streams."""

from __future__ import annotations

import asyncio
from typing import Protocol
from uuid import UUID

import msgspec

from ....watching.snapshot import NO_VERSION, PublishedSnapshot
from ...auth import WatchRequest
from ...base import error_payload
from ...refusals import RejectedToken
from ...registry import ConnectionRegistry
from ..calls import UNKNOWN, encode_percent
from .connection import HubConnection
from .protocols import HubProtocol
from .session_state import JobState

WATCH_ERROR = "watchError"  # the method of clients that is called with errors
RENEWABLE = ("token_expired", "invalid_token")


class Session(Protocol):
    """What the watched jobs need of their session."""

    registry: ConnectionRegistry
    connection: HubConnection
    protocol: HubProtocol | None

    def answer(self, invocation_id: str, error: str | None = None) -> None:
        """Answer an invocation, or end a stream."""

    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> None:
        """End the session."""

    def verify(self, token: str | None, job_id: UUID) -> WatchRequest | RejectedToken | None:
        """Return the job that a token opens."""


class WatchedJob:
    """A job on a connection: whether the client's methods are called for it, and its streams."""

    __slots__ = ("is_called", "percent", "streams", "token", "version")

    def __init__(self) -> None:
        self.token: str | None = None  # the last one; None: that of the connection
        self.is_called = False
        self.version = NO_VERSION  # the newest one for which the client's methods were called
        self.percent = UNKNOWN  # the last one with which `updateProgress` was called
        self.streams: dict[str, int] = {}  # the newest version of each, by the id of its invocation


class WatchedJobs:
    """The jobs of a session. Whether there has ever been one is in `has_subscribed`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._jobs: dict[str, WatchedJob] = {}
        self.has_subscribed = False

    def add(self, request: WatchRequest, token: str | None, stream: str | None) -> bool:
        """Watch a job: call the client's methods, or send a stream; return False if there are too many jobs.

        Args:
            request: the job, and the version that the client has.
            token: the token for it, None for that of the connection.
            stream: the id of the invocation that opens a stream, None to call the client's methods.
        """
        job_id, version = str(request.grant.job_id), NO_VERSION if request.version is None else request.version
        job = self._jobs.get(job_id) or WatchedJob()
        if job.is_called or job.streams:
            request = request._replace(version=None)  # the record is read again; each has the version that it needs
        registry = self._session.registry
        if stream is not None and sum(len(each.streams) for each in self._jobs.values()) >= registry.max_watches:
            return False
        if not registry.subscribe(self._session.connection, request):
            return False
        self.has_subscribed = True
        self._jobs[job_id], job.token = job, token
        if stream is not None:
            job.streams[stream] = version
        elif not job.is_called:
            job.is_called, job.version = True, version
        return True

    def stop_calls(self, job_id: str) -> None:
        """Call the client's methods for a job no longer."""
        if (job := self._jobs.get(job_id)) is not None:
            job.is_called = False
            self._release(job_id)

    def end_stream(self, stream: str, error: str | None = None) -> None:
        """End a stream: with an error, or because the client has cancelled it."""
        for job_id, job in self._jobs.items():
            if job.streams.pop(stream, None) is not None:
                self._session.answer(stream, error)
                asyncio.get_running_loop().call_soon(self._release, job_id)  # see `_end_streams`
                return

    def dump(self) -> dict[str, JobState]:
        """Return what the next poll needs to go on with the jobs."""
        return {
            job_id: JobState(job.token, job.version if job.is_called else None, job.percent.decode(), job.streams)
            for job_id, job in self._jobs.items()
        }

    def restore(self, jobs: dict[str, JobState]) -> None:
        """Go on with the jobs of the poll before."""
        for job_id, job_state in jobs.items():
            job = self._jobs[job_id] = WatchedJob()
            job.token, job.percent, job.streams = job_state.token, job_state.percent.encode(), job_state.streams
            if job_state.version is not None:
                job.is_called, job.version = True, job_state.version
            self._resume(job_id, job)

    def _resume(self, job_id: str, job: WatchedJob) -> None:
        """Subscribe to a job again, from the oldest version that the client needs."""
        versions = [*job.streams.values(), *([job.version] if job.is_called else [])]
        version = min(versions, default=NO_VERSION)
        request = self._session.verify(job.token, UUID(job_id))
        if isinstance(request, RejectedToken):
            self.on_error(job_id, request.code, request.message)
        elif request is not None and str(request.grant.job_id) == job_id:
            self.has_subscribed = True
            request = request._replace(version=None if version == NO_VERSION else version)
            self._session.registry.subscribe(self._session.connection, request)

    def _release(self, job_id: str) -> None:
        """End the subscription to a job that no longer needs one."""
        job = self._jobs.get(job_id)
        if job is not None and not job.is_called and not job.streams:
            del self._jobs[job_id]
            self._session.registry.unsubscribe(self._session.connection, job_id)

    def deliver(self, job_id: str, snapshot: PublishedSnapshot) -> None:
        """Send a snapshot to the client's methods and streams that have an older version."""
        job = self._jobs.get(job_id)
        if job is None:
            return
        if job.is_called and snapshot.version > job.version:
            self._session.connection.send_calls(snapshot, job.percent)
            job.version, job.percent = snapshot.version, snapshot.encoded(encode_percent)
        if job.streams:
            self._deliver_to_streams(job_id, job, snapshot)

    def _deliver_to_streams(self, job_id: str, job: WatchedJob, snapshot: PublishedSnapshot) -> None:
        protocol = self._session.protocol
        assert protocol is not None  # noqa: S101 - streams are opened after the handshake
        item = snapshot.encoded(protocol.encode_snapshot)
        for stream, version in job.streams.items():
            if snapshot.version > version:
                job.streams[stream] = snapshot.version
                self._session.connection.push(protocol.stream_item(stream, item))
        if snapshot.ended:
            self.complete_streams(job_id)

    def complete_streams(self, job_id: str) -> None:
        """End the streams of a job that has ended."""
        if (job := self._jobs.get(job_id)) is not None:
            self._end_streams(job_id, job, None)

    def _end_streams(self, job_id: str, job: WatchedJob, error: str | None) -> None:
        for stream in list(job.streams):
            del job.streams[stream]
            self._session.answer(stream, error)
        asyncio.get_running_loop().call_soon(self._release, job_id)  # not while the hub iterates over subscriptions

    def on_error(self, job_id: str, code: str, message: str) -> None:
        """Called when a job cannot be watched: for now, if it is `unknown`, or any longer."""
        job, protocol = self._jobs.get(job_id), self._session.protocol
        if job is None or protocol is None:
            return
        text = f"{code}: {message}"
        if job.is_called and code != "unknown":
            error = protocol.encode_value(msgspec.json.encode(error_payload(job_id, code, message)))
            self._session.connection.push(protocol.invocation(WATCH_ERROR, error))
        if code != "unknown":
            del self._jobs[job_id]
            self._end_streams(job_id, job, text)
            if job.token is None:  # a client that reconnects sends a new token
                self._session.close(text, allow_reconnect=code in RENEWABLE)
            return
        # A stream with a version stays open: the record was lost, and the worker's reports restore it.
        for stream in [stream for stream, version in job.streams.items() if version == NO_VERSION]:
            self.end_stream(stream, text)
