"""What a client may ask for is bounded: each limit has its code and its metric, and nobody else feels it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp
import pytest

from tests.integration.conftest import Notifier, new_id, report, running_notifier
from tests.integration.event_stream import read_events
from tests.waiting import wait_until

CONNECTIONS, WATCHES = 5, 3


@pytest.fixture(scope="module")
async def tight(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notifier]:
    """Run a notifier that allows little."""
    settings = {
        "MAX_CONNECTIONS": str(CONNECTIONS),
        "MAX_WATCHES": str(WATCHES),
        "FIRST_MESSAGE_S": "1",
        "MESSAGES_PER_S": "10",
    }
    async with running_notifier(stores, tmp_path_factory.mktemp("keys"), **settings) as notifier:
        yield notifier


async def refused(notifier: Notifier, limit: str) -> float:
    """Tell how much was refused because of a limit."""
    return await notifier.metric(f'notifier_refused_total{{limit="{limit}"}}')


@asynccontextmanager
async def healthy(notifier: Notifier) -> AsyncIterator[None]:
    """Watch a job meanwhile; at the end it must still be heard of."""
    job_id = new_id()
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        assert (await socket.receive_json(timeout=10))["job"]["version"] == 0
        yield
        await notifier.report(report(job_id, 1, status="succeeded"))
        assert (await socket.receive_json(timeout=10))["job"]["status"] == "succeeded"


async def none_open(notifier: Notifier) -> bool:
    """Tell whether all connections are closed."""
    return await notifier.metric("notifier_connections") == 0


async def closing(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    """Read a socket to its end; return how it closed."""
    async for _ in socket:
        pass
    return socket.close_code


async def test_too_many_connections_are_sent_away(tight: Notifier) -> None:
    """A socket too many is closed with 1013, a stream or a held request with 503; a plain one is answered still."""
    await wait_until(lambda: none_open(tight))
    before = await refused(tight, "connections")
    async with healthy(tight):
        sockets = [await tight.session.ws_connect(f"{tight.public}/live") for _ in range(CONNECTIONS - 1)]
        for socket in sockets:
            await socket.send_json({"watch": tight.token(new_id())})
            await socket.receive_json()
        async with tight.session.ws_connect(f"{tight.public}/live") as socket:
            assert await closing(socket) == 1013
        body = {"watch": [{"watch": tight.token(new_id()), "version": 0}]}
        for path in ("/live/events", "/live/jobs"):
            async with tight.session.post(tight.public + path, json=body, headers={"Prefer": "wait=5"}) as response:
                assert (response.status, (await response.json())["code"]) == (503, "overloaded")
                assert int(response.headers["Retry-After"]) > 0
        async with tight.session.post(f"{tight.public}/live/jobs", json=body) as response:
            assert response.status == 200
        for socket in sockets:
            await socket.close()
    assert await refused(tight, "connections") == before + 3


@pytest.mark.parametrize("path", ["/live", "/live/events"])
async def test_too_many_watches_are_told_by_job(tight: Notifier, path: str) -> None:
    """The job that is one too many is named, the others are watched."""
    before = await refused(tight, "watches")
    ids = [new_id() for _ in range(WATCHES + 1)]
    tokens = [tight.token(job_id) for job_id in ids]
    if path == "/live":
        async with tight.socket() as socket:
            for token in tokens:
                await socket.send_json({"watch": token})
            told = [await socket.receive_json(timeout=10) for _ in tokens]
            (error,) = [message["error"] for message in told if "error" in message]
            await socket.send_json({"unwatch": ids[0]})
            await socket.send_json({"watch": tokens[-1]})
            assert (await socket.receive_json(timeout=10))["job"]["id"] == ids[-1]
    else:
        async with (
            tight.session.post(tight.public + path, json={"watch": tokens}) as response,
            aclosing(read_events(response)) as found,
        ):
            told = [await anext(found) for _ in range(len(tokens) + 1)]  # the first is the opening comment
        (error,) = [event.data for event in told if event.name == "error"]
    assert (error["code"], error["job_id"]) == ("too_many_watches", ids[-1])
    assert await refused(tight, "watches") == before + 1


async def test_a_socket_that_asks_for_nothing_is_closed(tight: Notifier) -> None:
    """Silence, and words without sense, are no request: 1008 after the time for the first one."""
    before = await refused(tight, "first_message")
    async with healthy(tight), tight.socket() as silent, tight.socket() as babbling:
        await babbling.send_str("[]")
        assert [await closing(silent), await closing(babbling)] == [1008, 1008]
    assert await refused(tight, "first_message") == before + 2


@pytest.mark.parametrize("text", ["{}", '{"watch": "x"}', "not JSON"])
async def test_too_many_messages_close_the_socket(tight: Notifier, text: str) -> None:
    """Ten thousand messages at once are too many: 1008, and nobody else waits for it."""
    before = await refused(tight, "messages")
    async with healthy(tight), tight.socket() as socket:

        async def flood() -> None:
            for _ in range(10_000):
                await socket.send_str(text)

        flooding = asyncio.create_task(flood())
        assert await asyncio.wait_for(closing(socket), 20) == 1008
        await asyncio.gather(flooding, return_exceptions=True)
    assert await refused(tight, "messages") == before + 1
