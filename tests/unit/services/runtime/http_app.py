"""An application behind the middleware of a public listener, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from services.runtime.cors import CorsPolicy
from services.runtime.host_policy import HostPolicy
from services.runtime.middleware import access_log_middleware, error_middleware, job_id_middleware

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def serve(
    *routes: web.RouteDef, cors: CorsPolicy | None = None, hosts: HostPolicy | None = None
) -> AsyncIterator[Client]:
    """Serve routes and yield a client."""
    app = web.Application(middlewares=[job_id_middleware, access_log_middleware, error_middleware])
    for policy in (hosts, cors):
        if policy is not None:
            policy.install(app)
    app.add_routes(routes)
    async with TestClient(TestServer(app)) as client:
        yield client


async def read_problem(response: ClientResponse) -> dict[str, Any]:
    """Return the problem in a response."""
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = msgspec.json.decode(await response.read())
    assert body["status"] == response.status
    return body
