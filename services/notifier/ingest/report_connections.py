"""A fast path for `POST /reports` on the keep-alive connections of workers.

aiohttp's request, route and tasks would be a quarter of the cost of such a request, so simple ones are answered without
them. Upon any other request, the connection passes to aiohttp, with the bytes received so far, and stays there. Request
heads are parsed by aiohttp's parser, once for all requests with the same head.
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

MAX_HEAD_BYTES = 2048  # a request with a larger head passes to aiohttp
MAX_CACHED_HEADS = 1024  # the heads of one worker differ in the content length
PARTIAL_REQUEST_TIMEOUT_S = 1.0  # for the rest of a request; then the connection passes to aiohttp
CHECK_INTERVAL_S = 1.0

_DURATION = metrics.REQUEST_DURATION.labels("POST", REPORTS_PATH)


class RequestHead(NamedTuple):
    """The head of a simple request."""

    key: str | None
    size: int  # bytes of the body


class ReportConnections:
    """The open connections of the internal listener that have not passed to aiohttp."""

    def __init__(self, reports: ReportHandler) -> None:
        self.reports = reports
        self.open: set[ReportConnection] = set()
        self.closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close all connections; those with a request in progress, after its response."""
        self.closing = True
        responses = [connection.pending_response for connection in self.open if connection.pending_response is not None]
        for connection in list(self.open):
            connection.process_next()
        if responses:
            await asyncio.wait(responses, timeout=SHUTDOWN_TIMEOUT_S)

    def __call__(self, handoff: Handoff) -> ReportConnection:
        """Return the protocol of a new connection."""
        return ReportConnection(self, handoff)

    async def run(self) -> None:
        """Check the timeouts of all connections, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now = time.monotonic()
            for connection in list(self.open):
                connection.check(now)


class ReportConnection(asyncio.Protocol):
    """One connection. It handles one request at a time, and reads no further while a request is in progress."""

    def __init__(self, connections: ReportConnections, handoff: Handoff) -> None:
        self._connections = connections
        self._handoff = handoff
        self._buffer = b""  # received and not processed yet
        self._last_activity = time.monotonic()  # when the buffer's first bytes arrived, or the last response was sent
        self._is_backpressured = False
        self._transport: asyncio.Transport
        self.pending_response: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the connection begins."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.open.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """Called when the connection ends."""
        self._connections.open.discard(self)

    def pause_writing(self) -> None:
        """Called when the write buffer exceeds its limit."""
        self._is_backpressured = True

    def resume_writing(self) -> None:
        """Called when the write buffer has drained."""
        self._is_backpressured = False
        self.process_next()

    def data_received(self, data: bytes) -> None:
        """Called when the client sends bytes."""
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
        """Process the next request, if it is complete and none is in progress."""
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

    async def _respond(self, key: str | None, request_body: bytes) -> None:
        started = time.perf_counter()
        status, content_type, headers = HTTPStatus.OK, JSON, dict[str, str]()
        try:
            body = await self._connections.reports.ingest(key, request_body)
        except HTTPProblem as problem:
            status, content_type, headers = HTTPStatus(problem.status), PROBLEM_JSON, problem.headers()
            body = problem_json(status, problem.code, problem.detail, problem.field)
        if self._connections.closing:
            headers = {**headers, "Connection": "close"}
        if not self._transport.is_closing():
            self._transport.write(_encode_response(status, content_type, headers, body))
        metrics.REQUESTS.labels("POST", REPORTS_PATH, int(status)).inc()
        _DURATION.observe(time.perf_counter() - started)

    def _on_response(self, task: asyncio.Task[None]) -> None:
        self.pending_response, self._last_activity = None, time.monotonic()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("request_failed", method="POST", route=REPORTS_PATH, exc_info=error)
            self._transport.abort()
        self.process_next()

    def check(self, now: float) -> None:
        """Close the connection if it is idle for too long; pass it to aiohttp if a request stays incomplete."""
        has_partial_request = bool(self._buffer) and not self._is_busy
        if self.pending_response is None and now - self._last_activity > (
            PARTIAL_REQUEST_TIMEOUT_S if has_partial_request else KEEPALIVE_TIMEOUT_S
        ):
            if has_partial_request:
                self._hand_to_aiohttp()
            else:
                self._transport.abort()

    def _hand_to_aiohttp(self) -> None:
        self._connections.open.discard(self)
        self._resume_reading()  # before the handoff: aiohttp may pause reading immediately
        received, self._buffer = self._buffer, b""
        self._handoff(self._transport, received)


@lru_cache(maxsize=MAX_CACHED_HEADS)
def parse_head(head: bytes) -> RequestHead | None:
    """Parse a request's head as aiohttp does; return None unless it is a simple `POST /reports`."""
    if head.splitlines() != head.split(b"\r\n"):  # aiohttp accepts other line ends, and may see the head end earlier
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
        f"Date: {_http_date(int(time.time()))}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + END_OF_HEAD + body


@lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)
