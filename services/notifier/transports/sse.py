"""Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html): one job by GET, many by POST.

Every stream begins with a comment that contains the server's time, and is kept alive by further ones. The comment shows
the client that no proxy buffers the stream, and gives it the clock for its countdowns.
"""

from __future__ import annotations

import asyncio
import random
import re
from functools import lru_cache

import msgspec
from aiohttp import web
from redis.exceptions import RedisError
from websockets.frames import CloseCode

from headway.contracts import Timestamp

from ...runtime.aiohttp_adapter import encode_chunk, start_stream
from ..records.store import JobStore
from ..watching.snapshot import PublishedSnapshot
from .auth import TokenAuth, WatchRequest
from .base import BackpressuredConnection, ClientConnection
from .refusals import RejectedToken, problem_for
from .registry import ConnectionRegistry

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",  # no-transform: a proxy that compresses would buffer events
    "X-Accel-Buffering": "no",  # https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
}
LINE_BREAKS_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")
RECONNECT_DELAY_RANGE_MS = (500, 2_000)  # the range of random reconnect delays


class EventStream(BackpressuredConnection):
    """An open event stream. It is done when all its jobs have ended."""

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
        self._backpressured = backpressured  # the registry's set of connections to flush
        self.done = asyncio.Event()
        self._chunked = chunked
        self._active_jobs = job_ids  # the jobs that have not ended

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Send a snapshot; return False if the connection is backpressured."""
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
        """Called when the client has the last version; the stream is done when all jobs have ended."""
        if ended:
            self._on_job_ended(job_id)
        else:
            self._active_jobs.add(job_id)

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Send an error. Unless it is `unknown`, the stream does not wait for the job to end."""
        super().send_error(job_id, code, message)
        if job_id is not None and code != "unknown":
            self._on_job_ended(job_id)

    def _on_job_ended(self, job_id: str) -> None:
        self._active_jobs.discard(job_id)
        if not self._active_jobs:
            self._end(CloseCode.NORMAL_CLOSURE)

    def _end(self, code: int) -> None:
        self.set_close_code(code)
        self.done.set()

    def heartbeat(self, now: Timestamp) -> None:
        """Send a comment, unless the connection is backpressured."""
        if not self.is_backpressured():
            self.write(encode_heartbeat(now, chunked=self._chunked))

    def send_away(self) -> None:
        """End the stream with a reconnect delay."""
        self.write(self._encode(retry_event()))
        self._end(CloseCode.TRY_AGAIN_LATER)

    def reap(self) -> None:
        """End the stream if the client has disconnected."""
        if self.is_closing:
            self._end(CloseCode.ABNORMAL_CLOSURE)


class EventStreamHandler:
    """Handles requests for event streams."""

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
        """Stream one job; answer 204 if the client has its last version, so that an EventSource stops reconnecting."""
        last_event_id = request.headers.get("Last-Event-ID", "")
        version = int(last_event_id) if re.fullmatch(r"\d{1,16}", last_event_id, re.ASCII) else None
        watch_request = self._auth.authorize_job(request, version)
        if (version is not None or watch_request.grant.filter is not None) and await self._has_ended(watch_request):
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        return await self._stream(request, [watch_request], [])

    async def _has_ended(self, watch_request: WatchRequest) -> bool:
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
        if (rejected := self._auth.check_record(grant, record)) is not None:
            raise problem_for(rejected.code, rejected.message)
        return snapshot.ended and snapshot.version == watch_request.version

    async def stream_jobs(self, request: web.Request) -> web.StreamResponse:
        """Stream many jobs on one connection, for clients that cannot open a WebSocket."""
        return await self._stream(request, *await self._auth.authorize_jobs(request, self._registry.max_watches))

    async def _stream(
        self, request: web.Request, requests: list[WatchRequest], rejected: list[RejectedToken]
    ) -> web.StreamResponse:
        if not self._registry.sends_away:
            self._registry.ensure_capacity()
        response, chunked = await start_stream(request, HEADERS)
        if self._registry.sends_away or request.transport is None:
            await response.write(retry_event())
            return response
        await response.write(time_comment(self._store.clock.now()))  # with the headers; later writes bypass aiohttp
        job_ids, origin = {str(watch.grant.job_id) for watch in requests}, request.headers.get("Origin")
        stream = EventStream(request.transport, origin, job_ids, self._registry.backpressured, chunked=chunked)
        with self._registry.serve(stream):
            for token in rejected:
                stream.write(stream.encode_error(token.error))
            for watch_request in requests:
                self._registry.subscribe(stream, watch_request)
            await stream.done.wait()
        return response


def time_comment(now: Timestamp) -> bytes:
    """Return a comment with the server's time; an EventSource ignores it."""
    return b": %b\n\n" % str(now).encode()


@lru_cache(maxsize=2)  # encoded once for all streams, and once more for those in chunks
def encode_heartbeat(now: Timestamp, *, chunked: bool) -> bytes:
    """Return a comment in the wire format of a stream."""
    comment = time_comment(now)
    return encode_chunk(comment) if chunked else comment


def retry_event() -> bytes:
    """Return a random reconnect delay, so that clients do not all reconnect at the same time."""
    return b"retry: %d\n\n" % random.randint(*RECONNECT_DELAY_RANGE_MS)  # noqa: S311 - it spreads load


def encode_snapshot(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as an event that has the version as its id."""
    return b"id: %d\n%b" % (snapshot.version, encode_event(b"job", snapshot.text))


def encode_snapshot_chunk(snapshot: PublishedSnapshot) -> bytes:
    """Return a snapshot as an event in an HTTP/1.1 chunk."""
    return encode_chunk(snapshot.encoded(encode_snapshot))


def encode_event(name: bytes, data: bytes) -> bytes:
    """Return an event. Line breaks in the data, which JSON allows between its tokens, become spaces."""
    return b"event: %b\ndata: %b\n\n" % (name, data.translate(LINE_BREAKS_TO_SPACES))
