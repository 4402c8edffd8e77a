"""An HTTP proxy that injects faults: error responses of its own, lost responses, delays, and a freeze."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from aiohttp import web
from yarl import URL

from tests.web_server import serve

# A status, such as "503", is a fault, too: the proxy answers it without forwarding the request.
NONE = "none"
DROP = "drop"  # forward the request, then close the connection instead of answering
LOST = "lost"  # forward the request, then answer 500
DELAY = "delay"  # forward the request after a delay
FREEZE = "freeze"  # forward the request when the fault has passed, if the client still waits
DELAY_RANGE_S = (0.1, 1.5)
ERROR_PAGE = "<html><head><title>Error</title></head><body><center>proxy</center></body></html>"
HOP_BY_HOP_HEADERS = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive"})
# Headers that aiohttp would add, although the request's signature covers them.
CLIENT_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
KEEPALIVE_TIMEOUT_S = 2.0  # Azurite closes idle connections after 5 s
ProxiedResponse = tuple[int, list[tuple[str, str]], bytes]


class HttpProxy:
    """Forwards requests to a port of this machine; `next_fault` decides which of them fail, and how."""

    def __init__(self, session: aiohttp.ClientSession, target: int) -> None:
        self.next_fault: Callable[[], str] = _no_fault
        self.requests: Counter[str] = Counter()
        self._session = session
        self._target = f"http://127.0.0.1:{target}"
        self._thawed = asyncio.Event()

    @contextmanager
    def failing(self, fault: str) -> Iterator[None]:
        """Fail all requests in the same way until the block ends."""
        self.next_fault = lambda: fault
        self._thawed.clear()
        try:
            yield
        finally:
            self.next_fault = _no_fault
            self._thawed.set()

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request."""
        fault = self.next_fault()
        self.requests[fault] += 1
        if fault == DELAY:
            await asyncio.sleep(random.uniform(*DELAY_RANGE_S))
        elif fault == FREEZE:
            await self._thawed.wait()
        if fault.isdigit() or request.transport is None:  # without a transport, the client has disconnected
            return web.Response(
                status=int(fault) if fault.isdigit() else 499, text=ERROR_PAGE, content_type="text/html"
            )
        try:
            status, headers, body = await self._forward(request)
        except (ConnectionError, aiohttp.ClientError):  # the client has disconnected meanwhile, or the target is down
            return web.Response(status=502)
        if fault == LOST:
            return web.Response(status=500)
        if fault == DROP and request.transport is not None:
            request.transport.abort()
        return web.Response(status=status, headers=headers, body=body)

    async def _forward(self, request: web.BaseRequest) -> ProxiedResponse:
        request_headers = _end_to_end_headers(request.headers.items())
        url, body = URL(self._target + request.raw_path, encoded=True), await request.read()
        async with self._session.request(
            request.method,
            url,
            headers=request_headers,
            data=body or None,
            skip_auto_headers=CLIENT_HEADERS,
            allow_redirects=False,
        ) as response:
            return response.status, _end_to_end_headers(response.headers.items()), await response.read()


def _no_fault() -> str:
    return NONE


def _end_to_end_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP_HEADERS]


@asynccontextmanager
async def http_proxy(port: int, target: int) -> AsyncIterator[HttpProxy]:
    """Run a proxy until the block ends; it starts without faults."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        proxy = HttpProxy(session, target)
        async with serve(web.ServerRunner(web.Server(proxy.serve, access_log=None), shutdown_timeout=1), port):
            yield proxy
