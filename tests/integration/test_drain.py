"""A notifier that stops: everyone is told to come back, evenly, and nobody new is kept."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import aiohttp
import pytest

from tests.integration.conftest import Notifier, running_notifier
from tests.integration.event_stream import Event, read_events
from tests.waiting import wait_until

WATCHERS = 12


async def read(notifier: Notifier) -> list[Event]:
    """Stream a job to the stream's end."""
    body = {"watch": [notifier.token(str(uuid.uuid4()))]}
    async with notifier.session.post(f"{notifier.public}/live/events", json=body) as response:
        assert response.status == 200
        return [event async for event in read_events(response)]


async def listen(notifier: Notifier, opened: asyncio.Queue[None]) -> tuple[float, int | None]:
    """Watch a job on a socket until it closes; return when and how that was."""
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(str(uuid.uuid4()))})
        opened.put_nowait(None)
        async for _ in socket:
            pass
        return asyncio.get_running_loop().time(), socket.close_code


async def hold(notifier: Notifier) -> tuple[int, str | None]:
    """Ask for a job with a long wait; return the answer's status, and whether the connection ends with it."""
    job_id = str(uuid.uuid4())
    headers = {"Authorization": f"Bearer {notifier.token(job_id)}", "Prefer": "wait=60", "If-None-Match": '"0"'}
    async with notifier.session.get(f"{notifier.public}/live/jobs/{job_id}", headers=headers) as response:
        return response.status, response.headers.get("Connection")


async def test_a_drain_sends_everyone_away_evenly(stores: dict[str, str], tmp_path: Path) -> None:
    """Sockets close with 1012, streams with a `retry:`, held requests are answered; whoever comes goes at once."""
    async with running_notifier(stores, tmp_path / "keys", DRAIN_S="3") as notifier, asyncio.TaskGroup() as group:
        opened: asyncio.Queue[None] = asyncio.Queue()
        sockets = [group.create_task(listen(notifier, opened)) for _ in range(WATCHERS)]
        streams = [group.create_task(read(notifier)) for _ in range(WATCHERS)]
        held = [group.create_task(hold(notifier)) for _ in range(WATCHERS)]

        async def all_open() -> bool:
            return await notifier.metric("notifier_connections") == 3 * WATCHERS

        await wait_until(all_open)
        notifier.process.terminate()
        await asyncio.wait(sockets, return_when=asyncio.FIRST_COMPLETED)

        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await notifier.session.ws_connect(f"{notifier.public}/live")
        assert refusal.value.status == 503
        assert refusal.value.headers is not None
        assert int(refusal.value.headers["Retry-After"]) > 0
        late = await read(notifier)
        assert [event.retry is not None for event in late] == [True]
        assert await hold(notifier) == (304, "close")

        closed = [await socket for socket in sockets]
        assert {code for _, code in closed} == {1012}
        for events_ in [await stream for stream in streams]:
            assert events_[-1].retry is not None
        assert {await answer for answer in held} == {(304, "close")}
        moments = sorted(moment for moment, _ in closed)
        assert moments[-1] - moments[0] > 1  # spread over the drain, not at once
        assert await asyncio.wait_for(notifier.process.wait(), 15) == 0
