"""The origins that a listener accepts."""

from __future__ import annotations

import re

import pytest
from aiohttp import web

from services.runtime.cors import CorsPolicy

from .http_app import serve

HUB = re.compile("/(?i:hub)/")


async def hello(_request: web.Request) -> web.Response:
    """Return a greeting."""
    return web.Response(text="hello")


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
async def test_an_origin_must_be_allowed(headers: dict[str, str], status: int) -> None:
    """A program sends no Origin and is served; a page whose origin is not allowed is rejected."""
    async with serve(web.get("/hello", hello), cors=CorsPolicy(["https://jobs.example"])) as client:
        assert (await client.get("/hello", headers=headers)).status == status


async def test_rejected_origins_are_reported() -> None:
    """A policy calls back with each origin that it rejects, so that a service can count them."""
    rejected: list[str] = []
    policy = CorsPolicy(["https://jobs.example"], on_rejected=rejected.append)
    async with serve(web.get("/hello", hello), cors=policy) as client:
        for origin in ("https://jobs.example", "https://evil.example", "null"):
            await client.options("/hello", headers={"Origin": origin})
    assert rejected == ["https://evil.example", "null"]


@pytest.mark.parametrize(
    ("path", "credentials"), [("/hub/negotiate", "true"), ("/HUB/negotiate", "true"), ("/hello", None)]
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_some_paths_permit_cookies(path: str, credentials: str | None, method: str) -> None:
    """Libraries that always send cookies may request some paths; the preflight must say so, too."""
    policy = CorsPolicy(["https://jobs.example"], credentialed_paths=HUB)
    async with serve(web.get("/hello", hello), web.get("/{hub:(?i:hub)}/negotiate", hello), cors=policy) as client:
        response = await client.request(method, path, headers={"Origin": "https://jobs.example"})
        assert response.status < 300
        assert response.headers.get("Access-Control-Allow-Credentials") == credentials


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/hub/other", 404), ("DELETE", "/hub/negotiate", 405)])
async def test_pages_can_read_errors(method: str, path: str, status: int) -> None:
    """An error has the same headers as an answer, and browsers take it for nothing else."""
    policy = CorsPolicy(["https://jobs.example"], credentialed_paths=HUB)
    async with serve(web.get("/hub/negotiate", hello), cors=policy) as client:
        response = await client.request(method, path, headers={"Origin": "https://jobs.example"})
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == "https://jobs.example"
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
