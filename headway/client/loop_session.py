"""The HTTP session of a client, which belongs to the event loop in which the client was opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from headway.client.retries import Response, respond_with_retry

NOT_OPEN = "The client is not open; use it inside `async with client:`"
ALREADY_OPEN = "The client is already open; create another client for a second `async with` block"
OTHER_LOOP = (
    "The client is open in another event loop; open a client in each loop, or share a SyncClient between threads"
)
CLOSED = "The client was closed; open it again with `async with client:`"


class LoopSession:
    """An HTTP session that explains in its errors how to use the client."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Open the session in the running event loop."""
        if self._session is not None:
            raise RuntimeError(ALREADY_OPEN)
        self._loop = asyncio.get_running_loop()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """Refuse further use, and close the session at the end of the block."""
        session, self._session = self.get(), None
        async with session:
            yield

    def get(self) -> aiohttp.ClientSession:
        """Return the open session.

        Raises:
            RuntimeError: it is not open, or it is open in another event loop.
        """
        if self._session is None:
            raise RuntimeError(NOT_OPEN)
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(OTHER_LOOP)
        return self._session

    async def respond(self, method: str, url: str, **options: Any) -> Response:
        """Send a request with retries, as `respond_with_retry` does.

        Raises:
            RuntimeError: as for `get`, or the client was closed meanwhile.
        """
        session = self.get()
        try:
            return await respond_with_retry(session, method, url, **options)
        except RuntimeError:
            if session.closed:
                raise RuntimeError(CLOSED) from None
            raise
