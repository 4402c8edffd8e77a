"""Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html): one job by GET, many by POST.

Every stream begins with a comment that contains the server's time, and is kept alive by further ones. The comment shows
the client that no proxy buffers the stream, and gives it the clock for its countdowns.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import msgspec
from aiohttp import web
from redis.exceptions import RedisError
from websockets.frames import CloseCode

from headway.contracts import Timestamp
from headway.tokens import Grant

from ...runtime.aiohttp_adapter import encode_chunk, start_stream
from ...runtime.errors import ServiceUnavailable, UnprocessableContent
from ..logs.piece import LogPiece
from ..logs.store import LogStore
from ..records.store import JobStore
from ..watching.snapshot import PublishedSnapshot
from .auth import TokenAuth, WatchRequest, request_origin
from .base import RECONNECT_SPREAD_S, ClientConnection, MessageConnection, StreamConnection
from .event_format import (
    STREAM_HEADERS,
    ResumePoint,
    encode_event,
    encode_heartbeat,
    encode_log,
    encode_snapshot,
    encode_snapshot_chunk,
    retry_event,
    time_comment,
)
from .log_access import LOG_LINGER_S, read_log
from .refusals import RejectedToken
from .registry import ConnectionRegistry

MAX_OFFSET = 2**53 - 1  # as in a message on a socket: `Natural`


class EventStream(MessageConnection, StreamConnection):
    """An open event stream. It is done when all its jobs have ended."""

    transport, encode_log = "sse", staticmethod(encode_log)

    def __init__(
        self,
        transport: asyncio.Transport,
        origin: str | None,
        job_ids: set[str],
        backpressured: set[ClientConnection],
        *,
        chunked: bool,
        resume_at: ResumePoint | None = None,
        follows_logs: bool = False,
    ) -> None:
        super().__init__(transport, origin, backpressured)
        self._chunked = chunked
        self._active_jobs = job_ids  # the jobs that have not ended
        self._resume_at = resume_at  # what the client has; of a stream of one job and its log
        self._follows_logs = follows_logs
        self._lingers_until: float | None = None
        self._reconnect_s = RECONNECT_SPREAD_S

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot; return False if the connection is backpressured."""
        if not self.is_writable():
            return False
        if self._resume_at is None:
            self.write(snapshot.encoded(encode_snapshot_chunk if self._chunked else encode_snapshot))
        else:
            self._resume_at = self._resume_at._replace(version=snapshot.version)
            self.write(self._encode(self._resume_at.encode_id() + encode_event(b"job", snapshot.text)))
        self.on_up_to_date(job_id, ended=snapshot.ended)
        return True

    def send_log(self, piece: LogPiece) -> None:
        """Send a piece of a log."""
        event_id = b""
        if self._resume_at is not None:
            self._resume_at = self._resume_at._replace(offset=piece.end)
            event_id = self._resume_at.encode_id()
        self.write(self._encode(event_id + piece.encoded(self.encode_log)))

    def encode_error(self, error: dict[str, Any]) -> bytes:
        """Return an error as an event."""
        return self._encode(encode_event(b"error", msgspec.json.encode(error)))

    def _encode(self, event: bytes) -> bytes:
        return encode_chunk(event) if self._chunked else event

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:
        """Called when the client has the last version; the stream is done when all jobs have ended."""
        if ended:
            self._on_job_ended(job_id)
        else:
            self._active_jobs.add(job_id)
            self._lingers_until = None

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Send an error. Unless it is `unknown`, the stream does not wait for the job to end."""
        super().send_error(job_id, code, message)
        if job_id is not None and code != "unknown":
            self._on_job_ended(job_id)

    def _on_job_ended(self, job_id: str) -> None:
        self._active_jobs.discard(job_id)
        if self._active_jobs:
            return
        if self._follows_logs:  # the worker sends the rest of a log after the report that ends the job
            self._lingers_until = self._lingers_until or time.monotonic() + LOG_LINGER_S
        else:
            self.end(CloseCode.NORMAL_CLOSURE)

    def heartbeat(self, now: Timestamp) -> None:
        """Send a comment, unless the connection is backpressured."""
        if not self.is_backpressured():
            self.write(encode_heartbeat(now, chunked=self._chunked))

    def announce_restart(self, now: Timestamp, reconnect_s: float) -> None:  # noqa: ARG002
        """Limit the reconnect delay with which the stream ends."""
        self._reconnect_s = reconnect_s

    def send_away(self) -> None:
        """End the stream with a reconnect delay."""
        self.write(self._encode(retry_event(self._reconnect_s)))
        self.end(CloseCode.TRY_AGAIN_LATER)

    def reap(self) -> None:
        """End the stream if the client has disconnected, or all jobs have ended and so have their logs."""
        if self.is_closing:
            self.end(CloseCode.ABNORMAL_CLOSURE)
        elif self._lingers_until is not None and time.monotonic() >= self._lingers_until:
            self.end(CloseCode.NORMAL_CLOSURE)


class EventStreamHandler:
    """Handles requests for event streams."""

    def __init__(self, registry: ConnectionRegistry, store: JobStore, logs: LogStore, auth: TokenAuth) -> None:
        self._registry = registry
        self._store = store
        self._logs = logs
        self._auth = auth

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.get("/live/jobs/{id}/events", self.stream_job, allow_head=False),
            web.post("/live/events", self.stream_jobs),
        ]

    async def stream_job(self, request: web.Request) -> web.StreamResponse:
        """Stream one job; answer 204 if the client has all of it, so that an EventSource stops reconnecting."""
        version, log_offset = _position(request)
        watch_request = self._auth.authorize_job(request, version)._replace(log=log_offset)
        has_more_log = log_offset is not None and await self._has_more_log(request, watch_request.grant, log_offset)
        must_check = version is not None or watch_request.grant.filter is not None
        if must_check and await self._has_ended(request, watch_request) and not has_more_log:
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        resume_at = None if log_offset is None else ResumePoint(version or 0, log_offset)
        return await self._stream(request, [watch_request], [], resume_at)

    async def _has_more_log(self, request: web.Request, grant: Grant, offset: int) -> bool:
        """Return whether the log is known to go on after an offset.

        Raises:
            Forbidden: the token does not open the log.
        """
        try:
            log = await read_log(self._logs, self._auth, grant, offset, request_origin(request))
        except ServiceUnavailable:
            return False
        return log.end > offset

    async def _has_ended(self, request: web.Request, watch_request: WatchRequest) -> bool:
        """Return whether a job is known to have ended with the client's version.

        There is no 503, after which an EventSource would not reconnect.

        Raises:
            Forbidden: the record does not match the token.
        """
        grant, job_id = watch_request.grant, str(watch_request.grant.job_id)
        try:
            (record,) = await self._store.read([job_id])
        except (RedisError, OSError):
            return False  # the stream opens, and gets the snapshot once Redis is available
        snapshot = PublishedSnapshot.from_record(job_id, record)
        if snapshot is None:
            return False
        self._auth.require_record(request, grant, record)
        return snapshot.ended and snapshot.version == watch_request.version

    async def stream_jobs(self, request: web.Request) -> web.StreamResponse:
        """Stream many jobs on one connection, for clients that cannot open a WebSocket."""
        return await self._stream(request, *await self._auth.authorize_jobs(request, self._registry.max_watches))

    async def _stream(
        self,
        request: web.Request,
        requests: list[WatchRequest],
        rejected: list[RejectedToken],
        resume_at: ResumePoint | None = None,
    ) -> web.StreamResponse:
        if self._registry.sends_away:
            response, _ = await start_stream(request, STREAM_HEADERS, retry_event(RECONNECT_SPREAD_S))
            return response
        self._registry.ensure_capacity()
        response, chunked = await start_stream(request, STREAM_HEADERS, time_comment(self._store.clock.now()))
        if (transport := request.transport) is None:
            return response
        job_ids, origin = {str(watch.grant.job_id) for watch in requests}, request_origin(request)
        stream = EventStream(
            transport,
            origin,
            job_ids,
            self._registry.backpressured,
            chunked=chunked,
            resume_at=resume_at,
            follows_logs=any(watch.log is not None for watch in requests),
        )
        with self._registry.serve(stream):
            for token in rejected:
                stream.write(stream.encode_error(token.error))
            for watch_request in requests:
                self._registry.subscribe(stream, watch_request)
            await stream.done.wait()
        return response


def _position(request: web.Request) -> tuple[int | None, int | None]:
    """Return the version that the client has, and its offset in the log if it follows the log.

    Raises:
        UnprocessableContent: the offset in the query is not valid.
    """
    last_event_id = re.fullmatch(r"(\d{1,16})(?:\.(\d{1,16}))?", request.headers.get("Last-Event-ID", ""), re.ASCII)
    offset = request.query.get("log")
    if offset is not None and not (re.fullmatch(r"\d{1,16}", offset, re.ASCII) and int(offset) <= MAX_OFFSET):
        raise UnprocessableContent("Expected the offset in the log, a number from 0.", field="log")
    if last_event_id is None:
        return None, None if offset is None else int(offset)
    version = int(last_event_id[1])
    if offset is None:
        return version, None
    return version or None, int(last_event_id[2] or offset)  # an id without a version: the log came before the snapshot
