"""Expected failures and the responses that they become."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from services.runtime.errors import (
    BadRequest,
    Forbidden,
    HTTPProblem,
    NotFound,
    PayloadTooLarge,
    ServiceUnavailable,
    Unauthorized,
    UnprocessableContent,
    UnsupportedMediaType,
)

from .http_app import Client, read_problem, serve

PROBLEMS: list[tuple[type[HTTPProblem], int, str]] = [
    (BadRequest, 400, "malformed"),
    (Unauthorized, 401, "unauthorized"),
    (Forbidden, 403, "forbidden"),
    (NotFound, 404, "not_found"),
    (PayloadTooLarge, 413, "too_large"),
    (UnsupportedMediaType, 415, "unsupported_media_type"),
    (UnprocessableContent, 422, "invalid"),
    (ServiceUnavailable, 503, "unavailable"),
]


async def raise_problem(request: web.Request) -> web.Response:
    """Raise the problem that the path names."""
    problem_types = {problem_type.__name__: problem_type for problem_type, _, _ in PROBLEMS}
    raise problem_types[request.match_info["name"]]("Because.", field="colour", retry_after_s=7)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Serve a handler that raises problems."""
    async with serve(web.get("/problems/{name}", raise_problem)) as client:
        yield client


@pytest.mark.parametrize(("problem_type", "status", "code"), PROBLEMS)
async def test_an_expected_failure_is_a_problem(
    client: Client, problem_type: type[HTTPProblem], status: int, code: str
) -> None:
    """Status and code come from the class; message, field and headers from where it is raised."""
    response = await client.get(f"/problems/{problem_type.__name__}")
    body = await read_problem(response)
    assert (response.status, body["code"], body["detail"], body["field"]) == (status, code, "Because.", "colour")
    assert response.headers["Retry-After"] == "7"
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
