"""Errors of connections name the host."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest

from headway.cli.command import main
from headway.client import Client, Unreachable
from headway.client.connection_errors import connection_problem
from tests.waiting import PATIENCE_S, free_ports


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Return a client that does not retry."""
    async with Client(retry_for_s=0) as client:
        yield client


def link(host: str) -> str:
    """Return a link to the page of a job."""
    return f"http://{host}/jobs/b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11#{TOKEN}"


TOKEN = "e30.eyJzdWIiOiJiMWY2YTZhMC03YjdlLTRjN2YtOWQwYS0zYzFjNWEwZTZmMTEifQ.e30"
UNRESOLVABLE = {
    "nosuch.invalid": "nosuch.invalid",
    "nosuch.invalid:8080": "nosuch.invalid",
    "b\u00fccher.invalid": "xn--bcher-kva.invalid",
    "a..b": "a..b",
    f"{'a' * 70}.example": f"{'a' * 70}.example",
}


@pytest.mark.parametrize(("host", "name"), UNRESOLVABLE.items(), ids=lambda value: value[:20])
async def test_host_that_cannot_be_resolved_is_named(client: Client, host: str, name: str) -> None:
    """Every method of the client says which name it is."""
    calls = [client.get(link(host)), client.cancel(link(host)), client.result(link(host))]
    async with Client(f"http://{host}", retry_for_s=0) as submitter:
        for call in (submitter.submit("k"), *calls):
            with pytest.raises(Unreachable, match=f"^http://.* does not answer: could not resolve {name}$"):
                await asyncio.wait_for(call, PATIENCE_S)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_host_and_port_that_refuse_a_connection_are_named(client: Client, host: str) -> None:
    """The reason is that of the system."""
    (port,) = free_ports(1)
    url = f"http://{host}:{port}"
    with pytest.raises(Unreachable, match=rf"^{re.escape(url)}/jobs/\S+ does not answer: \w") as raised:
        await client.get(link(f"{host}:{port}"))
    reason = "Connection refused"
    assert str(raised.value).endswith(reason) or host == "[::1]"  # there may be no IPv6
    cause = raised.value.__cause__
    assert cause is not None
    assert connection_problem(cause, f"http://{host}/").startswith(f"could not connect to {host}:{port}: ")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "ftp://jobs.example"])
async def test_invalid_address_is_not_retried(url: str) -> None:
    """No retry can help."""
    async with Client(url, retry_for_s=1000) as client:
        with pytest.raises(Unreachable, match="it is not a valid address"):
            await asyncio.wait_for(client.submit("k"), PATIENCE_S)


@pytest.mark.parametrize(
    ("host", "problem"), [("a..b", "could not resolve a..b"), ("127.0.0.1:99999", "it is not a valid address")]
)
async def test_watch_at_an_invalid_address_ends(client: Client, host: str, problem: str) -> None:
    """A watch does not try for ever what cannot work."""
    with pytest.raises(Unreachable, match=f"^http://{host} does not answer: {problem}$"):
        await client.result(link(host).replace("/jobs/", "/live/jobs/"), PATIENCE_S)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (socket.gaierror(-2, "Name or service not known"), "could not resolve h.example"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "could not resolve h.example"),
        (TimeoutError(), "no response in time"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (ConnectionResetError(), "ConnectionResetError"),
        (ssl.SSLError(1, "wrong version number"), "('wrong version number',)"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
    ],
    ids=str,
)
def test_each_problem_has_words(error: BaseException, text: str) -> None:
    """No error is shown as a number."""
    assert text.strip("(',)") in connection_problem(error, "https://h.example/jobs")


@pytest.mark.parametrize(
    "command", [["poison", "list"], ["poison", "show", "x"], ["poison", "redrive", "x", "--no-token"]]
)
@pytest.mark.parametrize("host", ["nosuch.invalid", "127.0.0.1"])
def test_host_of_a_queue_is_named(
    command: list[str], host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands for poison messages name the host of the queue."""
    (port,) = free_ports(1)
    account = f"AccountName=a;AccountKey=c2VjcmV0;QueueEndpoint=http://{host}:{port}/a"
    monkeypatch.setenv("QUEUE_CONNECTION_STRING", account)
    monkeypatch.setattr("headway.azure.sdk_requests.MAX_RETRIES", 0)
    assert main(command) == 1
    problem = (
        f"could not connect to {host}:{port}: Connection refused"
        if host == "127.0.0.1"
        else f"could not resolve {host}"
    )
    assert capsys.readouterr().err == f"headway: {problem}\n"
