"""A client that hangs up in the middle of a request is no error of the server."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.runtime.aiohttp_adapter import is_disconnected
from services.runtime.errors import PayloadTooLarge
from services.runtime.logs import HangUpFilter
from services.runtime.middleware import access_log_middleware, error_middleware
from services.runtime.request import read_body
from services.runtime.service import start_listener
from tests.waiting import PATIENCE_S, free_ports, wait_until

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST instead of FIN
BODIES = {
    "a body with a length": b"Content-Length: 100\r\n\r\n{",
    "no body yet": b"Content-Length: 100\r\n\r\n",
    "half a chunk": b"Transfer-Encoding: chunked\r\n\r\n20\r\nabc",
    "a whole chunk": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "an unfinished last chunk": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    "100-continue": b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n",
}


class Server:
    """A listener of a service. Its handlers read the body at once, after a loss, or not at all; or start a stream."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.entered = asyncio.Event()
        paths = {"/reads": self.read, "/reads-late": self.read_late, "/rejects": self.reject, "/streams": self.stream}
        self.app = web.Application(middlewares=[access_log_middleware, error_middleware])
        self.app.add_routes([web.post(path, handler) for path, handler in paths.items()])
        self.app.add_routes([web.post("/crashes", self.crash)])
        self.paths = list(paths)

    async def read(self, request: web.Request) -> web.Response:
        """Read the body."""
        self.entered.set()
        return web.json_response(len(await read_body(request, 1000)))

    async def read_late(self, request: web.Request) -> web.Response:
        """Read the body after the connection is lost."""
        self.entered.set()
        await wait_until(lambda: is_disconnected(request))
        return await self.read(request)

    async def reject(self, _request: web.Request) -> web.Response:
        """Do not read the body."""
        self.entered.set()
        raise PayloadTooLarge("It is too large.")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Start a response after the connection is lost."""
        self.entered.set()
        await wait_until(lambda: is_disconnected(request))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        return response

    async def crash(self, request: web.Request) -> web.Response:
        """Raise an unexpected exception after the connection is lost."""
        self.entered.set()
        await wait_until(lambda: is_disconnected(request))
        raise ValueError

    async def hang_up(self, path: str, body: bytes, *, at_once: bool, reset: bool) -> None:
        """Send a request with a part of its body, and close the connection."""
        self.entered.clear()
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", self.port))
            await loop.sock_sendall(client, f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode() + body)
            if not at_once:
                await asyncio.wait_for(self.entered.wait(), PATIENCE_S)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Run a listener."""
    server = Server()
    async with AsyncExitStack() as stack:
        await start_listener(stack, server.app, "127.0.0.1", server.port, "PORT")
        yield server


def count(path: str, code: int) -> float:
    """Return how many requests to a path were counted with a status."""
    labels = {"method": "POST", "route": path, "code": str(code)}
    return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_hang_up_is_no_server_error(server: Server, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted as 499 at most, and nothing is logged as an error, whenever and however the client hangs up."""
    before = {path: count(path, 499) for path in server.paths}
    with capture_logs() as lines, caplog.at_level(logging.WARNING):
        for path in server.paths:
            for at_once in (True, False):
                for reset in (True, False):
                    await server.hang_up(path, body, at_once=at_once, reset=reset)
        certain = [path for path in server.paths if path != "/rejects"]
        await wait_until(lambda: all(count(path, 499) >= before[path] + 2 for path in certain))
    records = [record for record in caplog.records if record.name.startswith("aiohttp")]  # not those of other tests
    assert list(filter(HangUpFilter().filter, records)) == []
    assert [line for line in lines if line["log_level"] not in ("info", "debug")] == []
    assert {line["status"] for line in lines} <= {499, 413}
    assert all(count(path, code) == 0 for path in server.paths for code in (400, 500))


async def test_bug_of_a_disconnected_request_is_logged(server: Server) -> None:
    """Only the loss of the connection is expected; any other exception of the handler is an error."""
    with capture_logs() as lines:
        await server.hang_up("/crashes", BODIES["no body yet"], at_once=False, reset=False)
        await wait_until(lambda: lines[-1:] and lines[-1]["event"] == "request_answered")
    assert [line["event"] for line in lines] == ["request_failed", "request_answered"]
