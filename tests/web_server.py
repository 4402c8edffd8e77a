"""Serve a web application, or a low-level server, for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def serve(runner: web.BaseRunner, port: int) -> AsyncIterator[None]:
    """Listen at a port of this machine until the block ends."""
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()
