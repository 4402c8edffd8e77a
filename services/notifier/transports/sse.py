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
from services.notifier.hub import Snapshot, chunk_of, event_of
from services.notifier.records import Records
from services.notifier.transports.access import Access, Asked, Refused
from services.notifier.transports.outlet import Outlet, Outlets, Pipe

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",  # a proxy that compresses holds bytes back
    "X-Accel-Buffering": "no",  # https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
}
RETRY_MS = (500, 2_000)  # when a client may come back, so that not all come at once


class Stream(Pipe):
    """One open event stream; done when all its jobs have ended."""

    transport = "sse"

    def __init__(
        self, connection: asyncio.Transport, origin: str | None, job_ids: set[str], late: set[Outlet], *, chunked: bool
    ) -> None:
        super().__init__(connection, origin)
        self._late = late  # where it is to be found once it has refused something
        self.done = asyncio.Event()
        self._chunked = chunked
        self._going = job_ids  # the jobs that have not ended

    def push(self, job_id: str, snapshot: Snapshot) -> bool:
        """Write a snapshot, unless the connection is slow; with the last ending the stream is done."""
        if self.slow():
            self._late.add(self)
            return False
        self.write(snapshot.chunk if self._chunked else snapshot.event)
        self.caught_up(job_id, ended=snapshot.ended)
        return True

    def spell_error(self, error: dict[str, str]) -> bytes:
        """Return an error as an event."""
        return self._framed(event_of(b"error", msgspec.json.encode(error)))

    def _framed(self, event: bytes) -> bytes:
        return chunk_of(event) if self._chunked else event

    def caught_up(self, job_id: str, *, ended: bool) -> None:
        """Take how the job stands; when all have ended there is nothing more to write."""
        if ended:
            self._finish(job_id)
        else:
            self._going.add(job_id)

    def tell(self, job_id: str | None, code: str, message: str) -> None:
        """Write an error; a job that cannot be watched here is not waited for."""
        super().tell(job_id, code, message)
        if job_id is not None and code != "unknown":
            self._finish(job_id)

    def _finish(self, job_id: str) -> None:
        self._going.discard(job_id)
        if not self._going:
            self.done.set()

    def beat(self) -> None:
        """Keep the stream alive, unless it is slow already."""
        if not self.slow():
            self.write(self._framed(comment()))

    async def end(self) -> None:
        """Close, since the service restarts."""
        self.write(self._framed(retry()))
        self.done.set()

    def check(self) -> None:
        """Let go of a stream whose reader has left."""
        if self.gone:
            self.done.set()


class Streams:
    """Takes streams."""

    def __init__(self, outlets: Outlets, records: Records, access: Access) -> None:
        self._outlets = outlets
        self._records = records
        self._access = access

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.get("/live/jobs/{id}/events", self.one, allow_head=False),
            web.post("/live/events", self.many),
        ]

    async def one(self, request: web.Request) -> web.StreamResponse:
        """Stream one job; 204 tells an EventSource, which returns after every end, that there is nothing more."""
        granted = self._access.granted_for(request)
        seen = request.headers.get("Last-Event-ID", "")
        version = int(seen) if re.fullmatch(r"\d{1,16}", seen, re.ASCII) else None
        if version is not None and await self._ended(str(granted.job_id), version):
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        return await self._stream(request, [Asked(granted, version)], [])

    async def _ended(self, job_id: str, version: int) -> bool:
        """Tell whether a job is known to have ended with a version; an EventSource would give up on a 503."""
        try:
            (text,) = await self._records.read([job_id])
        except (RedisError, OSError):
            return False  # the stream opens, and tells once they are back
        snapshot = Snapshot.read(text)
        return snapshot is not None and snapshot.ended and snapshot.version == version

    async def many(self, request: web.Request) -> web.StreamResponse:
        """Stream many jobs on one connection, for clients that have no socket."""
        return await self._stream(request, *await self._access.granted_many(request))

    async def _stream(self, request: web.Request, asked: list[Asked], refused: list[Refused]) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        if chunked := request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        if not self._outlets.draining:
            self._outlets.make_room()
        await response.prepare(request)
        if self._outlets.draining or request.transport is None:
            await response.write(retry())
            return response
        await response.write(
            comment()
        )  # with the headers, which wait for the first bytes; the rest goes around aiohttp
        job_ids, origin = {str(one.granted.job_id) for one in asked}, request.headers.get("Origin")
        stream = Stream(request.transport, origin, job_ids, self._outlets.late, chunked=chunked)
        with self._outlets.open(stream):
            for one in refused:
                stream.write(stream.spell_error(one.problem))
            for granted, version in asked:
                self._outlets.watch(stream, granted, version)
            await stream.done.wait()
        return response


def comment() -> bytes:
    """Tell the time, where an EventSource does not look."""
    return b": %b\n\n" % str(Timestamp.now()).encode()


def retry() -> bytes:
    """Tell when to come back."""
    return b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311 - it spreads load
