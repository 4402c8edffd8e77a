"""The contract with aiohttp: the behavior beyond its documentation on which the adapter relies, on a real server.

Each test fails if a new version of aiohttp changes that behavior, or renames an attribute that the adapter uses.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import tomllib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import aiohttp
import pytest
from aiohttp import web

from dev.environment import ROOT
from services.runtime.aiohttp_adapter import (
    MALFORMED_REQUEST,
    MIN_VERSION,
    NEXT_VERSION,
    attach,
    check_version,
    close_idle_connections,
    detach,
    encode_chunk,
    start_stream,
)
from tests.waiting import PATIENCE_S, wait_until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Client:
    """A raw connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def expect(self, data: bytes) -> None:
        """Read exactly these bytes."""
        assert await asyncio.wait_for(self.reader.readexactly(len(data)), PATIENCE_S) == data

    async def read_all(self) -> bytes:
        """Read until the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE_S)


class Attaching(asyncio.Protocol):
    """Passes a new connection to aiohttp when its first bytes arrive."""

    def __init__(self, runner: web.AppRunner) -> None:
        self.runner = runner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not attach(self.runner, self.transport, data):
            self.transport.close()


class Server:
    """An application with one handler, whose connections are passed to aiohttp by `attach`."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self.runner = runner
        self.port = port

    @asynccontextmanager
    async def client(self, data: bytes = b"") -> AsyncIterator[Client]:
        """Connect and send bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Server]:
    """Serve one handler for all requests."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
    await runner.setup()
    listener = await asyncio.get_running_loop().create_server(lambda: Attaching(runner), "127.0.0.1", 0)
    try:
        yield Server(runner, listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        await runner.cleanup()


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.transport.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()


# Versions


def test_the_range_of_versions_is_the_one_in_pyproject() -> None:
    """Every extra that needs aiohttp has the range that the adapter checks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [name for extra in project["optional-dependencies"].values() for name in extra]
    ranges = {requirement for requirement in requirements if re.match(r"aiohttp\b", requirement)}
    assert ranges == {"aiohttp>={}.{},<{}.{}".format(*MIN_VERSION, *NEXT_VERSION)}
    check_version(aiohttp.__version__)


@pytest.mark.parametrize("version", ["3.13.9", "3.15.0", "3.15.0a1", "4.0.0a2.dev0", "2.3"])
def test_another_version_is_rejected(version: str) -> None:
    """The error names the range and the installed version."""
    with pytest.raises(ImportError, match=re.escape(f"aiohttp >=3.14,<3.15; installed is {version}")):
        check_version(version)


# detach


@pytest.mark.parametrize("tail_bytes", [0, 5, 1024 * 1024])
async def test_a_detached_connection_belongs_to_its_protocol(tail_bytes: int) -> None:
    """It gets all bytes after the request, also when aiohttp has paused reading, and aiohttp writes nothing more."""
    echo, tail = Echo(), tail_bytes * b"x"

    async def handler(request: web.Request) -> web.StreamResponse:
        transport = cast(asyncio.Transport, request.transport)
        await wait_until(lambda: len(tail) < 1024 or not transport.is_reading())  # aiohttp stops reading a long tail
        return detach(request, SWITCH, echo)

    async with serving(handler) as server, server.client(UPGRADE + tail) as client:
        await client.expect(SWITCH + tail)
        client.writer.write(b"later")
        await client.expect(b"later")
        assert echo.received == tail + b"later"
        client.writer.write_eof()
        assert await client.read_all() == b""
        await echo.lost.wait()


async def test_aiohttp_forgets_a_detached_connection() -> None:
    """Nothing of its request remains, and the connection stays open when the server has stopped."""
    echo, requests = Echo(), list[weakref.ref[web.Request]]()

    async def handler(request: web.Request) -> web.StreamResponse:
        requests.append(weakref.ref(request))
        return detach(request, SWITCH, echo)

    async with serving(handler) as server, server.client(UPGRADE) as client:
        await client.expect(SWITCH)
        assert server.runner.server is not None

        def forgotten() -> bool:
            gc.collect()
            return requests[0]() is None and not cast(web.Server, server.runner.server).connections

        await wait_until(forgotten)
        await server.runner.cleanup()
        client.writer.write(b"still open")
        await client.expect(b"still open")


async def test_a_lost_connection_is_not_detached() -> None:
    """The handler gets ConnectionResetError, which aiohttp ignores."""
    arrived, errors = asyncio.Event(), list[BaseException]()

    async def handler(request: web.Request) -> web.StreamResponse:
        arrived.set()
        transport = request.transport
        assert transport is not None
        await wait_until(transport.is_closing)
        try:
            return detach(request, SWITCH, Echo())
        except ConnectionResetError as error:
            errors.append(error)
            raise

    async with serving(handler) as server:
        async with server.client(UPGRADE):
            await arrived.wait()
        await wait_until(lambda: errors)


# attach


async def test_an_attached_connection_is_served() -> None:
    """Aiohttp handles the bytes that have already arrived, and those that follow."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=request.method.encode() + await request.read())

    async with serving(handler) as server, server.client(b"POST / HTTP/1.1\r\nHo") as client:
        await asyncio.sleep(0)
        client.writer.write(b"st: x\r\nContent-Length: 2\r\n\r\nab" + GET)
        text = await client.read_all()
        assert re.findall(rb"HTTP/1.1 200 OK\r\n.*?\r\n\r\n(\w+?)(?=HTTP|$)", text, re.DOTALL) == [b"POSTab", b"GET"]


async def test_an_attached_connection_is_drained() -> None:
    """A stopping server answers the request in progress; afterwards it accepts no connection."""
    arrived, proceed = asyncio.Event(), asyncio.Event()

    async def handler(_request: web.Request) -> web.StreamResponse:
        arrived.set()
        await proceed.wait()
        return web.Response(body=b"done")

    async with serving(handler) as server, server.client(GET) as client:
        await arrived.wait()
        stopping = asyncio.ensure_future(server.runner.cleanup())
        await asyncio.sleep(0)
        proceed.set()
        assert (await client.read_all()).endswith(b"\r\n\r\ndone")
        await stopping
        async with server.client(GET) as late:
            assert await late.read_all() == b""


# start_stream


@pytest.mark.parametrize(("version", "is_chunked"), [("1.1", True), ("1.0", False)])
async def test_a_stream_is_written_beneath_aiohttp(version: str, *, is_chunked: bool) -> None:
    """Data that is written to the transport appears in order, between what aiohttp writes."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response, chunked = await start_stream(request, {"Content-Type": "text/event-stream"}, b"first ")
        assert (chunked, request.transport is not None) == (is_chunked, True)
        transport = cast(asyncio.Transport, request.transport)
        for data in (b"second ", b"third "):
            transport.write(encode_chunk(data) if chunked else data)
        await asyncio.sleep(0)
        await response.write(b"fourth")
        return response

    async with serving(handler) as server:
        async with server.client(f"GET / HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as client:
            head, _, body = (await client.read_all()).partition(b"\r\n\r\n")
        assert b"\r\ncontent-type: text/event-stream" in head.lower()
        assert (b"\r\ntransfer-encoding: chunked" in head.lower()) == is_chunked
        chunks = b"6\r\nfirst \r\n7\r\nsecond \r\n6\r\nthird \r\n6\r\nfourth\r\n0\r\n\r\n"
        assert body == (chunks if is_chunked else b"first second third fourth")


# MALFORMED_REQUEST


async def test_errors_of_a_body_are_malformed_requests() -> None:
    """Reading a body that is not encoded as its header says raises one of them."""
    errors = list[BaseException]()

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return web.Response(body=await request.read())
        except MALFORMED_REQUEST as error:
            errors.append(error)
            return web.Response(status=400)

    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"
    async with serving(handler) as server, server.client(head + b"nope") as client:
        assert (await client.read_all()).startswith(b"HTTP/1.1 400 ")
    assert errors


async def test_errors_of_a_head_are_malformed_requests(caplog: pytest.LogCaptureFixture) -> None:
    """Aiohttp logs them with their exception, by which the services recognize them."""

    async def handler(_request: web.Request) -> web.StreamResponse:
        raise AssertionError

    with caplog.at_level(logging.DEBUG, "aiohttp.server"):
        async with serving(handler) as server, server.client(b"garbage\r\n\r\n") as client:
            assert (await client.read_all()).startswith(b"HTTP/1.0 400 ")
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged
    assert all(isinstance(error, MALFORMED_REQUEST) for error in logged)


async def test_idle_connections_of_a_client_are_closed() -> None:
    """The next request opens a new connection; without the call it would use the same one again."""
    clients = []

    async def record_client(request: web.Request) -> web.Response:
        clients.append(request.get_extra_info("peername"))
        return web.Response()

    async with serving(record_client) as server, aiohttp.ClientSession() as session:
        for number in range(4):
            if number == 2:
                close_idle_connections(session)
            async with session.get(f"http://127.0.0.1:{server.port}/") as response:
                await response.read()
    assert clients[0] == clients[1] != clients[2] == clients[3]
