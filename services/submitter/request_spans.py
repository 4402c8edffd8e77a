"""The spans of requests that submit jobs or run them again."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING
from uuid import UUID

from aiohttp import web

from headway.trace_context import TRACEPARENT, TraceContext, parse_traceparent

from ..runtime.errors import HTTPProblem
from ..runtime.middleware import Handler

if TYPE_CHECKING:
    from ..runtime.tracer import Span, Tracer

TRACED = frozenset({"/jobs", "/jobs/{id}/redrive", "/jobs/{id}/rerun", "/bulk"})


def trace_context(request: web.Request) -> TraceContext | None:
    """Return the trace context of a request, or None if it has no valid one."""
    return parse_traceparent(request.headers.get(TRACEPARENT))


def traced(routes: Iterable[web.RouteDef], tracer: Tracer | None) -> list[web.RouteDef]:
    """Return routes with a span for each request that sends jobs; without a tracer, the same routes."""
    if tracer is None:
        return [*routes]
    return [
        web.RouteDef(route.method, route.path, _traced(route, tracer), route.kwargs) if route.path in TRACED else route
        for route in routes
    ]


def _traced(route: web.RouteDef, tracer: Tracer) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        with tracer.server_span(route.method, route.path, _path(request, route), trace_context(request)) as span:
            try:
                response: web.StreamResponse = await route.handler(request)
            except HTTPProblem as problem:
                _set_status(span, problem.status)
                raise
            except Exception:
                _set_status(span, HTTPStatus.INTERNAL_SERVER_ERROR)
                raise
            _set_status(span, response.status)
            return response

    return handle


def _path(request: web.Request, route: web.RouteDef) -> str:
    """Return the path of a request; an id that is not valid may be a token, and then it is that of the route."""
    try:
        UUID(request.match_info.get("id", ""))
    except ValueError:
        return route.path
    return request.path


def _set_status(span: Span, status: int) -> None:
    span.set({"http.response.status_code": int(status)})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.fail(str(int(status)))
