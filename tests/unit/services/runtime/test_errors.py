"""Errors as HTTP tells them, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY

from services.notifier.ingest.handlers import decode_reports
from services.runtime.cors import CorsPolicy
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
from services.runtime.middleware import access_log_middleware, error_middleware
from services.runtime.request import bearer_token, is_valid_key, read_body
from tests.unit.headway.test_contracts import REPORT

LIMIT = 1000
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
Client = TestClient[web.Request, web.Application]


async def problem(request: web.Request) -> web.Response:
    """Raise the problem that the path names."""
    kinds = {kind.__name__: kind for kind, _, _ in PROBLEMS}
    raise kinds[request.match_info["name"]]("Because.", field="colour", retry_after_s=7)


async def fault(_request: web.Request) -> web.Response:
    """Raise what nobody expects."""
    raise RuntimeError("a secret detail")


async def size(request: web.Request) -> web.Response:
    """Answer the body's size."""
    return web.json_response(len(await read_body(request, LIMIT)))


async def who(request: web.Request) -> web.Response:
    """Answer what the request says of itself."""
    return web.json_response(bearer_token(request))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Serve the handlers above behind the middlewares."""
    app = web.Application(middlewares=[access_log_middleware, error_middleware])
    CorsPolicy(["https://jobs.example"]).install(app)
    app.add_routes(
        [
            web.get("/problems/{name}", problem),
            web.get("/fault", fault),
            web.post("/size", size),
            web.get("/who", who),
        ]
    )
    async with TestClient(TestServer(app)) as client:
        yield client


async def told(response: ClientResponse) -> dict[str, Any]:
    """Return the problem that a response tells."""
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = msgspec.json.decode(await response.read())
    assert body["status"] == response.status
    return body


@pytest.mark.parametrize(("kind", "status", "code"), PROBLEMS)
async def test_an_expected_failure_is_a_problem(
    client: Client, kind: type[HTTPProblem], status: int, code: str
) -> None:
    """Status, code, message, field and headers come from the class and from where it is raised."""
    response = await client.get(f"/problems/{kind.__name__}")
    body = await told(response)
    assert (response.status, body["code"], body["detail"], body["field"]) == (status, code, "Because.", "colour")
    assert response.headers["Retry-After"] == "7"
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


async def test_an_unexpected_failure_says_nothing(client: Client) -> None:
    """A fault of ours is answered 500 without a detail."""
    response = await client.get("/fault")
    assert await told(response) == {
        "type": "about:blank",
        "title": "Internal error",
        "status": 500,
        "code": "internal_error",
        "detail": "Internal error",
    }


async def test_aiohttp_s_own_errors_are_problems_too(client: Client) -> None:
    """An unknown path and a wrong method are told in the same shape."""
    missing, wrong = await client.get("/nowhere"), await client.post("/who")
    assert (missing.status, (await told(missing))["code"]) == (404, "not_found")
    assert (wrong.status, (await told(wrong))["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["Allow"]


async def test_requests_are_counted_by_their_route(client: Client) -> None:
    """A metric has the route's template and never what somebody made up."""

    def count(route: str, code: str) -> float:
        labels = {"method": "GET", "route": route, "code": code}
        return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0

    known, unknown = count("/problems/{name}", "404"), count("unmatched", "404")
    await client.get("/problems/NotFound")
    await client.get("/made-up/1")
    assert (count("/problems/{name}", "404"), count("unmatched", "404")) == (known + 1, unknown + 1)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_its_limit_is_not_read_to_its_end(client: Client, *, chunked: bool) -> None:
    """The limit holds for a length that is announced and for one that is not."""

    async def body(length: int) -> AsyncIterator[bytes]:
        for _ in range(0, length, 100):
            yield b"x" * 100

    fitting = await client.post("/size", data=body(LIMIT) if chunked else b"x" * LIMIT)
    assert await fitting.json() == LIMIT
    larger = await client.post("/size", data=body(LIMIT + 100) if chunked else b"x" * (LIMIT + 1))
    assert (await told(larger))["code"] == "too_large"


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("", None),
    ],
)
async def test_a_token_stands_behind_bearer(client: Client, header: str, token: str | None) -> None:
    """The scheme is read in any case, and another one is none."""
    assert await (await client.get("/who", headers={"Authorization": header})).json() == token


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "https://jobs.example"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://jobs.example.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
    ],
)
async def test_an_origin_that_is_named_must_be_allowed(client: Client, headers: dict[str, str], status: int) -> None:
    """Programs name none, and a page of somebody else is refused."""
    assert (await client.get("/who", headers=headers)).status == status


@pytest.mark.parametrize(
    ("presented", "known"),
    [("one", True), ("two", True), ("on", False), ("one ", False), ("", False), (None, False), ("é", False)],
)
def test_a_key_is_one_of_a_set(presented: str | None, *, known: bool) -> None:
    """Any of the keys opens, nothing near one does."""
    assert is_valid_key(presented, ("one", "two")) is known


def changed(old: str, new: str) -> str:
    """Return a report with something else in it."""
    assert old in REPORT
    return REPORT.replace(old, new)


def batch(*texts: str) -> str:
    """Return the body of `POST /reports`."""
    return f"[{','.join(texts)}]"


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        ("", BadRequest, None),
        (f"[{REPORT}", BadRequest, None),
        (f"[{REPORT}]]", BadRequest, None),
        ("[]", UnprocessableContent, None),
        ("{}", UnprocessableContent, None),
        (batch(*[REPORT] * 501), UnprocessableContent, None),
        (batch(REPORT, changed('"delivery":1', '"delivery":0')), UnprocessableContent, "[1].delivery"),
        (batch(changed('"current":40', '"current":-1')), UnprocessableContent, "[0].progress.current"),
        (batch(changed('"running"', '"walking"')), UnprocessableContent, "[0].status"),
        (batch(changed('"result":null', f'"result":"{"x" * 32_768}"')), UnprocessableContent, "[0].result"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_a_batch_that_does_not_fit_names_element_and_field(
    body: str, kind: type[HTTPProblem], field: str | None
) -> None:
    """A worker's author learns which report is wrong, and where."""
    with pytest.raises(HTTPProblem) as refused:
        decode_reports(body.encode())
    assert (type(refused.value), refused.value.field) == (kind, field)


def test_a_batch_that_fits_is_read() -> None:
    """Up to five hundred reports come in the order that they were sent in."""
    assert [report.sequence for report in decode_reports(batch(*[REPORT] * 500).encode())] == [7] * 500


def test_a_missing_field_is_named_with_its_element() -> None:
    """A field that is not there is found in its report like any other."""
    with pytest.raises(UnprocessableContent) as refused:
        decode_reports(batch(REPORT, changed('"delivery":1,', "")).encode())
    assert refused.value.field == "[1].delivery"
