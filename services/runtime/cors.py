"""CORS for all routes of a public listener (https://fetch.spec.whatwg.org/#http-cors-protocol).

A request without an Origin header does not come from a page of another origin and passes. A request from an origin that
is not allowed is rejected with 403, without the headers that would let the page read the response.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from aiohttp import web

from .errors import Forbidden
from .middleware import Handler, route_template

EXPOSED_HEADERS = "Content-Range, ETag, Location, Preference-Applied, Retry-After"
ALLOWED_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, Range, "
    "X-Requested-With, X-SignalR-User-Agent"
)
PREFLIGHT_MAX_AGE_S = 3600  # browsers cache the preflight; Chromium caps it at 7200


class CorsPolicy:
    """The origins that may send requests.

    Args:
        allowed: the origins.
        public_routes: the templates of the routes that pages of every origin may load.
        credentialed_paths: matches the paths that pages may request with cookies. Some libraries always send them; they
            are not read.
        on_rejected: called with an origin that is not allowed, for each of its requests.
    """

    def __init__(
        self,
        allowed: Collection[str],
        public_routes: Collection[str] = (),
        credentialed_paths: re.Pattern[str] | None = None,
        on_rejected: Callable[[str], object] = lambda _origin: None,
    ) -> None:
        self._allowed = frozenset(allowed)
        self._public_routes = frozenset(public_routes)
        self._credentialed_paths = credentialed_paths
        self._on_rejected = on_rejected

    def install(self, app: web.Application) -> None:
        """Apply the policy to all routes of an application."""
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(self._add_headers)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._allowed and not self._is_public(request):
            self._on_rejected(origin)
            raise Forbidden("This origin is not allowed.", code="origin_not_allowed")
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            if request.method != "OPTIONS" or origin is None:
                raise
            return self._preflight(", ".join(sorted(error.allowed_methods)))

    def _is_public(self, request: web.Request) -> bool:
        return route_template(request) in self._public_routes

    @staticmethod
    def _preflight(methods: str) -> web.Response:
        headers = {
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": ALLOWED_HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
        }
        return web.Response(status=204, headers=headers)

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Called before each response, errors and streams included: let an allowed page read it."""
        if self._is_public(request):
            response.headers["Access-Control-Allow-Origin"] = "*"
            return
        origin = request.headers.get("Origin")
        response.headers.add("Vary", "Origin")
        if origin in self._allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            # The path, because a preflight has no route.
            if self._credentialed_paths is not None and self._credentialed_paths.match(request.path):
                response.headers["Access-Control-Allow-Credentials"] = "true"
