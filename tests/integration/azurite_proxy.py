"""A proxy before Azurite, as bad as a network and a service can be: by a seed it loses answers, dawdles, and fails."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

FAULTS = ("drop", "delay", "500", "503")
DELAY_RANGE_S = (0.1, 1.5)
HOP_BY_HOP_HEADERS = frozenset(
    {"connection", "content-length", "transfer-encoding", "keep-alive"}
)  # fields of one connection alone
CLIENT_HEADERS = (
    "Accept",
    "Accept-Encoding",
    "Content-Type",
    "User-Agent",
)  # what the client would add by itself, and is signed
KEEPALIVE_TIMEOUT_S = 2.0  # Azurite closes after 5
ProxiedResponse = tuple[int, list[tuple[str, str]], bytes]


class AzuriteProxy:
    """Relays requests, each of them with a chance of each fault."""

    def __init__(self, session: aiohttp.ClientSession, target: int, seed: int) -> None:
        self.fault_rate = 0.0  # of each fault, from now on
        self.requests: Counter[str] = Counter()
        self._session = session
        self._target = f"http://127.0.0.1:{target}"
        self._random = random.Random(seed)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request: 500 is said of what has been done, 503 of what has not."""
        random_number = self._random.random()
        fault = next((name for rank, name in enumerate(FAULTS, 1) if random_number < rank * self.fault_rate), "none")
        delay_s = self._random.uniform(*DELAY_RANGE_S)
        self.requests[fault] += 1
        if fault == "delay":
            await asyncio.sleep(delay_s)
        if fault == "503":
            return web.Response(status=503)
        try:
            status, fields, body = await self._relay(request)
        except (ConnectionError, aiohttp.ClientError):  # whoever asked has gone meanwhile, or Azurite has
            return web.Response(status=500)
        if fault == "500":
            return web.Response(status=500)
        if fault == "drop" and request.transport is not None:
            request.transport.abort()
        return web.Response(status=status, headers=fields, body=body)

    async def _relay(self, request: web.BaseRequest) -> ProxiedResponse:
        sent = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP_HEADERS]
        url, body = URL(self._target + request.raw_path, encoded=True), await request.read()
        async with self._session.request(
            request.method,
            url,
            headers=sent,
            data=body or None,
            skip_auto_headers=CLIENT_HEADERS,
            allow_redirects=False,
        ) as response:
            fields = [
                (name, value) for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP_HEADERS
            ]
            return response.status, fields, await response.read()


@asynccontextmanager
async def azurite_proxy(port: int, target: int, seed: int) -> AsyncIterator[AzuriteProxy]:
    """Run a proxy until the block ends; it begins without faults."""
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
