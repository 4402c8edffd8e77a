"""A proxy in front of Azurite that injects faults: dropped responses, delays, 500 and 503."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

FAULTS = ("drop", "delay", "500", "503")
DELAY_RANGE_S = (0.1, 1.5)
HOP_BY_HOP_HEADERS = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive"})
# Headers that aiohttp would add, although the request's signature covers them.
CLIENT_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
KEEPALIVE_TIMEOUT_S = 2.0  # Azurite closes idle connections after 5 s
ProxiedResponse = tuple[int, list[tuple[str, str]], bytes]


class AzuriteProxy:
    """Forwards requests to Azurite; the seed decides which of them fail, and how."""

    def __init__(self, session: aiohttp.ClientSession, target: int, seed: int) -> None:
        self.fault_rate = 0.0  # the probability of each kind of fault
        self.requests: Counter[str] = Counter()
        self._session = session
        self._target = f"http://127.0.0.1:{target}"
        self._random = random.Random(seed)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request. Azurite has executed a request that is answered 500, but not one answered 503."""
        draw = self._random.random()
        fault = next((name for rank, name in enumerate(FAULTS, 1) if draw < rank * self.fault_rate), "none")
        delay_s = self._random.uniform(*DELAY_RANGE_S)
        self.requests[fault] += 1
        if fault == "delay":
            await asyncio.sleep(delay_s)
        if fault == "503":
            return web.Response(status=503)
        try:
            status, headers, body = await self._forward(request)
        except (ConnectionError, aiohttp.ClientError):  # the client has disconnected meanwhile, or Azurite is down
            return web.Response(status=500)
        if fault == "500":
            return web.Response(status=500)
        if fault == "drop" and request.transport is not None:
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


def _end_to_end_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP_HEADERS]


@asynccontextmanager
async def azurite_proxy(port: int, target: int, seed: int) -> AsyncIterator[AzuriteProxy]:
    """Run a proxy until the block ends; it starts without faults."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        proxy = AzuriteProxy(session, target, seed)
        runner = web.ServerRunner(web.Server(proxy.serve, access_log=None), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield proxy
        finally:
            await runner.cleanup()
