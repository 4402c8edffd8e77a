"""The limits for clients: each has its error code and its metric, and other clients are not affected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.integration.conftest import Notifier, new_id, report, running_notifier
from tests.integration.event_stream import read_events
from tests.waiting import PATIENCE_S, wait_until

MAX_CONNECTIONS, MAX_WATCHES = 5, 3


@pytest.fixture(scope="module")
async def limited_notifier(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notifier]:
    """Run a notifier with low limits."""
    settings = {
        "MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "MAX_WATCHES": str(MAX_WATCHES),
        "FIRST_MESSAGE_S": "600",
        "MESSAGES_PER_S": "10",
    }
    async with running_notifier(stores, tmp_path_factory.mktemp("keys"), **settings) as notifier:
        yield notifier


async def refusals(notifier: Notifier, limit: str) -> float:
    """Return how often a limit was exceeded."""
    return await notifier.metric(f'notifier_refused_total{{limit="{limit}"}}')


@asynccontextmanager
async def unaffected_watcher(notifier: Notifier) -> AsyncIterator[None]:
    """Watch a job during the block; at its end, the watcher must still get updates."""
    job_id = new_id()
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["version"] == 0
        yield
        await notifier.report(report(job_id, 1, status="succeeded"))
        assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["status"] == "succeeded"


async def all_closed(notifier: Notifier) -> bool:
    """Return whether all client connections are closed."""
    return await notifier.metric("notifier_connections") == 0


async def wait_for_close(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    """Read a WebSocket until it is closed; return the close code."""
    async for _ in socket:
        pass
    return socket.close_code


async def test_connections_over_the_limit_are_rejected(limited_notifier: Notifier) -> None:
    """A WebSocket is closed with 1013; a stream or long poll is answered 503, but a plain request is served."""
    await wait_until(lambda: all_closed(limited_notifier))
    before = await refusals(limited_notifier, "connections")
    async with unaffected_watcher(limited_notifier):
        session, url = limited_notifier.session, limited_notifier.public
        sockets = [await session.ws_connect(f"{url}/live") for _ in range(MAX_CONNECTIONS - 1)]
        for socket in sockets:
            await socket.send_json({"watch": limited_notifier.token(new_id())})
            await socket.receive_json()
        async with session.ws_connect(f"{url}/live") as socket:
            assert await wait_for_close(socket) == 1013
        body = {"watch": [{"watch": limited_notifier.token(new_id()), "version": 0}]}
        for path in ("/live/events", "/live/jobs"):
            async with session.post(url + path, json=body, headers={"Prefer": "wait=5"}) as response:
                assert (response.status, (await response.json())["code"]) == (503, "overloaded")
                assert int(response.headers["Retry-After"]) > 0
        async with session.post(f"{url}/live/jobs", json=body) as response:
            assert response.status == 200
        for socket in sockets:
            await socket.close()
    assert await refusals(limited_notifier, "connections") == before + 3


@pytest.mark.parametrize("path", ["/live", "/live/events"])
async def test_error_names_the_job_over_the_limit(limited_notifier: Notifier, path: str) -> None:
    """A client that watches one job too many gets an error with that job's id; its other jobs are watched."""
    before = await refusals(limited_notifier, "watches")
    ids = [new_id() for _ in range(MAX_WATCHES + 1)]
    tokens = [limited_notifier.token(job_id) for job_id in ids]
    if path == "/live":
        async with limited_notifier.socket() as socket:
            for token in tokens:
                await socket.send_json({"watch": token})
            messages = [await socket.receive_json(timeout=PATIENCE_S) for _ in tokens]
            (error,) = [message["error"] for message in messages if "error" in message]
            await socket.send_json({"unwatch": ids[0]})
            await socket.send_json({"watch": tokens[-1]})
            assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["id"] == ids[-1]
    else:
        async with (
            limited_notifier.session.post(limited_notifier.public + path, json={"watch": tokens}) as response,
            aclosing(read_events(response)) as stream,
        ):
            events = [await anext(stream) for _ in range(len(tokens) + 1)]  # the first is the opening comment
        (error,) = [event.data for event in events if event.name == "error"]
    assert (error["code"], error["job_id"]) == ("too_many_watches", ids[-1])
    assert await refusals(limited_notifier, "watches") == before + 1


async def test_websocket_without_a_request_is_closed(stores: dict[str, str], keys: Path) -> None:
    """A client that sends nothing, or no valid request, is closed with 1008 after `FIRST_MESSAGE_S`."""
    async with running_notifier(stores, keys, FIRST_MESSAGE_S="4") as notifier:
        async with unaffected_watcher(notifier), notifier.socket() as silent, notifier.socket() as invalid:
            await invalid.send_str("[]")
            assert [await wait_for_close(silent), await wait_for_close(invalid)] == [1008, 1008]
        assert await refusals(notifier, "first_message") == 2


@pytest.mark.parametrize("text", ["{}", '{"watch": "x"}', "not JSON"])
async def test_websocket_that_floods_is_closed(limited_notifier: Notifier, text: str) -> None:
    """A client that sends 10,000 messages at once is closed with 1008, and other clients are still served."""
    before = await refusals(limited_notifier, "messages")
    async with unaffected_watcher(limited_notifier), limited_notifier.socket() as socket:

        async def flood() -> None:
            for _ in range(10_000):
                await socket.send_str(text)

        flooding = asyncio.create_task(flood())
        assert await asyncio.wait_for(wait_for_close(socket), PATIENCE_S) == 1008
        await asyncio.gather(flooding, return_exceptions=True)
    assert await refusals(limited_notifier, "messages") == before + 1
