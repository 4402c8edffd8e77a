"""Inlets on real connections: what they answer themselves, what they leave to aiohttp, and how long they wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from services.notifier.ingest import report_connections as module
from services.notifier.ingest.report_connections import ReportConnections, RequestHead, parse_head
from services.runtime.errors import ServiceUnavailable, Unauthorized
from services.runtime.service import KEEPALIVE_TIMEOUT_S
from tests.waiting import wait_until

KEY = "secret"
BATCH = b'["a batch"]'


class Reports:
    """Takes any batch with the key, and answers when it is told to."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.verdicts = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def ingest(self, key: str | None, body: bytes) -> bytes:
        """Let in who has the key, and answer with what was sent."""
        if key != KEY:
            raise Unauthorized("no")
        self.kept.append(body)
        await self.verdicts.acquire()
        if self.error is not None:
            raise self.error
        return b"[" + body + b"]"


class Client:
    """A connection to the inlets, and what is given to aiohttp of it."""

    def __init__(self, inlets: ReportConnections) -> None:
        self._inlets = inlets
        self.handed_over: list[bytes] = []
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._server: asyncio.Server

    async def open(self) -> None:
        """Connect."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._inlets(self._serve), "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)

    def _serve(self, transport: asyncio.Transport, came: bytes) -> None:
        self.handed_over.append(came)
        transport.set_protocol(asyncio.Protocol())

    def send(self, *data: bytes) -> None:
        """Write bytes."""
        self.writer.write(b"".join(data))

    async def answer(self) -> tuple[bytes, bytes]:
        """Read one answer: its head, and its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head, await self.reader.readexactly(size)

    async def close(self) -> None:
        """Leave."""
        self._server.close()
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.fixture
def reports() -> Reports:
    """Take batches."""
    return Reports()


@pytest.fixture
def inlets(reports: Reports) -> ReportConnections:
    """Make the house of connections."""
    return ReportConnections(reports)  # type: ignore[arg-type]


@pytest.fixture
async def client(inlets: ReportConnections) -> AsyncIterator[Client]:
    """Connect."""
    client = Client(inlets)
    await client.open()
    yield client
    await client.close()


def request(body: bytes = BATCH, *more: bytes, key: str = KEY, line: bytes = b"POST /reports HTTP/1.1") -> bytes:
    """Spell a request as a worker does."""
    head = [line, b"Host: notifier", b"Authorization: Bearer " + key.encode(), b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*head, *more, b"", body])


async def test_requests_are_answered_one_after_the_other(
    client: Client, reports: Reports, inlets: ReportConnections
) -> None:
    """What comes behind a request waits until that is answered, and the connection stays."""
    client.send(request(b'["1"]'), request(b'["2"]'))
    await wait_until(lambda: reports.kept)
    reports.verdicts.release()
    head, body = await client.answer()
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: ")
    assert body == b'[["1"]]'
    await wait_until(lambda: len(reports.kept) == 2)
    client.send(request(b'["3"]'))
    reports.verdicts.release()
    reports.verdicts.release()
    assert [(await client.answer())[1] for _ in range(2)] == [b'[["2"]]', b'[["3"]]']
    assert client.handed_over == []
    assert len(inlets.open) == 1
    await client.close()
    await wait_until(lambda: not inlets.open)


async def test_a_batch_may_come_in_parts(client: Client, reports: Reports) -> None:
    """However its body is cut, it is one request."""
    whole = request()
    start = len(whole) - len(BATCH)
    for cut in (start, start + 1, len(whole) - 1):
        client.send(whole[:cut])
        await client.writer.drain()
        client.send(whole[cut:], request())
        reports.verdicts.release()
        reports.verdicts.release()
        assert [(await client.answer())[1] for _ in range(2)] == 2 * [b"[" + BATCH + b"]"]
    assert client.handed_over == []


