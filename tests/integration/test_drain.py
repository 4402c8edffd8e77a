"""Draining of a notifier: connections are closed evenly over time, and new ones end at once."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import aiohttp
import pytest

from tests.integration.conftest import Notifier, running_notifier
from tests.integration.event_stream import Event, read_events
from tests.waiting import PATIENCE_S, wait_until

WATCHERS = 12


async def read_stream(notifier: Notifier) -> list[Event]:
    """Watch a job over an event stream until the stream ends; return its blocks."""
    body = {"watch": [notifier.token(str(uuid.uuid4()))]}
    async with notifier.session.post(f"{notifier.public}/live/events", json=body) as response:
        assert response.status == 200
        return [event async for event in read_events(response)]


async def watch_socket(notifier: Notifier) -> tuple[float, int | None]:
    """Watch a job over a WebSocket until it closes; return the time and the close code."""
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(str(uuid.uuid4()))})
        async for _ in socket:
            pass
        return asyncio.get_running_loop().time(), socket.close_code


async def long_poll(notifier: Notifier) -> tuple[int, str | None]:
    """Send a long poll; return the response's status and its `Connection` header."""
    job_id = str(uuid.uuid4())
    headers = {"Authorization": f"Bearer {notifier.token(job_id)}", "Prefer": "wait=60", "If-None-Match": '"0"'}
    async with notifier.session.get(f"{notifier.public}/live/jobs/{job_id}", headers=headers) as response:
        return response.status, response.headers.get("Connection")


async def test_drain_closes_connections_evenly(stores: dict[str, str], tmp_path: Path) -> None:
    """WebSockets close with 1012, streams end with `retry:`, long polls are answered; new requests end at once."""
    async with running_notifier(stores, tmp_path / "keys", DRAIN_S="8") as notifier, asyncio.TaskGroup() as group:
        sockets = [group.create_task(watch_socket(notifier)) for _ in range(WATCHERS)]
        streams = [group.create_task(read_stream(notifier)) for _ in range(WATCHERS)]
        polls = [group.create_task(long_poll(notifier)) for _ in range(WATCHERS)]

        async def all_open() -> bool:
            return await notifier.metric("notifier_connections") == 3 * WATCHERS

        await wait_until(all_open)
        assert await notifier.metric("headway_draining") == 0
        notifier.process.terminate()
        await asyncio.wait(sockets, return_when=asyncio.FIRST_COMPLETED)
        assert await notifier.metric("headway_draining") == 1

        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await notifier.session.ws_connect(f"{notifier.public}/live")
        assert refusal.value.status == 503
        assert refusal.value.headers is not None
        assert int(refusal.value.headers["Retry-After"]) > 0
        late_stream = await read_stream(notifier)
        assert [event.retry is not None for event in late_stream] == [True]
        assert await long_poll(notifier) == (304, "close")

        closed = [await socket for socket in sockets]
        assert {code for _, code in closed} == {1012}
        for events in [await stream for stream in streams]:
            assert events[-1].retry is not None
        assert {await response for response in polls} == {(304, "close")}
        closed_at = sorted(time for time, _ in closed)
        assert closed_at[-1] - closed_at[0] > 1  # spread over the drain, not at once
        assert await asyncio.wait_for(notifier.process.wait(), PATIENCE_S) == 0
