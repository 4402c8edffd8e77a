"""A web site of another origin, whose pages embed the element."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.web_server import serve

CONTENT_TYPES = {"js": "text/javascript", "css": "text/css"}
EMPTY_PAGE = "<!doctype html><title>Empty</title>"


class FakeSite:
    """A site that serves the pages of a test by path, and an empty page for every other path."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.pages: dict[str, str] = {}
        self.content_security_policy: str | None = None

    async def serve(self, request: web.Request) -> web.Response:
        """Respond with a page to any method."""
        text = self.pages.get(request.path, EMPTY_PAGE)
        policy = self.content_security_policy
        headers = {} if policy is None else {"Content-Security-Policy": policy}
        content_type = CONTENT_TYPES.get(request.path.rpartition(".")[2], "text/html")
        return web.Response(text=text, content_type=content_type, headers=headers)


@asynccontextmanager
async def run_site(port: int) -> AsyncIterator[FakeSite]:
    """Run a site until the block ends."""
    site = FakeSite(f"http://127.0.0.1:{port}")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.serve)
    async with serve(web.AppRunner(app), port):
        yield site