@pytest.mark.parametrize(
    "other",
    [
        b"GET /livez HTTP/1.1\r\nHost: notifier\r\n\r\n",
        request(line=b"POST /reports HTTP/1.0"),
        request(line=b"PUT /reports HTTP/1.1"),
        request(line=b"POST /reports?a=b HTTP/1.1"),
        request(BATCH, b"Connection: close"),
        request(BATCH, b"Expect: 100-continue"),
        request(BATCH, b"Content-Encoding: gzip"),
        request(BATCH, b"Content-Length: 3"),
        request(BATCH, b"Transfer-Encoding: chunked"),
        request(BATCH, b"X: " + b"y" * module.MAX_HEAD_BYTES),
        request(BATCH, b"Folded: a\r\n b"),
        request(b""),
        request().replace(b"\r\n", b"\n", 1),
        b"\r\n\r\n" + request(),
        b"\x16\x03\x01 no HTTP at all\r\n\r\n",
        b"PO",
    ],
)
async def test_whatever_is_not_plain_is_aiohttps(client: Client, reports: Reports, other: bytes) -> None:
    """It gets all that came of it, and what comes behind; nothing of it is taken before."""
    client.send(request())
    reports.verdicts.release()
    await client.answer()
    client.send(other)
    await wait_until(lambda: client.handed_over == [other])
    assert reports.kept == [BATCH]


async def test_whatever_waits_behind_a_request_is_aiohttps_after_its_answer(client: Client, reports: Reports) -> None:
    """Answers keep the order of the requests."""
    other = b"GET /livez HTTP/1.1\r\nHost: notifier\r\n\r\n"
    client.send(request(), other)
    await wait_until(lambda: reports.kept)
    assert client.handed_over == []
    reports.verdicts.release()
    assert (await client.answer())[1] == b"[" + BATCH + b"]"
    await wait_until(lambda: client.handed_over == [other])


class Slow(Client):
    """Gives what is not plain to somebody who has enough at once, as aiohttp has of many requests."""

    def _serve(self, transport: asyncio.Transport, came: bytes) -> None:
        self.was_reading = transport.is_reading()
        super()._serve(transport, came)
        transport.pause_reading()


async def test_who_is_given_a_connection_may_stop_reading(inlets: ReportConnections, reports: Reports) -> None:
    """It gets one that is read, and nothing here makes it read on."""
    client = Slow(inlets)
    await client.open()
    client.send(request())
    await wait_until(lambda: reports.kept)
    (inlet,) = inlets.open
    client.send(b"GET /livez HTTP/1.1\r\n\r\n")
    await wait_until(lambda: not inlet._transport.is_reading())
    reports.verdicts.release()
    await wait_until(lambda: client.handed_over)
    assert client.was_reading
    assert not inlet._transport.is_reading()
    inlet._transport.abort()  # who is not read does not hear that the other side leaves
    await client.close()


async def test_doubt_is_told_and_the_connection_stays(client: Client, reports: Reports) -> None:
    """The answer is a problem with the time to come back after, and the next batch is taken."""
    reports.error = ServiceUnavailable("away", retry_after_s=1)
    client.send(request())
    reports.verdicts.release()
    head, body = await client.answer()
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert b'"code":"unavailable","detail":"away"' in body
    reports.error = None
    client.send(request())
    reports.verdicts.release()
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_refused_batch_is_told_and_the_connection_stays(client: Client, reports: Reports) -> None:
    """However many of them come at once, each has its problem."""
    client.send(*(1_000 * [request(key="another")]), request())
    for _ in range(1_000):
        head, body = await client.answer()
        assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\n")
        assert b"\r\nWWW-Authenticate: Bearer\r\n" in head
        assert b'"code":"unauthorized"' in body
    reports.verdicts.release()
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.handed_over == []


