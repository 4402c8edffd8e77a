"""The fast path of `POST /reports` on real connections: responses, the handoff to aiohttp, and timeouts."""

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
BODY = b'["a report"]'


class FakeReportHandler:
    """A handler that records the bodies sent with the key, and returns verdicts when a test releases them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.verdicts = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def ingest(self, key: str | None, body: bytes) -> bytes:
        """Return the body as the verdicts; raise Unauthorized for a wrong key."""
        if key != KEY:
            raise Unauthorized("no")
        self.bodies.append(body)
        await self.verdicts.acquire()
        if self.error is not None:
            raise self.error
        return b"[" + body + b"]"


class Client:
    """A worker's connection, and the bytes of it that passed to aiohttp."""

    def __init__(self, connections: ReportConnections) -> None:
        self._connections = connections
        self.handed_over: list[bytes] = []
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._server: asyncio.Server

    async def open(self) -> None:
        """Start the server and connect."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._connections(self._serve), "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)

    def _serve(self, transport: asyncio.Transport, received: bytes) -> None:
        self.handed_over.append(received)
        transport.set_protocol(asyncio.Protocol())

    def send(self, *data: bytes) -> None:
        """Send bytes."""
        self.writer.write(b"".join(data))

    async def read_response(self) -> tuple[bytes, bytes]:
        """Return the next response: its head and its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head, await self.reader.readexactly(size)

    async def close(self) -> None:
        """Close the connection and the server."""
        self._server.close()
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.fixture
def handler() -> FakeReportHandler:
    """Return a fake report handler."""
    return FakeReportHandler()


@pytest.fixture
def connections(handler: FakeReportHandler) -> ReportConnections:
    """Return the connections of a listener."""
    return ReportConnections(handler)  # type: ignore[arg-type]


@pytest.fixture
async def client(connections: ReportConnections) -> AsyncIterator[Client]:
    """Connect a client."""
    client = Client(connections)
    await client.open()
    yield client
    await client.close()


def request(
    body: bytes = BODY, *headers: bytes, key: str = KEY, request_line: bytes = b"POST /reports HTTP/1.1"
) -> bytes:
    """Return a request as a worker sends it."""
    lines = [
        request_line,
        b"Host: notifier",
        b"Authorization: Bearer " + key.encode(),
        b"Content-Length: %d" % len(body),
    ]
    return b"\r\n".join([*lines, *headers, b"", body])


async def test_requests_are_handled_one_at_a_time(
    client: Client, handler: FakeReportHandler, connections: ReportConnections
) -> None:
    """A pipelined request waits for the response to the previous one, and the connection stays open."""
    client.send(request(b'["1"]'), request(b'["2"]'))
    await wait_until(lambda: handler.bodies)
    handler.verdicts.release()
    head, body = await client.read_response()
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: ")
    assert body == b'[["1"]]'
    await wait_until(lambda: len(handler.bodies) == 2)
    client.send(request(b'["3"]'))
    handler.verdicts.release()
    handler.verdicts.release()
    assert [(await client.read_response())[1] for _ in range(2)] == [b'[["2"]]', b'[["3"]]']
    assert client.handed_over == []
    assert len(connections.open) == 1
    await client.close()
    await wait_until(lambda: not connections.open)


async def test_a_request_may_arrive_in_parts(client: Client, handler: FakeReportHandler) -> None:
    """A request is handled once its body is complete, wherever it was split."""
    data = request()
    body_start = len(data) - len(BODY)
    for cut in (body_start, body_start + 1, len(data) - 1):
        client.send(data[:cut])
        await client.writer.drain()
        client.send(data[cut:], request())
        handler.verdicts.release()
        handler.verdicts.release()
        assert [(await client.read_response())[1] for _ in range(2)] == 2 * [b"[" + BODY + b"]"]
    assert client.handed_over == []


