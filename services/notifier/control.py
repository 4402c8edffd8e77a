"""Control messages: a replica asks a worker to report a job at once, because the job was cancelled or is watched now.

Each worker has a channel in Redis. The replica that serves the worker's event stream, `GET /control?worker=<id>`,
subscribes to it; any replica publishes on it. A message may be lost: the next heartbeat of the worker has the same
effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct
from redis.exceptions import RedisError

from headway.contracts import MAX_REPORTS_PER_REQUEST, ControlMessage, Name, decode, encode

from ..runtime.auth import require_report_key
from ..runtime.errors import ServiceUnavailable
from ..runtime.request import bearer_token, read_query
from ..runtime.settings import ReloadingFile
from . import metrics
from .redis_client.pubsub import PubSub

log: structlog.stdlib.BoundLogger = structlog.get_logger()

COLLECT_S = 0.05
PUBLISH_TIMEOUT_S = 2.0
MAX_JOB_IDS = MAX_REPORTS_PER_REQUEST  # in a message; the worker reports all its jobs instead of more
MAX_PING_S = 20.0  # a worker waits 2.5 times as long
RETRY_AFTER_S = 1
STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store, no-transform"}
COMMENT = b":\n\n"


def worker_channel(worker_id: str) -> str:
    """Return the channel of a worker."""
    return f"headway:worker:{{{worker_id}}}"


class JobSet:
    """The jobs to report: some, or all."""

    def __init__(self) -> None:
        self._job_ids: set[str] = set()
        self._all = False

    def __bool__(self) -> bool:
        return self._all or bool(self._job_ids)

    def add(self, job_ids: Iterable[str]) -> None:
        """Add jobs; more than MAX_JOB_IDS count as all."""
        if not self._all:
            self._job_ids.update(job_ids)
            if len(self._job_ids) > MAX_JOB_IDS:
                self.add_all()

    def add_all(self) -> None:
        """Add all jobs."""
        self._job_ids.clear()
        self._all = True

    def to_json(self) -> bytes:
        """Return the message that asks for their reports."""
        return encode(ControlMessage("all" if self._all else sorted(self._job_ids)))


class ReportRequests:
    """Asks workers for reports. The requests for a worker are collected for `collect_s`, then published."""

    def __init__(self, pubsub: PubSub, collect_s: float = COLLECT_S) -> None:
        self._pubsub = pubsub
        self._collect_s = collect_s
        self._pending: dict[str, JobSet] = {}  # by worker
        self._publishing: set[str] = set()  # workers
        self._has_pending = asyncio.Event()

    def request(self, worker_id: str, job_id: str) -> None:
        """Schedule the request for a job's report, and return at once."""
        self._pending.setdefault(worker_id, JobSet()).add([job_id])
        self._has_pending.set()

    async def run(self) -> None:
        """Publish the requests until cancelled. A slow node of Redis delays only the workers whose channels it has."""
        async with asyncio.TaskGroup() as publications:
            while True:
                await self._has_pending.wait()
                await asyncio.sleep(self._collect_s)
                self._has_pending.clear()
                for worker_id in [each for each in self._pending if each not in self._publishing]:
                    self._publishing.add(worker_id)
                    publications.create_task(self._publish(worker_id, self._pending.pop(worker_id)))

    async def _publish(self, worker_id: str, jobs: JobSet) -> None:
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await self._pubsub.publish(worker_channel(worker_id), jobs.to_json())
        except (RedisError, OSError) as error:
            metrics.CONTROL_MESSAGES.labels("failed").inc()
            log.debug("control_publish_failed", error=type(error).__name__)
        else:
            metrics.CONTROL_MESSAGES.labels("published").inc()
        finally:
            self._publishing.discard(worker_id)
            if worker_id in self._pending:
                self._has_pending.set()


class ControlStream:
    """The open stream of a worker. A worker that reads slowly gets one message for all that was requested meanwhile."""

    def __init__(self) -> None:
        self._jobs = JobSet()
        self._changed = asyncio.Event()
        self.ended = False

    def request(self, job_ids: Iterable[str]) -> None:
        """Request the reports of some jobs."""
        self._jobs.add(job_ids)
        self._changed.set()

    def request_all(self) -> None:
        """Request the reports of all jobs."""
        self._jobs.add_all()
        self._changed.set()

    def end(self) -> None:
        """End the stream."""
        self.ended = True
        self._changed.set()

    async def next_event(self, ping_s: float) -> bytes:
        """Wait for a request and return it as an event; return a comment if there is none within `ping_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ping_s):
                await self._changed.wait()
        self._changed.clear()
        jobs, self._jobs = self._jobs, JobSet()
        return b"data: %b\n\n" % jobs.to_json() if jobs else COMMENT


class ControlQuery(Struct, frozen=True):
    """The query of `GET /control`."""

    worker: Name


class ControlHandler:
    """Serves the control streams.

    Args:
        pubsub: the channels of the workers.
        keys: the report keys.
        ping_s: the longest time without a comment, up to MAX_PING_S.
    """

    def __init__(self, pubsub: PubSub, keys: ReloadingFile[tuple[str, ...]], ping_s: float) -> None:
        self._pubsub = pubsub
        self._keys = keys
        self._ping_s = min(ping_s, MAX_PING_S)
        self._streams: dict[str, set[ControlStream]] = {}  # by channel; a worker that reconnects has two for a while
        self._draining = False

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.get("/control", self.stream, allow_head=False)]

    def on_publication(self, channel: str, data: bytes) -> None:
        """Called with each message that is published for a worker."""
        try:
            message = decode(data, ControlMessage)
        except msgspec.DecodeError:
            log.warning("invalid_publication_ignored", channel=channel, size=len(data))
            return
        for stream in self._streams.get(channel, ()):
            if message.report == "all":
                stream.request_all()
            else:
                stream.request(message.report)

    def on_subscribed(self, channel: str) -> None:
        """Called when a subscription is confirmed. Earlier messages may have been missed."""
        for stream in self._streams.get(channel, ()):
            stream.request_all()

    def drain(self) -> None:
        """End all streams, so that the workers open them at another replica."""
        self._draining = True
        for streams in self._streams.values():
            for stream in streams:
                stream.end()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Stream the messages to a worker. The first one requests all reports: earlier messages may be lost."""
        require_report_key(bearer_token(request), self._keys.value)
        query = read_query(request, ControlQuery)
        if self._draining or not self._pubsub.ready:
            message = "This replica is stopping, or has lost Redis; try another."
            raise ServiceUnavailable(message, retry_after_s=RETRY_AFTER_S)
        response = web.StreamResponse(headers=STREAM_HEADERS)
        await response.prepare(request)
        with suppress(ConnectionError), self._open(query.worker) as stream:  # the worker disconnects
            await response.write(COMMENT)
            while not stream.ended:
                await response.write(await stream.next_event(self._ping_s))
        return response

    @contextmanager
    def _open(self, worker_id: str) -> Iterator[ControlStream]:
        """Subscribe a new stream to the channel of its worker until the block ends."""
        channel, stream = worker_channel(worker_id), ControlStream()
        if self._draining:  # since the request was accepted
            stream.end()
        streams = self._streams.setdefault(channel, set())
        streams.add(stream)
        if self._pubsub.subscribe(channel, self):  # otherwise on_subscribed follows
            stream.request_all()
        try:
            with metrics.CONTROL_STREAMS.track_inprogress():
                yield stream
        finally:
            streams.discard(stream)
            if not streams:
                del self._streams[channel]
                self._pubsub.unsubscribe(channel)
