"""What every request passes: one place where exceptions become responses, and one line of log for a public request."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from . import metrics
from .errors import HTTPProblem, problem_response
from .request_timeout import HEAD_TIMEOUTS

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LONG_POLL = web.RequestKey("held", bool)  # set on a request whose answer is held back
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem, and measure the request."""
    if (head_timeouts := request.app.get(HEAD_TIMEOUTS)) is not None:
        head_timeouts.complete(request.protocol)
    started = time.perf_counter()
    route = route_template(request)
    try:
        response = await handler(request)
    except HTTPProblem as problem:
        response = problem_response(
            problem.status, problem.code, problem.detail, field=problem.field, headers=problem.headers()
        )
    except web.HTTPException as error:  # aiohttp's own: no such route, wrong method
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        response = problem_response(error.status, error.reason.lower().replace(" ", "_"), error.reason, headers=headers)
    except Exception:
        log.exception("request_failed", method=request.method, route=route)
        response = problem_response(500, "internal_error", "Internal error")
    metrics.REQUESTS.labels(request.method, route, response.status).inc()
    if isinstance(response, web.Response) and not _is_long_poll(request):
        duration_s = time.perf_counter() - started
        metrics.REQUEST_DURATION.labels(request.method, route).observe(duration_s)
    return response


def _is_long_poll(request: web.Request) -> bool:
    """Tell whether a request's answer was held back, which takes long and says nothing."""
    return LONG_POLL in request or "Prefer" in request.headers


@web.middleware
async def access_log_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log one line a public request: its route's template, never its query, which may hold a token."""
    started = time.perf_counter()
    response = await handler(request)
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS:  # a socket logs its opening and closing itself
        duration_ms, route = round((time.perf_counter() - started) * 1000, 1), route_template(request)
        log_line = log.debug if route.startswith("/assets/") else log.info
        log_line(
            "request_answered", method=request.method, route=route, status=response.status, duration_ms=duration_ms
        )
    return response


def route_template(request: web.Request) -> str:
    """Return the route's template, `unmatched` when there is none."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
