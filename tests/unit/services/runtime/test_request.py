"""Reading bodies, bearer tokens and keys of requests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from services.runtime.request import bearer_token, is_valid_key, read_body

from .http_app import Client, read_problem, serve

LIMIT = 1000


async def size(request: web.Request) -> web.Response:
    """Return the size of the body."""
    return web.json_response(len(await read_body(request, LIMIT)))


async def token(request: web.Request) -> web.Response:
    """Return the bearer token."""
    return web.json_response(bearer_token(request))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Serve handlers that read requests."""
    async with serve(web.post("/size", size), web.get("/token", token)) as client:
        yield client


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_its_limit_is_rejected(client: Client, *, chunked: bool) -> None:
    """The limit applies with and without a Content-Length."""

    async def body(length: int) -> AsyncIterator[bytes]:
        for _ in range(0, length, 100):
            yield b"x" * 100

    fitting = await client.post("/size", data=body(LIMIT) if chunked else b"x" * LIMIT)
    assert await fitting.json() == LIMIT
    larger = await client.post("/size", data=body(LIMIT + 100) if chunked else b"x" * (LIMIT + 1))
    assert (await read_problem(larger))["code"] == "too_large"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("", None),
    ],
)
async def test_a_bearer_token_is_read(client: Client, header: str, expected: str | None) -> None:
    """The scheme is case-insensitive, and other schemes are ignored."""
    assert await (await client.get("/token", headers={"Authorization": header})).json() == expected


@pytest.mark.parametrize(
    ("presented", "valid"),
    [("one", True), ("two", True), ("on", False), ("one ", False), ("", False), (None, False), ("é", False)],
)
def test_a_valid_key_is_one_of_the_set(presented: str | None, *, valid: bool) -> None:
    """Each key of the set is valid; a similar text is not."""
    assert is_valid_key(presented, ("one", "two")) is valid
