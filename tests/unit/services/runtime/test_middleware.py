"""Exceptions become responses, and requests are counted by their route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from services.runtime.errors import NotFound, ServiceUnavailable
from services.runtime.middleware import create_series

from .http_app import Client, read_problem, serve


async def crash(_request: web.Request) -> web.Response:
    """Raise an unexpected exception."""
    raise RuntimeError("a secret detail")


async def not_found(_request: web.Request) -> web.Response:
    """Raise an expected failure."""
    raise NotFound("Because.")


async def unavailable(_request: web.Request) -> web.Response:
    """Raise a failure that another replica may not have."""
    raise ServiceUnavailable("Because.", retry_after_s=1)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Serve handlers that fail."""
    routes = [
        web.get("/crash", crash),
        web.get("/jobs/{id}/crash", crash),
        web.get("/things/{name}", not_found),
        web.get("/unavailable", unavailable),
    ]
    async with serve(*routes) as client:
        yield client


async def test_an_unexpected_failure_reveals_nothing(client: Client) -> None:
    """A bug is answered 500 without details."""
    response = await client.get("/crash")
    assert await read_problem(response) == {
        "type": "about:blank",
        "title": "Internal error",
        "status": 500,
        "code": "internal_error",
        "detail": "Internal error",
    }


async def test_aiohttp_s_own_errors_are_problems_too(client: Client) -> None:
    """An unknown path and a wrong method are reported in the same format."""
    missing, wrong_method = await client.get("/nowhere"), await client.post("/crash")
    assert (missing.status, (await read_problem(missing))["code"]) == (404, "not_found")
    assert (wrong_method.status, (await read_problem(wrong_method))["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong_method.headers["Allow"]


async def test_requests_are_counted_by_their_route(client: Client) -> None:
    """The labels of a metric are the route's template and a usual method, never what a client made up."""

    def count(route: str, code: str, method: str = "GET") -> float:
        labels = {"method": method, "route": route, "code": code}
        return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0

    known, unknown, other = (
        count("/things/{name}", "404"),
        count("unmatched", "404"),
        count("unmatched", "405", "other"),
    )
    await client.get("/things/any")
    await client.get("/made-up/1")
    await client.request("PROPFIND", "/things/any")
    assert (count("/things/{name}", "404"), count("unmatched", "404")) == (known + 1, unknown + 1)
    assert count("unmatched", "405", "other") == other + 1


@pytest.mark.parametrize("is_job", [True, False])
async def test_log_lines_of_a_request_name_its_job(client: Client, *, is_job: bool) -> None:
    """The id of the job in the path is on every line of the request, a malformed one, which may be a token, on none."""
    job_id = str(uuid4()) if is_job else "a-token"
    with capture_logs(processors=[merge_contextvars]) as lines:
        await client.get(f"/jobs/{job_id}/crash")
        await client.get("/crash")
    expected = ["request_failed", "request_answered"]
    assert [line["event"] for line in lines] == expected * 2
    assert [line.get("job_id") for line in lines] == [job_id if is_job else None] * 2 + [None] * 2


async def test_a_503_closes_its_connection(client: Client) -> None:
    """The client's next connection may reach another replica; any other response keeps the connection."""
    response = await client.get("/unavailable")
    assert (response.status, response.headers["Connection"], response.headers["Retry-After"]) == (503, "close", "1")
    for path in ("/crash", "/things/any"):
        assert "Connection" not in (await client.get(path)).headers


async def test_series_of_a_route_exist_before_its_first_request(client: Client) -> None:
    """Prometheus sees the first failure of a route as an increase from 0."""
    create_series(client.app)
    for code in ("200", "401", "500", "503"):
        labels = {"method": "GET", "route": "/things/{name}", "code": code}
        assert REGISTRY.get_sample_value("http_requests_total", labels) is not None
