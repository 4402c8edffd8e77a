"""Origins and hosts: every route of the OpenAPI documents refuses a foreign page, so a new route is tested, too."""

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


async def routes(stack: Stack, service: str) -> list[tuple[str, str]]:
    """Return the methods and paths of a service, and two of a path that does not exist."""
    async with stack.session.get(f"{stack.env[service]}/openapi.yaml") as response:
        paths = yaml.safe_load(await response.text())["paths"]
    found = [(method, path) for path, methods in paths.items() for method in methods if method != "parameters"]
    assert len(found) >= 6
    return [*found, ("get", "/nowhere"), ("options", "/nowhere")]


def with_ids(path: str) -> str:
    """Return a path with ids in place of its parameters."""
    return re.sub(r"{\w+}", str(uuid.uuid4()), path)


@pytest.mark.parametrize("service", ["SUBMITTER_URL", "NOTIFIER_URL"])
@pytest.mark.parametrize("origin", FOREIGN)
async def test_foreign_origin_is_rejected(stack: Stack, service: str, origin: str) -> None:
    """The response is 403, without CORS headers, and counted; only the assets are public to every origin."""
    counter = 'notifier_watch_refused_total{code="origin_not_allowed",origin="other"}'
    before, paths = await stack.metric(counter), await routes(stack, service)
    for method, path in paths:
        url = stack.env[service] + with_ids(path)
        async with stack.session.request(method, url, headers={"Origin": origin}) as response:
            if path.startswith("/assets/"):
                assert response.headers["Access-Control-Allow-Origin"] == "*", path
            else:
                assert (response.status, (await response.json())["code"]) == (403, "origin_not_allowed"), path
                assert "Access-Control-Allow-Origin" not in response.headers
    assert await stack.metric(counter) == before + (len(paths) if service == "NOTIFIER_URL" else 0)


async def test_foreign_name_of_this_machine_gets_nothing(stack: Stack) -> None:
    """Its page sends no Origin. An open submitter refuses the Host; the notifier shows nothing without a token."""
    headers = {"Host": "evil.example:8080"}
    for method, path in await routes(stack, "SUBMITTER_URL"):
        async with stack.session.request(
            method, stack.env["SUBMITTER_URL"] + with_ids(path), headers=headers
        ) as response:
            assert (response.status, (await response.json())["code"]) == (403, "host_not_allowed"), path
    for method, path in await routes(stack, "NOTIFIER_URL"):
        async with stack.session.request(
            method, stack.env["NOTIFIER_URL"] + with_ids(path), headers=headers
        ) as response:
            assert response.status >= 400 or path == "/openapi.yaml", (method, path, await response.text())
