"""Origins: every route of the OpenAPI documents rejects a page of a foreign origin, so a new route is tested, too."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator

import pytest
import yaml  # type: ignore[import-untyped]

from tests.stack import Stack, running

FOREIGN = ["http://evil.example", "null", "", "HTTP://127.0.0.1"]


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    async with running(tmp_path_factory.mktemp("origins"), GRACE_S="0", DRAIN_S="0") as stack:
        yield stack


@pytest.mark.parametrize("service", ["SUBMITTER_URL", "NOTIFIER_URL"])
@pytest.mark.parametrize("origin", FOREIGN)
async def test_foreign_origin_is_rejected(stack: Stack, service: str, origin: str) -> None:
    """The response is 403, without CORS headers; only the assets are public to every origin."""
    url = stack.env[service]
    async with stack.session.get(f"{url}/openapi.yaml") as response:
        paths = yaml.safe_load(await response.text())["paths"]
    routes = [(method, path) for path, methods in paths.items() for method in methods if method != "parameters"]
    assert len(routes) >= 6
    for method, path in [*routes, ("get", "/nowhere"), ("options", "/nowhere")]:
        path_with_ids = re.sub(r"{\w+}", str(uuid.uuid4()), path)
        async with stack.session.request(method, url + path_with_ids, headers={"Origin": origin}) as response:
            if path.startswith("/assets/"):
                assert response.headers["Access-Control-Allow-Origin"] == "*", path
            else:
                assert (response.status, (await response.json())["code"]) == (403, "origin_not_allowed"), path
                assert "Access-Control-Allow-Origin" not in response.headers
