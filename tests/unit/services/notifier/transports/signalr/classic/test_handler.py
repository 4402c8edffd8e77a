"""The requests of clients of the classic hub, as they were recorded, and the answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.notifier.transports.signalr import responses

from .classic_site import ORIGIN, TRANSPORTS, ClassicSite, run_site

ACTIONS = ("negotiate", "ping", "connect", "reconnect", "poll", "start", "send", "abort")
BAD_TOKEN = (400, "The ConnectionId is in the incorrect format.")


@pytest.fixture
async def site(keys: Path) -> AsyncIterator[ClassicSite]:
    """Serve the classic hub."""
    async with run_site(keys) as site:
        yield site


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (None, "1.2"),
        ("", "1.2"),
        ("x", "1.2"),
        ("1.1", "1.2"),
        ("1.3", "1.3"),
        ("1.4", "1.4"),
        ("1.5", "1.5"),
        ("2.0", "2.0"),
        ("2.1", "2.0"),
        ("10.0", "2.0"),
    ],
)
async def test_negotiation(site: ClassicSite, asked: str | None, answered: str) -> None:
    """The protocol version is that of the client, if the server has it: clients accept no other one."""
    answer = await site.json("negotiate", query={"clientProtocol": asked, "connectionToken": None})
    assert (answer.pop("ConnectionToken"), answer.pop("ConnectionId")) > ("", "")
    assert answer == {
        "Url": "/signalr",
        "KeepAliveTimeout": 20,
        "DisconnectTimeout": 21_600,
        "ConnectionTimeout": 110,
        "TryWebSockets": True,
        "ProtocolVersion": answered,
        "TransportConnectTimeout": 5,
        "LongPollDelay": 0,
    }


async def test_a_replica_that_stops_sends_clients_to_another_one(
    site: ClassicSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page does not negotiate again after an error, but tries each transport on a connection of its own."""
    monkeypatch.setattr(responses, "POSTPONE_RANGE_S", (0, 0))
    site.replica.registry.draining = True
    for action in ("negotiate", "connect", "poll"):
        response = await site.request(action, "POST", query={"transport": "longPolling", "messageId": "17-"})
        assert (response.status, response.headers["Connection"]) == (200, "close")
    assert await response.json() == {"C": "17-", "M": []}
    for transport in ("webSockets", "serverSentEvents"):
        response = await site.request("connect", query={"transport": transport})
        assert (response.status, response.headers["Connection"]) == (503, "close")


@pytest.mark.parametrize(
    ("path", "prefix", "url"),
    [
        ("/SignalR/Negotiate", "", "/SignalR"),
        ("/old%20site/signalr/negotiate", "", "/old%20site/signalr"),
        ("/signalr/negotiate", "/live/", "/live/signalr"),
        ("/signalr/negotiate", "/a/b-1", "/a/b-1/signalr"),
        ("/signalr/negotiate", "//other.example", "/signalr"),
        ("/signalr/negotiate", "https://other.example", "/signalr"),
    ],
)
async def test_the_url_is_the_public_path(site: ClassicSite, path: str, prefix: str, url: str) -> None:
    """Clients connect to the path of the answer, not to that of the page."""
    assert (await site.json(path, headers={"X-Forwarded-Prefix": prefix}))["Url"] == url


@pytest.mark.parametrize("path", ["/signalr/hubs", "/signalr/js/", "/SIGNALR/Hubs/", "/old/signalr/JS"])
async def test_the_script_has_many_addresses(site: ClassicSite, path: str) -> None:
    """Pages of 2015 write them in any way that the server of that time understood."""
    response = await site.request(path)
    assert (response.status, response.content_type) == (200, "application/javascript")
    assert b"jobProgressHub" in await response.read()


@pytest.mark.parametrize("path", ["/signalr", "/signalr/", "/signalr/negotiate/", "/signalr/other", "/mysignalr/ping"])
async def test_there_are_no_other_pages(site: ClassicSite, path: str) -> None:
    """A path decides by its end what a request is."""
    assert (await site.request(path)).status == 404


@pytest.mark.parametrize("action", [action for action in ACTIONS if action not in ("negotiate", "ping")])
async def test_connection_tokens_are_verified(site: ClassicSite, action: str) -> None:
    """Each request of a connection needs its token, in the query or in the form."""
    for method in ("GET", "POST"):
        missing = await site.problem(action, method, query={"connectionToken": None})
        assert missing == (400, "Protocol error: Missing connection token.")
        token = site.query["connectionToken"]
        for wrong in ("x", token[:-1], f"{token[:-1]}B", f"2{token[1:]}", token.replace(".", "", 1)):
            assert await site.problem(action, method, query={"connectionToken": wrong}) == BAD_TOKEN
    form = {"connectionToken": site.query["connectionToken"], "transport": "other", "data": "{}"}
    answer = await site.request(action, "POST", query={"connectionToken": None}, data=form)
    assert answer.status == 200 or "Unknown transport" in await answer.text()


