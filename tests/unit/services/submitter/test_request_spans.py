"""The spans of requests that send jobs."""

from __future__ import annotations

import pytest
from aiohttp import web

from services.runtime.errors import ServiceUnavailable, UnprocessableContent
from services.runtime.middleware import Handler
from services.submitter.request_spans import traced
from tests.unit.services.runtime.http_app import serve
from tests.unit.services.runtime.recording_tracer import RecordingTracer

JOB_ID = "01234567-89ab-4def-8123-456789abcdef"


async def _accept(_request: web.Request) -> web.Response:
    return web.Response(status=202)


async def _refuse(_request: web.Request) -> web.Response:
    raise UnprocessableContent("the-payload", field="payload")


async def _fail(_request: web.Request) -> web.Response:
    raise ServiceUnavailable("the-payload", retry_after_s=1)


async def _crash(_request: web.Request) -> web.Response:
    raise ValueError("the-payload")


@pytest.mark.parametrize(
    ("handler", "status", "has_failed"),
    [(_accept, 202, False), (_refuse, 422, False), (_fail, 503, True), (_crash, 500, True)],
)
async def test_a_request_has_its_status(handler: Handler, status: int, has_failed: bool) -> None:
    """Only errors of the service are marked as such, and no text of an error is in the span."""
    tracer = RecordingTracer()
    routes = traced([web.post("/jobs/{id}/rerun", handler)], tracer)
    async with serve(*routes) as client, client.post(f"/jobs/{JOB_ID}/rerun?token=the-token") as response:
        assert response.status == status
    (span,) = tracer.ended
    route = "/jobs/{id}/rerun"
    attributes = {"http.request.method": "POST", "http.route": route, "url.path": f"/jobs/{JOB_ID}/rerun"}
    error = {"error.type": str(status)} if has_failed else {}
    assert span.name == "POST /jobs/{id}/rerun"
    assert dict(span.attributes or {}) == {**attributes, "http.response.status_code": status, **error}
    assert span.status.is_ok is not has_failed
    assert "the-" not in span.to_json()


async def test_a_token_in_place_of_an_id_is_in_no_span() -> None:
    """The path of the request is that of its route then."""
    tracer = RecordingTracer()
    async with serve(*traced([web.post("/jobs/{id}/rerun", _accept)], tracer)) as client:
        (await client.post("/jobs/the-token/rerun")).close()
    (span,) = tracer.ended
    assert (span.attributes or {})["url.path"] == "/jobs/{id}/rerun"
    assert "the-token" not in span.to_json()


def test_other_requests_have_no_span() -> None:
    """Neither have those of a submitter without traces."""
    pages, jobs = web.get("/jobs/{id}", _accept), web.post("/jobs", _accept)
    assert traced([pages, jobs], None) == [pages, jobs]
    assert traced([pages, jobs], RecordingTracer())[0] is pages
