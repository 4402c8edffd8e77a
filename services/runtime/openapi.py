"""`GET /openapi.yaml`: the machine-readable description of a service's public HTTP API."""

from __future__ import annotations

from importlib.resources.abc import Traversable

from aiohttp import web


def openapi_route(document: Traversable) -> web.RouteDef:
    """Return the route that serves an OpenAPI document. The document is read once, when the route is created."""
    text = document.read_text()

    async def serve_document(_request: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/yaml", headers={"Cache-Control": "no-cache"})

    return web.get("/openapi.yaml", serve_document)
