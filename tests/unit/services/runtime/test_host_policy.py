"""The names under which an open submitter may be addressed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from services.runtime.host_policy import HostPolicy

from .http_app import Client, read_problem, serve

ORIGINS = ["https://jobs.example", "http://box.lan:8080", "http://127.0.0.1:8080"]


async def hello(_request: web.Request) -> web.Response:
    """Return a greeting."""
    return web.Response(text="hello")


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Serve a route to these names."""
    async with serve(web.get("/hello", hello), hosts=HostPolicy(ORIGINS)) as client:
        yield client


async def status_of(client: Client, *lines: str) -> int:
    """Send the lines of a request's head as they are; return the status of the response."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write("".join(f"{line}\r\n" for line in (*lines, "Connection: close", "")).encode("latin-1"))
    head = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1])


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.0.0.1:8080",
            "10.1.2.3:80",
            "127.0.0.1:",
            "[::1]",
            "[::1]:8080",
            "[2001:DB8::1]",
            "[::ffff:127.0.0.1]",
        ),
        *("localhost", "localhost:9999", "LocalHost:8080", "localhost.", "localhost.:8080"),
        *("jobs.example", "JOBS.Example:443", "jobs.example.", "box.lan", "box.lan:1"),
    ],
)
async def test_a_known_host_is_served(client: Client, host: str) -> None:
    """An address, `localhost` and a configured name, whatever its case and port, as a header and in the target."""
    assert await status_of(client, "GET /hello HTTP/1.1", f"Host: {host}") == 200
    assert await status_of(client, f"GET http://{host}/hello HTTP/1.1", f"Host: {host}") == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8080", "EVIL.example.", "jobs.example.evil.example", "evil-jobs.example"),
        *("127.0.0.1.evil.example", "localhost.evil.example", "a.localhost", "localhost..", "127.1", "2130706433"),
        *("", ":8080", ".", "[", "[]", "[evil.example]", "[::1", "::1]", "[::1]evil.example", "localhost:80:80"),
        *(
            "localhost:port",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost, evil.example",
            "\xff\xfe",
            "x" * 4000,
        ),
    ],
)
async def test_an_unknown_host_is_refused(client: Client, host: str) -> None:
    """So a page whose name points here reads nothing; the error names the header and the setting."""
    assert await status_of(client, "GET /hello HTTP/1.1", f"Host: {host}") == 403
    assert await status_of(client, "OPTIONS /nowhere HTTP/1.1", f"Host: {host}", "Origin: http://box.lan:8080") == 403


async def test_the_error_says_what_to_set(client: Client) -> None:
    """It is a problem like any other."""
    async with client.get("/hello", headers={"Host": "evil.example"}) as response:
        problem = await read_problem(response)
    assert (response.status, problem["code"], problem["field"]) == (403, "host_not_allowed", "Host")
    assert "ALLOWED_ORIGINS" in problem["detail"]


async def test_a_request_has_one_host(client: Client) -> None:
    """Without a Host header, with two, or with another one in the target, it is refused."""
    known, unknown = "Host: 127.0.0.1", "Host: evil.example"
    assert await status_of(client, "GET /hello HTTP/1.0", known) == 200
    assert await status_of(client, "GET /hello HTTP/1.0") == 403
    for lines in ([], [known, known], [known, unknown], [unknown, known]):
        assert await status_of(client, "GET /hello HTTP/1.1", *lines) == 400
    for target in ("evil.example", "evil.example:8080"):
        assert await status_of(client, f"GET http://{target}/hello HTTP/1.1", known) == 403
        assert await status_of(client, "GET http://[::1]:80/hello HTTP/1.1", f"Host: {target}") == 403


async def test_any_host_is_served_without_a_policy() -> None:
    """A submitter whose dashboard needs a key has nothing to show without one."""
    async with serve(web.get("/hello", hello)) as client:
        assert await status_of(client, "GET /hello HTTP/1.1", "Host: evil.example") == 200
