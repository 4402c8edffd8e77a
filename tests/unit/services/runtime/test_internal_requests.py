"""The problems that other services answer, and answers that only look like them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from services.runtime.errors import PROBLEM_JSON, problem_json
from services.runtime.internal_requests import is_unknown_job, read_problem, rejection_of, report_key_headers
from services.runtime.settings import ReloadingFile, read_keys
from tests.unit.services.runtime.http_app import Client, serve


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Serve what a test asks for, or a page of a proxy if it asks for no code."""

    async def answer(request: web.Request) -> web.Response:
        status, code, kind = int(request.query["status"]), request.query["code"], request.query["type"]
        body = problem_json(status, code, "the detail") if code else b"<h1>no problem</h1>"
        return web.Response(status=status, body=body, content_type=kind)

    async with serve(web.get("/", answer)) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "code", "rejection", "is_unknown"),
    [
        (400, "malformed", "the detail", False),
        (413, "too_large", "the detail", False),
        (422, "invalid", "the detail", False),
        (404, "unknown", None, True),
        (404, "not_found", None, False),
        (401, "unauthorized", None, False),
        (500, "internal_error", None, False),
        (503, "unavailable", None, False),
        (400, "invalid", None, False),
    ],
)
async def test_only_a_service_rejects_a_body(
    client: Client, status: int, code: str, rejection: str | None, *, is_unknown: bool
) -> None:
    """The status alone, of which proxies have the same, decides nothing; neither does a body of another type."""
    for sent, kind in ((code, PROBLEM_JSON), (code, "application/json"), ("", PROBLEM_JSON), ("", "text/html")):
        async with client.get("/", params={"status": status, "code": sent, "type": kind}) as response:
            body = await response.read()
        is_problem = bool(sent) and kind == PROBLEM_JSON
        assert (read_problem(response, body) is not None) == is_problem
        assert rejection_of(response, body) == (rejection if is_problem else None)
        assert is_unknown_job(response, body) == (is_unknown and is_problem)


def test_the_first_report_key_is_sent(tmp_path: Path) -> None:
    """It is read again when the file changes: while keys are rotated, the first one is the new one."""
    (tmp_path / "keys").write_text("first\nsecond\n")
    keys = ReloadingFile(tmp_path / "keys", read_keys)
    assert report_key_headers(keys) == {"Authorization": "Bearer first"}
    (tmp_path / "keys").unlink()
    (tmp_path / "keys").write_text("third\nfirst\n")
    assert report_key_headers(keys) == {"Authorization": "Bearer third"}
