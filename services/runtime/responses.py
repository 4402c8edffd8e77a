"""Responses that several handlers send."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from headway.contracts import encode

from .request import JSON

NO_STORE = {"Cache-Control": "no-store"}  # of a response with a token, or with what changes at any time


def no_store_json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a response with a value as JSON, which no cache may store."""
    return web.Response(status=status, body=encode(value), content_type=JSON, headers={**NO_STORE, **(headers or {})})
