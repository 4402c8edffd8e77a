"""Where reports come in: connections that workers keep, over which one plain `POST /reports` follows the other.

aiohttp's request, route and tasks would be a quarter of what such a report costs. So what is plain is answered right
here; a connection over which anything else comes is aiohttp's from then on, with all that came of that request.
Heads are read by aiohttp's parser too, once for all requests with the same one.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple, Self, cast

import structlog
from aiohttp import HttpVersion11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError

from headway.contracts import MAX_REPORTS_BYTES

from ...runtime import metrics
from ...runtime.errors import PROBLEM_JSON, HTTPProblem, problem_json
from ...runtime.request import JSON, parse_bearer
from ...runtime.request_timeout import END_OF_HEAD, Handoff
from ...runtime.service import KEEPALIVE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S
from .handlers import REPORTS_PATH, ReportHandler

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_HEAD_BYTES = 2048  # of a worker's head; who says more is no worker
MAX_CACHED_HEADS = 1024  # different ones: those of one worker differ in the length of what follows
PARTIAL_REQUEST_TIMEOUT_S = 1.0  # for the rest of a batch; then aiohttp waits for it
CHECK_INTERVAL_S = 1.0

_DURATION = metrics.REQUEST_DURATION.labels("POST", REPORTS_PATH)


class RequestHead(NamedTuple):
    """What a plain request says before its batch."""

    key: str | None
    size: int  # bytes of the batch


class ReportConnections:
    """All connections that reports may come over."""

    def __init__(self, reports: ReportHandler) -> None:
        self.reports = reports
        self.open: set[ReportConnection] = set()
        self.closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close all connections, where a batch is being kept after its answer."""
        self.closing = True
        pending = [inlet.pending_response for inlet in self.open if inlet.pending_response is not None]
        for connection in list(self.open):
            connection.process_next()
        if pending:
            await asyncio.wait(pending, timeout=SHUTDOWN_TIMEOUT_S)

    def __call__(self, handoff: Handoff) -> ReportConnection:
        """Make what a new connection speaks to first."""
        return ReportConnection(self, handoff)

    async def run(self) -> None:
        """See after all connections for ever."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now = time.monotonic()
            for connection in list(self.open):
                connection.check(now)


class ReportConnection(asyncio.Protocol):
    """One connection: it takes a request when the one before is answered, and nothing waits in it but the next."""

    def __init__(self, connections: ReportConnections, handoff: Handoff) -> None:
        self._connections = connections
        self._handoff = handoff
        self._buffer = b""  # of requests that are still to be answered
        self._last_activity = time.monotonic()  # when the first of them began to come, or the last answer went
        self._is_backpressured = False  # whether answers are not taken
        self._transport: asyncio.Transport
        self.pending_response: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.open.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """End."""
        self._connections.open.discard(self)

    def pause_writing(self) -> None:
        """Take that answers are not taken."""
        self._is_backpressured = True

    def resume_writing(self) -> None:
        """Take that they are again."""
        self._is_backpressured = False
        self.process_next()

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        if self._buffer:
            self._buffer += data
        else:
            self._buffer, self._last_activity = data, time.monotonic()
        if self._is_busy:
            self._transport.pause_reading()
        else:
            self.process_next()

    @property
    def _is_busy(self) -> bool:
        return self._is_backpressured or self.pending_response is not None

    def process_next(self) -> None:
        """Take the next request, if it is there."""
        if self._is_busy or self._transport.is_closing():
            return
        if self._connections.closing:
            self._transport.close()
            return
        if self._buffer:
            self._process_buffer()
        if not self._is_busy and self in self._connections.open:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._transport.is_reading():
            self._transport.resume_reading()

    def _process_buffer(self) -> None:
        head_bytes, end, rest = self._buffer.partition(END_OF_HEAD)
        head = parse_head(head_bytes) if end and len(head_bytes) <= MAX_HEAD_BYTES else None
        if head is None:
            self._hand_to_aiohttp()
        elif len(rest) >= head.size:
            self._buffer = rest[head.size :]
            self.pending_response = asyncio.get_running_loop().create_task(self._respond(head.key, rest[: head.size]))
            self.pending_response.add_done_callback(self._on_response)

    async def _respond(self, key: str | None, reports: bytes) -> None:
        started = time.perf_counter()
        status, content_type, headers = HTTPStatus.OK, JSON, dict[str, str]()
        try:
            body = await self._connections.reports.ingest(key, reports)
        except HTTPProblem as problem:
            status, content_type, headers = HTTPStatus(problem.status), PROBLEM_JSON, problem.headers()
            body = problem_json(status, problem.code, problem.detail, problem.field)
        if self._connections.closing:
            headers = {**headers, "Connection": "close"}
        if not self._transport.is_closing():
            self._transport.write(_encode_response(status, content_type, headers, body))
        metrics.REQUESTS.labels("POST", REPORTS_PATH, int(status)).inc()
        _DURATION.observe(time.perf_counter() - started)

    def _on_response(self, done: asyncio.Task[None]) -> None:
        self.pending_response, self._last_activity = None, time.monotonic()
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("request_failed", method="POST", route=REPORTS_PATH, exc_info=error)
            self._transport.abort()
        self.process_next()

    def check(self, now: float) -> None:
        """Let go of a connection over which nothing comes, and leave a request that comes in part to aiohttp."""
        partly = bool(self._buffer) and not self._is_busy
        if self.pending_response is None and now - self._last_activity > (
            PARTIAL_REQUEST_TIMEOUT_S if partly else KEEPALIVE_TIMEOUT_S
        ):
            if partly:
                self._hand_to_aiohttp()
            else:
                self._transport.abort()

    def _hand_to_aiohttp(self) -> None:
        self._connections.open.discard(self)
        self._resume_reading()  # now: whether it goes on is aiohttp's to say as soon as it is served
        received, self._buffer = self._buffer, b""
        self._handoff(self._transport, received)


@lru_cache(maxsize=MAX_CACHED_HEADS)
def parse_head(head: bytes) -> RequestHead | None:
    """Read a request's head, as aiohttp does; None when it is not one that is plain, or none at all."""
    if head.splitlines() != head.split(b"\r\n"):  # some line ends otherwise, and the head may end before
        return None
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, MAX_REPORTS_BYTES)
    try:
        ((message, _body),), _, _ = parser.feed_data(head + END_OF_HEAD)
    except (HttpProcessingError, ValueError):
        return None
    headers = message.headers
    if (message.method, message.path, message.version) != ("POST", REPORTS_PATH, HttpVersion11) or "Expect" in headers:
        return None
    if message.should_close or message.upgrade or message.chunked or message.compression:
        return None
    size = int(headers.get("Content-Length", 0))
    return RequestHead(parse_bearer(headers.get("Authorization", "")), size) if 0 < size <= MAX_REPORTS_BYTES else None


def _encode_response(status: HTTPStatus, content_type: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [
        f"HTTP/1.1 {status:d} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Date: {_date(int(time.time()))}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + END_OF_HEAD + body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
