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

from headway.contracts import BATCH_BYTES
from services.notifier.reports import REPORTS, Reports
from services.runtime import metrics
from services.runtime.errors import PROBLEM_JSON, HTTPProblem, problem_json
from services.runtime.request import JSON, parse_bearer
from services.runtime.request_timeout import END_OF_HEAD, Handoff
from services.runtime.service import KEEPALIVE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S

log: structlog.stdlib.BoundLogger = structlog.get_logger()

HEAD_BYTES = 2048  # of a worker's head; who says more is no worker
HEADS = 1024  # different ones: those of one worker differ in the length of what follows
PART_S = 1.0  # for the rest of a batch; then aiohttp waits for it
TICK_S = 1.0

_DURATION = metrics.REQUEST_DURATION.labels("POST", REPORTS)


class Head(NamedTuple):
    """What a plain request says before its batch."""

    key: str | None
    size: int  # bytes of the batch


class Inlets:
    """All connections that reports may come over."""

    def __init__(self, reports: Reports) -> None:
        self.reports = reports
        self.open: set[Inlet] = set()
        self.closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close all connections, where a batch is being kept after its answer."""
        self.closing = True
        answering = [inlet.answering for inlet in self.open if inlet.answering is not None]
        for inlet in list(self.open):
            inlet.next()
        if answering:
            await asyncio.wait(answering, timeout=SHUTDOWN_TIMEOUT_S)

    def __call__(self, serve: Handoff) -> Inlet:
        """Make what a new connection speaks to first."""
        return Inlet(self, serve)

    async def sweep(self) -> None:
        """See after all connections for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for inlet in list(self.open):
                inlet.check(now)


class Inlet(asyncio.Protocol):
    """One connection: it takes a request when the one before is answered, and nothing waits in it but the next."""

    def __init__(self, house: Inlets, serve: Handoff) -> None:
        self._house = house
        self._serve = serve
        self._came = b""  # of requests that are still to be answered
        self._since = time.monotonic()  # when the first of them began to come, or the last answer went
        self._full = False  # whether answers are not taken
        self._transport: asyncio.Transport
        self.answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._house.open.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """End."""
        self._house.open.discard(self)

    def pause_writing(self) -> None:
        """Take that answers are not taken."""
        self._full = True

    def resume_writing(self) -> None:
        """Take that they are again."""
        self._full = False
        self.next()

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        if self._came:
            self._came += data
        else:
            self._came, self._since = data, time.monotonic()
        if self._busy:
            self._transport.pause_reading()
        else:
            self.next()

    @property
    def _busy(self) -> bool:
        return self._full or self.answering is not None

    def next(self) -> None:
        """Take the next request, if it is there."""
        if self._busy or self._transport.is_closing():
            return
        if self._house.closing:
            self._transport.close()
            return
        if self._came:
            self._read()
        if not self._busy and self in self._house.open:
            self._go_on_reading()

    def _go_on_reading(self) -> None:
        if not self._transport.is_reading():
            self._transport.resume_reading()

    def _read(self) -> None:
        head, end, rest = self._came.partition(END_OF_HEAD)
        plain = read_head(head) if end and len(head) <= HEAD_BYTES else None
        if plain is None:
            self._hand_over()
        elif len(rest) >= plain.size:
            self._came = rest[plain.size :]
            self.answering = asyncio.get_running_loop().create_task(self._answer(plain.key, rest[: plain.size]))
            self.answering.add_done_callback(self._answered)

    async def _answer(self, key: str | None, batch: bytes) -> None:
        started = time.perf_counter()
        status, kind, more = HTTPStatus.OK, JSON, dict[str, str]()
        try:
            body = await self._house.reports.keep(key, batch)
        except HTTPProblem as problem:
            status, kind, more = HTTPStatus(problem.status), PROBLEM_JSON, problem.headers()
            body = problem_json(status, problem.code, problem.detail, problem.field)
        if self._house.closing:
            more = {**more, "Connection": "close"}
        if not self._transport.is_closing():
            self._transport.write(_spelt(status, kind, more, body))
        metrics.REQUESTS.labels("POST", REPORTS, int(status)).inc()
        _DURATION.observe(time.perf_counter() - started)

    def _answered(self, done: asyncio.Task[None]) -> None:
        self.answering, self._since = None, time.monotonic()
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("request_failed", method="POST", route=REPORTS, exc_info=error)
            self._transport.abort()
        self.next()

    def check(self, now: float) -> None:
        """Let go of a connection over which nothing comes, and leave a request that comes in part to aiohttp."""
        partly = bool(self._came) and not self._busy
        if self.answering is None and now - self._since > (PART_S if partly else KEEPALIVE_TIMEOUT_S):
            if partly:
                self._hand_over()
            else:
                self._transport.abort()

    def _hand_over(self) -> None:
        self._house.open.discard(self)
        self._go_on_reading()  # now: whether it goes on is aiohttp's to say as soon as it is served
        came, self._came = self._came, b""
        self._serve(self._transport, came)


@lru_cache(maxsize=HEADS)
def read_head(head: bytes) -> Head | None:
    """Read a request's head, as aiohttp does; None when it is not one that is plain, or none at all."""
    if head.splitlines() != head.split(b"\r\n"):  # some line ends otherwise, and the head may end before
        return None
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, BATCH_BYTES)
    try:
        ((message, _body),), _, _ = parser.feed_data(head + END_OF_HEAD)
    except (HttpProcessingError, ValueError):
        return None
    headers = message.headers
    if (message.method, message.path, message.version) != ("POST", REPORTS, HttpVersion11) or "Expect" in headers:
        return None
    if message.should_close or message.upgrade or message.chunked or message.compression:
        return None
    size = int(headers.get("Content-Length", 0))
    return Head(parse_bearer(headers.get("Authorization", "")), size) if 0 < size <= BATCH_BYTES else None


def _spelt(status: HTTPStatus, kind: str, more: dict[str, str], body: bytes) -> bytes:
    """Spell an answer."""
    told = "".join(f"{name}: {value}\r\n" for name, value in more.items())
    head = f"HTTP/1.1 {status:d} {status.phrase}\r\nContent-Type: {kind}\r\nDate: {_date(int(time.time()))}\r\n{told}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