@pytest.mark.parametrize(
    "other_request",
    [
        b"GET /livez HTTP/1.1\r\nHost: notifier\r\n\r\n",
        request(request_line=b"POST /reports HTTP/1.0"),
        request(request_line=b"PUT /reports HTTP/1.1"),
        request(request_line=b"POST /reports?a=b HTTP/1.1"),
        request(BODY, b"Connection: close"),
        request(BODY, b"Expect: 100-continue"),
        request(BODY, b"Content-Encoding: gzip"),
        request(BODY, b"Content-Length: 3"),
        request(BODY, b"Transfer-Encoding: chunked"),
        request(BODY, b"X: " + b"y" * module.MAX_HEAD_BYTES),
        request(BODY, b"Folded: a\r\n b"),
        request(b""),
        request().replace(b"\r\n", b"\n", 1),
        b"\r\n\r\n" + request(),
        b"\x16\x03\x01 no HTTP at all\r\n\r\n",
        b"PO",
    ],
)
async def test_other_requests_pass_to_aiohttp(client: Client, handler: FakeReportHandler, other_request: bytes) -> None:
    """All bytes of such a request pass to aiohttp, and none of it is handled before."""
    client.send(request())
    handler.verdicts.release()
    await client.read_response()
    client.send(other_request)
    await wait_until(lambda: client.handed_over == [other_request])
    assert handler.bodies == [BODY]


async def test_a_pipelined_request_passes_to_aiohttp_after_the_response(
    client: Client, handler: FakeReportHandler
) -> None:
    """The responses have the order of the requests."""
    other_request = b"GET /livez HTTP/1.1\r\nHost: notifier\r\n\r\n"
    client.send(request(), other_request)
    await wait_until(lambda: handler.bodies)
    assert client.handed_over == []
    handler.verdicts.release()
    assert (await client.read_response())[1] == b"[" + BODY + b"]"
    await wait_until(lambda: client.handed_over == [other_request])


class ClientOfBusyServer(Client):
    """A client of a server that pauses reading at the handoff, as aiohttp does when it has many requests."""

    def _serve(self, transport: asyncio.Transport, received: bytes) -> None:
        self.was_reading = transport.is_reading()
        super()._serve(transport, received)
        transport.pause_reading()


async def test_aiohttp_may_pause_reading_at_the_handoff(
    connections: ReportConnections, handler: FakeReportHandler
) -> None:
    """The transport is reading when aiohttp gets it, and stays paused when aiohttp pauses it."""
    client = ClientOfBusyServer(connections)
    await client.open()
    client.send(request())
    await wait_until(lambda: handler.bodies)
    (connection,) = connections.open
    client.send(b"GET /livez HTTP/1.1\r\n\r\n")
    await wait_until(lambda: not connection._transport.is_reading())
    handler.verdicts.release()
    await wait_until(lambda: client.handed_over)
    assert client.was_reading
    assert not connection._transport.is_reading()
    connection._transport.abort()  # a paused transport does not notice that the client disconnects
    await client.close()


