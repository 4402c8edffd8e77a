"""The jobs that a client of the hub watches: by calls of its methods, and as streams."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from ....watching.snapshot import NO_VERSION, PublishedSnapshot
from ...auth import WatchRequest
from ...base import error_payload
from ...registry import ConnectionRegistry
from ..calls import UNKNOWN, encode_percent
from .connection import HubConnection
from .protocols import HubProtocol
from .session_state import JobState

WATCH_ERROR = "watchError"  # the method of clients that is called with errors
NO_RECORD = "unknown: This job has no record."
RENEWABLE = ("token_expired", "invalid_token")


class Session(Protocol):
    """What the watched jobs need of their session."""

    registry: ConnectionRegistry
    connection: HubConnection
    protocol: HubProtocol | None
    has_ended: bool

    def close(self, error: str | None = None, *, allow_reconnect: bool = False) -> None:
        """End the session."""


class WatchedJob:
    """A job on a connection: whether the client's methods are called for it, and its streams."""

    __slots__ = ("is_called", "is_of_connection", "percent", "request", "streams", "version")

    def __init__(self, request: WatchRequest) -> None:
        self.request = request  # the last one
        self.is_of_connection = False  # whether its token was that of the connection
        self.is_called = False
        self.version = NO_VERSION  # the newest one for which the client's methods were called
        self.percent = UNKNOWN  # the last one with which `updateProgress` was called
        self.streams: dict[str, int] = {}  # the newest version of each, by the id of its invocation


class WatchedJobs:
    """The jobs of a session. Whether there has ever been one is in `has_subscribed`."""

    __slots__ = ("_jobs", "_session", "has_subscribed")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._jobs: dict[str, WatchedJob] = {}
        self.has_subscribed = False

    def add(self, request: WatchRequest, stream: str | None, *, is_of_connection: bool = False) -> bool:
        """Watch a job: call the client's methods, or send a stream; return False if there are too many jobs.

        Args:
            request: the job, and the version that the client has.
            stream: the id of the invocation that opens a stream, None to call the client's methods.
            is_of_connection: whether the token for the job was that of the connection.
        """
        job_id, version = str(request.grant.job_id), NO_VERSION if request.version is None else request.version
        job = self._jobs.get(job_id) or WatchedJob(request)
        if job.is_called or job.streams:
            request = request._replace(version=None)  # the record is read again; each has the version that it needs
        registry = self._session.registry
        if stream is not None and sum(len(each.streams) for each in self._jobs.values()) >= registry.max_watches:
            return False
        if not registry.subscribe(self._session.connection, request):
            return False
        self.has_subscribed = True
        # A method may get the same token: the connection still ends with it.
        job.is_of_connection = is_of_connection or (job.is_of_connection and request.grant == job.request.grant)
        self._jobs[job_id], job.request = job, request
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
                self._complete(stream, error)
                asyncio.get_running_loop().call_soon(self._release, job_id)  # see `_end_streams`
                return

    def dump(self) -> list[JobState]:
        """Return what the next poll needs to go on with the jobs."""
        return [
            JobState(
                job.request,
                job.is_of_connection,
                job.version if job.is_called else None,
                job.percent.decode(),
                job.streams,
            )
            for job in self._jobs.values()
        ]

    def restore(self, jobs: list[JobState]) -> None:
        """Go on with the jobs of the poll before, each from the oldest version that the client needs."""
        registry, connection = self._session.registry, self._session.connection
        for state in jobs:
            job_id, job = str(state.request.grant.job_id), WatchedJob(state.request)
            self._jobs[job_id], job.is_of_connection = job, state.is_of_connection
            job.percent, job.streams = state.percent.encode(), state.streams
            if state.version is not None:
                job.is_called, job.version = True, state.version
            versions = [*job.streams.values(), *([job.version] if job.is_called else [])]
            if registry.subscribe(connection, state.request._replace(version=min(versions, default=NO_VERSION))):
                registry.end_if_rejected(connection, connection.subscriptions[job_id])

    def _release(self, job_id: str) -> None:
        """End the subscription to a job that no longer needs one."""
        job = self._jobs.get(job_id)
        if job is not None and not job.is_called and not job.streams:
            del self._jobs[job_id]
            self._session.registry.unsubscribe(self._session.connection, job_id)

    def deliver(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot to the client's methods and streams that have an older version.

        Return False if the connection has become backpressured before all have it.
        """
        job = self._jobs.get(job_id)
        if job is None or self._session.has_ended:
            return True
        if job.is_called and snapshot.version > job.version:
            self._session.connection.send_calls(snapshot, job.percent)
            job.version, job.percent = snapshot.version, snapshot.encoded(encode_percent)
        return not job.streams or self._deliver_to_streams(job_id, job, snapshot)

    def _deliver_to_streams(self, job_id: str, job: WatchedJob, snapshot: PublishedSnapshot) -> bool:
        protocol = self._session.protocol
        assert protocol is not None  # noqa: S101 - streams are opened after the handshake
        item = snapshot.encoded(protocol.encode_snapshot)
        for stream, version in job.streams.items():
            if snapshot.version > version:
                if not self._session.connection.is_writable():
                    return False
                job.streams[stream] = snapshot.version
                self._session.connection.push(protocol.stream_item(stream, item))
        if snapshot.ended:
            self.complete_streams(job_id)
        return True

    def complete_streams(self, job_id: str) -> None:
        """End the streams of a job that has ended."""
        if (job := self._jobs.get(job_id)) is not None:
            self._end_streams(job_id, job, None)

    def _end_streams(self, job_id: str, job: WatchedJob, error: str | None) -> None:
        for stream in list(job.streams):
            del job.streams[stream]
            self._complete(stream, error)
        asyncio.get_running_loop().call_soon(self._release, job_id)  # not while the hub iterates over subscriptions

    def _complete(self, stream: str, error: str | None) -> None:
        """Send the end of a stream, also after the item that has made the connection backpressured."""
        protocol = self._session.protocol
        if protocol is not None and not self._session.has_ended:
            self._session.connection.push(protocol.completion(stream, error))

    def on_error(self, job_id: str, code: str, message: str) -> None:
        """Called when a job cannot be watched: for now, if it is `unknown`, or any longer."""
        job, protocol = self._jobs.get(job_id), self._session.protocol
        if job is None or protocol is None or self._session.has_ended:
            return
        if code == "unknown":
            # A stream with a version stays open: the record was lost, and the worker's reports restore it.
            for stream in [stream for stream, version in job.streams.items() if version == NO_VERSION]:
                self.end_stream(stream, NO_RECORD)  # the message says that the subscription stays open
            return
        text = f"{code}: {message}"
        if job.is_called:
            error = protocol.encode_value(msgspec.json.encode(error_payload(job_id, code, message)))
            self._session.connection.push(protocol.invocation(WATCH_ERROR, error))
        del self._jobs[job_id]
        self._end_streams(job_id, job, text)
        if job.is_of_connection:  # a client that reconnects sends a new token
            self._session.close(text, allow_reconnect=code in RENEWABLE)