async def test_a_fault_of_ours_ends_the_connection(
    client: Client, reports: Reports, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who reported does not wait for ever, and the log tells why."""
    reports.error = ZeroDivisionError("a fault")
    client.send(request())
    reports.verdicts.release()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await client.answer()
    assert "request_failed" in capsys.readouterr().out


async def test_a_silent_connection_is_closed(client: Client, reports: Reports, inlets: ReportConnections) -> None:
    """After the time that aiohttp gives to one; while a batch is being kept, nobody is silent."""
    client.send(request())
    await wait_until(lambda: reports.kept)
    (inlet,) = inlets.open
    inlet.check(float("inf"))
    reports.verdicts.release()
    await client.answer()
    loop_time = asyncio.get_running_loop().time()
    inlet.check(loop_time + KEEPALIVE_TIMEOUT_S / 2)
    assert len(inlets.open) == 1
    inlet.check(loop_time + KEEPALIVE_TIMEOUT_S + 1)
    await wait_until(lambda: not inlets.open)
    assert client.handed_over == []


async def test_a_request_that_does_not_come_whole_is_aiohttps(client: Client, inlets: ReportConnections) -> None:
    """It has its own time for such, and tells when that is over."""
    part = request()[:-1]
    client.send(part)
    await wait_until(lambda: inlets.open)
    (inlet,) = inlets.open
    await wait_until(lambda: inlet._buffer)
    inlet.check(asyncio.get_running_loop().time() + module.PARTIAL_REQUEST_TIMEOUT_S + 0.1)
    assert client.handed_over == [part]
    assert not inlets.open


async def test_who_takes_no_answers_is_not_read(client: Client, reports: Reports, inlets: ReportConnections) -> None:
    """Neither requests nor answers gather here; who stays like that is cut off."""
    client.send(request())
    reports.verdicts.release()
    await client.answer()
    (inlet,) = inlets.open
    inlet.pause_writing()
    for _ in range(1_000):
        client.send(request(b'["%b"]' % (b"x" * 60_000)))
    await wait_until(lambda: not inlet._transport.is_reading())
    assert len(inlet._buffer) < 1_000_000
    assert reports.kept == [BATCH]
    inlet.check(asyncio.get_running_loop().time() + module.PARTIAL_REQUEST_TIMEOUT_S + 0.1)
    assert client.handed_over == []
    inlet.resume_writing()
    await wait_until(lambda: len(reports.kept) == 2)
    reports.verdicts.release()
    inlet.pause_writing()
    await wait_until(lambda: inlet.pending_response is None)
    inlet.check(asyncio.get_running_loop().time() + KEEPALIVE_TIMEOUT_S + 0.1)
    await wait_until(lambda: not inlets.open)


async def test_the_end_waits_for_answers(client: Client, reports: Reports, inlets: ReportConnections) -> None:
    """What is being kept is answered, as the last over its connection; who is silent is closed at once."""
    silent = Client(inlets)
    await silent.open()
    silent.send(request())
    reports.verdicts.release()
    await silent.answer()
    client.send(request(), request())
    await wait_until(lambda: len(reports.kept) == 2)
    async with inlets:
        end = asyncio.create_task(inlets.__aexit__())
        assert await silent.reader.read() == b""
        assert not end.done()
        reports.verdicts.release()
        await end
    head, body = await client.answer()
    assert b"\r\nConnection: close\r\n" in head
    assert body == b"[" + BATCH + b"]"
    assert await client.reader.read() == b""
    assert len(reports.kept) == 2
    await silent.close()


async def test_a_head_is_read_once() -> None:
    """Case and order of its lines do not matter; workers send the same ones over and over."""
    head, _, body = request().partition(b"\r\n\r\n")
    assert parse_head(head) == RequestHead(KEY, len(body))
    hits = parse_head.cache_info().hits
    assert parse_head(bytes(bytearray(head))) == RequestHead(KEY, len(body))
    assert parse_head.cache_info().hits == hits + 1
    assert parse_head(
        b"POST /reports HTTP/1.1\r\nCONTENT-LENGTH: 7\r\nauthorization:bearer k\r\nhost:a"
    ) == RequestHead("k", 7)
    assert parse_head(b"POST /reports HTTP/1.1\r\nHost: a\r\nContent-Length: 7") == RequestHead(None, 7)
