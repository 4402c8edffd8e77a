"""The control listener of the worker against a fake notifier over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from headway.contracts import MAX_NAME_LENGTH
from services.runtime.settings import ReloadingFile, read_keys
from services.worker import control as module
from services.worker.control import ControlListener, create_worker_id
from tests.waiting import wait_until

KEY, WORKER = "the-report-key", "host-1"
HEARTBEAT_S = 10.0


class FakeNotifier:
    """A notifier that answers each request with the next status, and streams what a test sends; None ends a stream."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str | None]] = []  # the worker and the authorization of each request
        self.clients: set[object] = set()  # their socket addresses
        self.statuses: list[int] = []
        self.streams: list[asyncio.Queue[bytes | None]] = []

    async def control(self, request: web.Request) -> web.StreamResponse:
        """Serve `GET /control`."""
        self.requests.append((request.query["worker"], request.headers.get("Authorization")))
        self.clients.add(request.get_extra_info("peername"))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Location": "/elsewhere"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streams.append(asyncio.Queue())
        while (data := await self.streams[-1].get()) is not None:
            await response.write(data)
        return response

    async def stream(self, number: int = 1) -> asyncio.Queue[bytes | None]:
        """Return the stream with this number once it is open."""
        await wait_until(lambda: len(self.streams) >= number)
        return self.streams[number - 1]


class FakeReporter:
    """A reporter that records its heartbeat and the reports that are requested."""

    def __init__(self) -> None:
        self.heartbeat_s = 0.0
        self.requested: list[object] = []

    def set_heartbeat(self, seconds: float) -> None:
        self.heartbeat_s = seconds

    def report_now(self, job_ids: object = None) -> None:
        self.requested.append(job_ids)


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Run a fake notifier."""
    fake, app = FakeNotifier(), web.Application()
    app.add_routes([web.get("/control", fake.control)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.02)


@asynccontextmanager
async def listening(
    notifier: FakeNotifier, folder: Path, heartbeat_s: float = HEARTBEAT_S
) -> AsyncIterator[tuple[ControlListener, FakeReporter]]:
    """Run a listener."""
    (folder / "report.key").write_text(KEY)
    keys, reporter = ReloadingFile(folder / "report.key", read_keys), FakeReporter()
    connecting = ControlListener.connect(notifier.url, keys, WORKER, cast(Any, reporter), heartbeat_s)
    async with connecting as listener:
        task = asyncio.create_task(listener.run())
        try:
            yield listener, reporter
        finally:
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_the_first_message_slows_the_heartbeat_down(notifier: FakeNotifier, tmp_path: Path) -> None:
    """Only then the notifier can ask for reports: an open stream, or its comments, may precede the subscription."""
    async with listening(notifier, tmp_path) as (listener, reporter):
        stream = await notifier.stream()
        stream.put_nowait(b":\n\n")
        stream.put_nowait(b'data: {"unknown": 1}\n\ndata: garbage\n\n')
        await wait_until(stream.empty)
        assert (listener.connected, reporter.heartbeat_s, reporter.requested) == (False, 1.0, [])
        stream.put_nowait(b'data: {"report": "all"}\n\n')
        await wait_until(lambda: reporter.requested)
        assert (listener.connected, reporter.heartbeat_s, reporter.requested) == (True, HEARTBEAT_S, [None])
        stream.put_nowait(b'data: {"report": ["a", "b"]}\n\ndata: {"report": ["c"]}\n\n')
        await wait_until(lambda: len(reporter.requested) == 3)
        assert reporter.requested[1:] == [{"a", "b"}, {"c"}]
    assert notifier.requests == [(WORKER, f"Bearer {KEY}")]


@pytest.mark.parametrize("end", [None, b"data: " + bytes(1 << 20)], ids=["a drain", "a line without end"])
async def test_a_lost_stream_is_opened_again(notifier: FakeNotifier, tmp_path: Path, end: bytes | None) -> None:
    """Meanwhile the heartbeat is one second."""
    async with listening(notifier, tmp_path) as (listener, reporter):
        stream = await notifier.stream()
        stream.put_nowait(b'data: {"report": "all"}\n\n')
        await wait_until(lambda: listener.connected)
        stream.put_nowait(end)
        await wait_until(lambda: not listener.connected)
        assert reporter.heartbeat_s == 1.0
        (await notifier.stream(2)).put_nowait(b'data: {"report": "all"}\n\n')
        await wait_until(lambda: listener.connected)
        assert reporter.heartbeat_s == HEARTBEAT_S


async def test_a_silent_stream_is_lost(notifier: FakeNotifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may keep the connection open although the notifier is frozen."""
    monkeypatch.setattr(module, "TIMEOUT", aiohttp.ClientTimeout(sock_read=0.05))
    async with listening(notifier, tmp_path) as (listener, reporter):
        (await notifier.stream()).put_nowait(b'data: {"report": "all"}\n\n')
        await notifier.stream(2)
        assert (listener.connected, reporter.heartbeat_s, reporter.requested) == (False, 1.0, [None])


@pytest.mark.parametrize("status", [301, 401, 404, 503])
async def test_without_a_stream_the_heartbeat_is_one_second(
    notifier: FakeNotifier, tmp_path: Path, status: int
) -> None:
    """An older replica answers 404; a new connection may reach another. The report key is sent to no other address."""
    notifier.statuses = [status] * 3
    async with listening(notifier, tmp_path) as (listener, reporter):
        await notifier.stream()
        assert len(notifier.requests) == len(notifier.clients) == 4
        assert (listener.connected, reporter.heartbeat_s) == (False, 1.0)


async def test_a_short_heartbeat_stays_short(notifier: FakeNotifier, tmp_path: Path) -> None:
    """HEARTBEAT_S may be less than a second."""
    async with listening(notifier, tmp_path, 0.2) as (listener, reporter):
        assert reporter.heartbeat_s == 0.2
        (await notifier.stream()).put_nowait(b'data: {"report": "all"}\n\n')
        await wait_until(lambda: listener.connected)
        assert reporter.heartbeat_s == 0.2


def test_a_worker_id_is_unique_and_names_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers on one host differ; a long host name leaves room for the random part."""
    monkeypatch.setattr("socket.gethostname", lambda: "node-7" * 100)
    first, second = create_worker_id(), create_worker_id()
    assert first != second
    assert first.startswith("node-7")
    assert len(first) == MAX_NAME_LENGTH