@pytest.mark.parametrize("transport", [None, "", "foreverFrame", "carrierPigeon"])
@pytest.mark.parametrize("action", ["connect", "reconnect", "poll"])
async def test_other_transports_are_refused(site: ClassicSite, action: str, transport: str | None) -> None:
    """A client falls back to the next one."""
    problem = await site.problem(action, query={"transport": transport})
    assert problem == (400, "Protocol error: Unknown transport.")


async def test_a_websocket_needs_an_upgrade(site: ClassicSite) -> None:
    """A plain request gets an error, after which the client falls back to the next transport."""
    assert (await site.request("connect", query={"transport": "webSockets"})).status == 400


async def refused_queries(site: ClassicSite) -> list[tuple[int, dict[str, Any]]]:
    """Return queries whose token does not open the job, and the statuses."""
    replica, job_id = site.replica, site.job_id
    return [
        (401, {"token": None}),
        (401, {"token": None, "jobId": None}),
        (401, {"token": "x"}),
        (401, {"token": replica.token(job_id, expires_in_s=-3600)}),
        (401, {"token": replica.token(job_id, signer=replica.new_key()[0])}),
        (403, {"token": replica.token(uuid4())}),
        (422, {"jobId": "x"}),
    ]


@pytest.mark.parametrize("action", ["negotiate", "ping", "connect"])
async def test_job_tokens_are_verified(site: ClassicSite, action: str) -> None:
    """A client does not start, and at a ping that is refused it stops."""
    for status, query in await refused_queries(site):
        query["transport"] = "serverSentEvents"
        assert (await site.request(action, query=query)).status == status
    assert not site.is_watched()


async def test_starts_and_pings_are_answered(site: ClassicSite) -> None:
    """Any replica answers them, because they need nothing of the connection; unknown parameters are ignored."""
    for transport in TRANSPORTS:
        query = {"transport": transport, "tid": "3", "_": "1795913522430"}
        assert await site.json("start", query=query) == {"Response": "started"}
    assert await site.json("ping", query={"connectionToken": None}) == {"Response": "pong"}


@pytest.mark.parametrize("call_id", [0, "7"])
@pytest.mark.parametrize("where", ["query", "data"])
async def test_calls_find_no_method(site: ClassicSite, call_id: int | str, where: str) -> None:
    """The answer names the call by a text, which both the numbers of pages and the texts of .NET match."""
    call = {"H": "jobprogresshub", "M": "Echo", "A": [1, {}], "I": call_id, "S": {"x": 1}}
    answer = await site.json("send", "POST", **{where: {"data": json.dumps(call)}})
    error = "'Echo' method could not be resolved. No method found with that name."
    assert answer == {"I": str(call_id), "E": error}


@pytest.mark.parametrize("data", ["", "x", "[]", '"text"', '{"M":1}', '{"I":[]}', "\0", "[" * 10_000])
async def test_what_is_no_call_is_refused(site: ClassicSite, data: str) -> None:
    """A call that cannot be read cannot be answered."""
    status, _ = await site.problem("send", "POST", data={"data": data})
    assert status == 400


async def test_requests_have_limits(site: ClassicSite) -> None:
    """Large forms, and those of many fields, are refused."""
    assert (await site.request("send", "POST", data={"data": "x" * 70_000})).status == 413
    assert (await site.request("send", "POST", data=[("data", "{}")] * 21)).status == 400


@pytest.mark.parametrize("action", ACTIONS)
async def test_jsonp_is_refused(site: ClassicSite, action: str) -> None:
    """Browsers of today do not need it."""
    for method in ("GET", "POST"):
        problem = await site.problem(action, method, query={"callback": "jQuery1", "transport": "longPolling"})
        assert problem == (403, "JSONP is disabled.")


@pytest.mark.parametrize("action", [*ACTIONS, "hubs", "other"])
async def test_pages_may_read_every_answer(site: ClassicSite, action: str) -> None:
    """Errors too: an allowed page sends its cookies, and no browser guesses content types."""
    for query in ({"transport": "longPolling", "connectionToken": None}, {"callback": "f"}, {}):
        for path in (action, f"/app/SignalR/{action}"):
            headers = (await site.request(path, query=query)).headers
            assert headers["Access-Control-Allow-Origin"] == ORIGIN
            assert headers["Access-Control-Allow-Credentials"] == "true"
            assert headers["X-Content-Type-Options"] == "nosniff"
    preflight = await site.request(action, "OPTIONS", headers={"Access-Control-Request-Method": "POST"})
    assert (preflight.status, preflight.headers["Access-Control-Allow-Methods"][:3]) == (204, "GET")
    assert preflight.headers["Access-Control-Allow-Credentials"] == "true"
    for method in ("GET", "POST", "OPTIONS"):
        foreign = await site.request(action, method, headers={"Origin": "https://other.example"})
        assert (foreign.status, foreign.headers.get("Access-Control-Allow-Origin")) == (403, None)
