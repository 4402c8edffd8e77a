"""Middleware for all requests: converts exceptions to responses, updates the metrics and writes the access log."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from itertools import product
from uuid import UUID

import structlog
from aiohttp import hdrs, web

from . import metrics
from .aiohttp_adapter import is_disconnected, is_hang_up
from .errors import ClientDisconnected, HTTPProblem, problem_response
from .request_timeout import HEAD_TIMEOUTS

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# The statuses that the services answer on their routes, and on all other paths.
SUCCESSES = (101, 200, 202, 204, 206, 303, 304)
ERRORS = (400, 401, 403, 404, 408, 409, 413, 415, 416, 422, 426, 429, 499, 500, 503)
UNMATCHED_STATUSES = (204, 403, 404, 405)
UNMATCHED = "unmatched"  # the template of no route
OTHER_METHOD = "other"  # a client may make up any
LONG_POLL = web.RequestKey("long_poll", bool)  # set on a request that waits for an event before it is answered
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Convert an exception of the handler to a problem response; count the request and observe its duration."""
    if (head_timeouts := request.app.get(HEAD_TIMEOUTS)) is not None:
        head_timeouts.complete(request.transport)
    started = time.perf_counter()
    route = route_template(request)
    try:
        response = await handler(request)
    except HTTPProblem as problem:
        response = _problem(problem)
    except web.HTTPException as error:  # raised by aiohttp: unknown route, wrong method
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        response = problem_response(error.status, error.reason.lower().replace(" ", "_"), error.reason, headers=headers)
    except Exception as error:
        if is_disconnected(request) and is_hang_up(error, request.content.exception()):
            response = _problem(ClientDisconnected("The client has disconnected."))
        else:
            log.exception("request_failed", method=request.method, route=route)
            response = problem_response(500, "internal_error", "Internal error")
    if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.force_close()  # the client's next connection may reach another replica
    method = request.method if request.method in hdrs.METH_ALL else OTHER_METHOD
    metrics.REQUESTS.labels(method, route, response.status).inc()
    if isinstance(response, web.Response) and not _is_long_poll(request):
        duration_s = time.perf_counter() - started
        metrics.REQUEST_DURATION.labels(method, route).observe(duration_s)
    return response


def _problem(problem: HTTPProblem) -> web.Response:
    return problem_response(
        problem.status, problem.code, problem.detail, field=problem.field, headers=problem.headers()
    )


def create_series(app: web.Application) -> None:
    """Create the series of each route: Prometheus does not see the increase from no series to 1."""
    for method, status in product((hdrs.METH_GET, hdrs.METH_POST, hdrs.METH_OPTIONS), UNMATCHED_STATUSES):
        metrics.REQUESTS.labels(method, UNMATCHED, status)
    for route in app.router.routes():
        if route.resource is not None and route.method != hdrs.METH_HEAD:
            metrics.REQUEST_DURATION.labels(route.method, route.resource.canonical)
            for status in (*SUCCESSES, *ERRORS):
                metrics.REQUESTS.labels(route.method, route.resource.canonical, status)


def _is_long_poll(request: web.Request) -> bool:
    """Return whether the response may have waited for an event; its duration then does not measure the service."""
    return LONG_POLL in request or "Prefer" in request.headers


@web.middleware
async def job_id_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Add the id of the job in the path to every log line of the request."""
    try:
        job_id = UUID(request.match_info.get("id", ""))
    except ValueError:
        return await handler(request)
    with structlog.contextvars.bound_contextvars(job_id=str(job_id)):
        return await handler(request)


@web.middleware
async def access_log_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log one line per request: the route template, not the path or the query, which may contain a token."""
    started = time.perf_counter()
    response = await handler(request)
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS:  # a WebSocket logs when it opens and closes
        duration_ms, route = round((time.perf_counter() - started) * 1000, 1), route_template(request)
        fields = {"method": request.method, "route": route, "status": response.status, "duration_ms": duration_ms}
        if route.startswith("/assets/"):
            log.debug("request_answered", **fields)  # each page loads many
        else:
            log.info("request_answered", **fields)
    return response


def route_template(request: web.Request) -> str:
    """Return the template of the request's route, such as `/jobs/{id}`, or `unmatched`."""
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical
