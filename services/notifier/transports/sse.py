"""Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html): one job by GET, many by POST.

A comment with this server's time opens every stream and keeps it alive: it proves to the client that nothing in between
holds the bytes back, and it is the clock that the client counts down by.
"""

from __future__ import annotations

import asyncio
import random
import re

import msgspec
from aiohttp import HttpVersion11, web
from redis.exceptions import RedisError

from headway.contracts import Timestamp

from ..records.store import JobStore
from ..watching.snapshot import PublishedSnapshot
from .auth import RejectedToken, TokenAuth, WatchRequest
from .base import BackpressuredConnection, ClientConnection
from .registry import ConnectionRegistry

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",  # a proxy that compresses holds bytes back
    "X-Accel-Buffering": "no",  # https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
}
LINE_BREAKS_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")
RETRY_MS = (500, 2_000)  # when a client may come back, so that not all come at once


class EventStream(BackpressuredConnection):
    """One open event stream; done when all its jobs have ended."""

    transport = "sse"

    def __init__(
        self,
        transport: asyncio.Transport,
        origin: str | None,
        job_ids: set[str],
        backpressured: set[ClientConnection],
        *,
        chunked: bool,
    ) -> None:
        super().__init__(transport, origin)
        self._backpressured = backpressured  # where it is to be found once it has refused something
        self.done = asyncio.Event()
        self._chunked = chunked
        self._active_jobs = job_ids  # the jobs that have not ended

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Write a snapshot, unless the connection is slow; with the last ending the stream is done."""
        if self.is_backpressured():
            self._backpressured.add(self)
            return False
        self.write(snapshot.encoded(encode_snapshot_chunk if self._chunked else encode_snapshot))
        self.on_up_to_date(job_id, ended=snapshot.ended)
        return True

    def encode_error(self, error: dict[str, str]) -> bytes:
        """Return an error as an event."""
        return self._encode(encode_event(b"error", msgspec.json.encode(error)))

    def _encode(self, event: bytes) -> bytes:
        return encode_chunk(event) if self._chunked else event

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:
        """Take how the job stands; when all have ended there is nothing more to write."""
        if ended:
            self._on_job_ended(job_id)
        else:
            self._active_jobs.add(job_id)

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Write an error; a job that cannot be watched here is not waited for."""
        super().send_error(job_id, code, message)
        if job_id is not None and code != "unknown":
            self._on_job_ended(job_id)

    def _on_job_ended(self, job_id: str) -> None:
        self._active_jobs.discard(job_id)
        if not self._active_jobs:
            self.done.set()

    def heartbeat(self) -> None:
        """Keep the stream alive, unless it is slow already."""
        if not self.is_backpressured():
            self.write(self._encode(time_comment()))

    async def close_for_restart(self) -> None:
        """Close, since the service restarts."""
        self.write(self._encode(retry_event()))
        self.done.set()

    def reap(self) -> None:
        """Let go of a stream whose reader has left."""
        if self.is_closing:
            self.done.set()


class EventStreamHandler:
    """Takes streams."""

    def __init__(self, registry: ConnectionRegistry, store: JobStore, auth: TokenAuth) -> None:
        self._registry = registry
        self._store = store
        self._auth = auth

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.get("/live/jobs/{id}/events", self.stream_job, allow_head=False),
            web.post("/live/events", self.stream_jobs),
        ]

    async def stream_job(self, request: web.Request) -> web.StreamResponse:
        """Stream one job; 204 tells an EventSource, which returns after every end, that there is nothing more."""
        grant = self._auth.authorize_job(request)
        last_event_id = request.headers.get("Last-Event-ID", "")
        version = int(last_event_id) if re.fullmatch(r"\d{1,16}", last_event_id, re.ASCII) else None
        if version is not None and await self._has_ended_at(str(grant.job_id), version):
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        return await self._stream(request, [WatchRequest(grant, version)], [])

    async def _has_ended_at(self, job_id: str, version: int) -> bool:
        """Tell whether a job is known to have ended with a version; an EventSource would give up on a 503."""
        try:
            (text,) = await self._store.read([job_id])
        except (RedisError, OSError):
            return False  # the stream opens, and tells once they are back
        snapshot = PublishedSnapshot.parse(text)
        return snapshot is not None and snapshot.ended and snapshot.version == version

    async def stream_jobs(self, request: web.Request) -> web.StreamResponse:
        """Stream many jobs on one connection, for clients that have no socket."""
        return await self._stream(request, *await self._auth.authorize_jobs(request))

    async def _stream(
        self, request: web.Request, requests: list[WatchRequest], rejected: list[RejectedToken]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        if chunked := request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        if not self._registry.draining:
            self._registry.ensure_capacity()
        await response.prepare(request)
        if self._registry.draining or request.transport is None:
            await response.write(retry_event())
            return response
        await response.write(
            time_comment()
        )  # with the headers, which wait for the first bytes; the rest goes around aiohttp
        job_ids, origin = {str(one.grant.job_id) for one in requests}, request.headers.get("Origin")
        stream = EventStream(request.transport, origin, job_ids, self._registry.backpressured, chunked=chunked)
        with self._registry.serve(stream):
            for one in rejected:
                stream.write(stream.encode_error(one.error))
            for grant, version in requests:
                self._registry.subscribe(stream, grant, version)
            await stream.done.wait()
        return response


def time_comment() -> bytes:
    """Tell the time, where an EventSource does not look."""
    return b": %b\n\n" % str(Timestamp.now()).encode()


def retry_event() -> bytes:
    """Tell when to come back."""
    return b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311 - it spreads load


def encode_snapshot(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as an event with its version as the id."""
    return b"id: %d\n%b" % (snapshot.version, encode_event(b"job", snapshot.text))


def encode_snapshot_chunk(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as an event in a chunk of HTTP/1.1."""
    return encode_chunk(snapshot.encoded(encode_snapshot))


def encode_event(name: bytes, data: bytes) -> bytes:
    """Return an event; line breaks between the tokens of JSON become spaces."""
    return b"event: %b\ndata: %b\n\n" % (name, data.translate(LINE_BREAKS_TO_SPACES))


def encode_chunk(data: bytes) -> bytes:
    """Return a chunk (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
