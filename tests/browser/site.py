"""Other people's web sites: pages of another origin, as texts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

TYPES = {"js": "text/javascript", "css": "text/css"}


class Site:
    """Serves the pages that a test writes; what has no page of its own is an empty one."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.pages: dict[str, str] = {}
        self.policy: str | None = None

    async def serve(self, request: web.Request) -> web.Response:
        """Answer with a page, whatever the method."""
        text = self.pages.get(request.path, "<!doctype html><title>Empty</title>")
        headers = {} if self.policy is None else {"Content-Security-Policy": self.policy}
        kind = TYPES.get(request.path.rpartition(".")[2], "text/html")
        return web.Response(text=text, content_type=kind, headers=headers)


@asynccontextmanager
async def site(port: int) -> AsyncIterator[Site]:
    """Run a site until the block ends."""
    site = Site(f"http://127.0.0.1:{port}")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield site
    finally:
        await runner.cleanup()
