"""Which pages may ask (https://fetch.spec.whatwg.org/#http-cors-protocol), for all routes of a public listener at once.

A request that names no Origin comes from no foreign page and passes. One that names another than the allowed ones is
refused, without the headers that would let the page read why.
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from services.problems import Forbidden, Handler, route_of

EXPOSED = "ETag, Location, Preference-Applied, Retry-After"
ACCEPTED = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer"
PREFLIGHT_S = 3600  # how long a browser may remember the answer; Chromium's most is 7200


class Origins:
    """The pages that may ask; `everyone` names the routes that are no secret to any page."""

    def __init__(self, allowed: Collection[str], everyone: Collection[str] = ()) -> None:
        self._allowed = frozenset(allowed)
        self._everyone = frozenset(everyone)

    def attach(self, app: web.Application) -> None:
        """Guard an application's routes."""
        app.middlewares.append(self._guard)
        app.on_response_prepare.append(self._mark)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._allowed and not self._public(request):
            raise Forbidden("This Origin is not allowed.", code="origin_not_allowed")
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            if request.method != "OPTIONS" or origin is None:
                raise
            return self._preflight(", ".join(sorted(error.allowed_methods)))

    def _public(self, request: web.Request) -> bool:
        return route_of(request) in self._everyone

    @staticmethod
    def _preflight(methods: str) -> web.Response:
        headers = {
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": ACCEPTED,
            "Access-Control-Max-Age": str(PREFLIGHT_S),
        }
        return web.Response(status=204, headers=headers)

    async def _mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let an allowed page read the answer, problems and streams too."""
        if self._public(request):
            response.headers["Access-Control-Allow-Origin"] = "*"
            return
        origin = request.headers.get("Origin")
        response.headers.add("Vary", "Origin")
        if origin in self._allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