async def test_an_unavailable_store_is_a_problem(client: Client, handler: FakeReportHandler) -> None:
    """The response has a Retry-After, the connection stays open, and the next request is handled."""
    handler.error = ServiceUnavailable("Try again.", retry_after_s=1)
    client.send(request())
    handler.verdicts.release()
    head, body = await client.read_response()
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert b'"code":"unavailable","detail":"Try again."' in body
    handler.error = None
    client.send(request())
    handler.verdicts.release()
    assert (await client.read_response())[0].startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_rejected_request_is_a_problem(client: Client, handler: FakeReportHandler) -> None:
    """Each of a thousand pipelined requests gets its response, and the connection stays open."""
    client.send(*(1_000 * [request(key="another")]), request())
    for _ in range(1_000):
        head, body = await client.read_response()
        assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\n")
        assert b"\r\nWWW-Authenticate: Bearer\r\n" in head
        assert b'"code":"unauthorized"' in body
    handler.verdicts.release()
    assert (await client.read_response())[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.handed_over == []


async def test_an_unexpected_error_closes_the_connection(
    client: Client, handler: FakeReportHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker does not wait for a response, and the error is logged."""
    handler.error = ZeroDivisionError("a bug")
    client.send(request())
    handler.verdicts.release()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await client.read_response()
    assert "request_failed" in capsys.readouterr().out


async def test_an_idle_connection_is_closed(
    client: Client, handler: FakeReportHandler, connections: ReportConnections
) -> None:
    """The timeout is that of aiohttp, and does not apply while a request is in progress."""
    client.send(request())
    await wait_until(lambda: handler.bodies)
    (connection,) = connections.open
    connection.check(float("inf"))
    handler.verdicts.release()
    await client.read_response()
    loop_time = asyncio.get_running_loop().time()
    connection.check(loop_time + KEEPALIVE_TIMEOUT_S / 2)
    assert len(connections.open) == 1
    connection.check(loop_time + KEEPALIVE_TIMEOUT_S + 1)
    await wait_until(lambda: not connections.open)
    assert client.handed_over == []


async def test_an_incomplete_request_passes_to_aiohttp(client: Client, connections: ReportConnections) -> None:
    """After a timeout the request is left to aiohttp, which has its own timeout and response."""
    partial = request()[:-1]
    client.send(partial)
    await wait_until(lambda: connections.open)
    (connection,) = connections.open
    await wait_until(lambda: connection._buffer)
    connection.check(asyncio.get_running_loop().time() + module.PARTIAL_REQUEST_TIMEOUT_S + 0.1)
    assert client.handed_over == [partial]
    assert not connections.open


async def test_a_slow_consumer_is_not_read(
    client: Client, handler: FakeReportHandler, connections: ReportConnections
) -> None:
    """A client that reads no responses fills no buffer, and is disconnected after the timeout."""
    client.send(request())
    handler.verdicts.release()
    await client.read_response()
    (connection,) = connections.open
    connection.pause_writing()
    for _ in range(1_000):
        client.send(request(b'["%b"]' % (b"x" * 60_000)))
    await wait_until(lambda: not connection._transport.is_reading())
    assert len(connection._buffer) < 1_000_000
    assert handler.bodies == [BODY]
    connection.check(asyncio.get_running_loop().time() + module.PARTIAL_REQUEST_TIMEOUT_S + 0.1)
    assert client.handed_over == []
    connection.resume_writing()
    await wait_until(lambda: len(handler.bodies) == 2)
    handler.verdicts.release()
    connection.pause_writing()
    await wait_until(lambda: connection.pending_response is None)
    connection.check(asyncio.get_running_loop().time() + KEEPALIVE_TIMEOUT_S + 0.1)
    await wait_until(lambda: not connections.open)


async def test_closing_waits_for_responses(
    client: Client, handler: FakeReportHandler, connections: ReportConnections
) -> None:
    """A request in progress gets the last response of its connection; an idle connection is closed at once."""
    idle = Client(connections)
    await idle.open()
    idle.send(request())
    handler.verdicts.release()
    await idle.read_response()
    client.send(request(), request())
    await wait_until(lambda: len(handler.bodies) == 2)
    async with connections:
        closing = asyncio.create_task(connections.__aexit__())
        assert await idle.reader.read() == b""
        assert not closing.done()
        handler.verdicts.release()
        await closing
    head, body = await client.read_response()
    assert b"\r\nConnection: close\r\n" in head
    assert body == b"[" + BODY + b"]"
    assert await client.reader.read() == b""
    assert len(handler.bodies) == 2
    await idle.close()


async def test_a_head_is_parsed_once() -> None:
    """Workers repeat the same heads, so these are cached; the case and order of fields do not matter."""
    head, _, body = request().partition(b"\r\n\r\n")
    assert parse_head(head) == RequestHead(KEY, len(body))
    hits = parse_head.cache_info().hits
    assert parse_head(bytes(bytearray(head))) == RequestHead(KEY, len(body))
    assert parse_head.cache_info().hits == hits + 1
    assert parse_head(
        b"POST /reports HTTP/1.1\r\nCONTENT-LENGTH: 7\r\nauthorization:bearer k\r\nhost:a"
    ) == RequestHead("k", 7)
    assert parse_head(b"POST /reports HTTP/1.1\r\nHost: a\r\nContent-Length: 7") == RequestHead(None, 7)
