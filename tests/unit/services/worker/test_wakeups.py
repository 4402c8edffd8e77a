"""The wake-up listener of the worker against a fake notifier over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.runtime.wakeup_client import WakeupClient
from services.worker import wakeups as module
from services.worker.wakeups import LONG_POLL_S, WakeupListener
from tests.waiting import wait_until

QUEUE = "mail"


class FakeNotifier:
    """A notifier that answers each long poll with the next status of a queue, and a timeout of 0 s at once."""

    def __init__(self) -> None:
        self.url = ""
        self.timeouts_s: list[float] = []  # of all requests
        self.open_polls = 0
        self.failures_seen = 0  # by the listener
        self.unavailable = False
        self.statuses: asyncio.Queue[int] = asyncio.Queue()

    def on_failure(self) -> None:
        """Called when the listener sees that a long poll has failed."""
        self.failures_seen += 1

    async def wake(self, request: web.Request) -> web.Response:
        """Serve `GET /wake`."""
        assert request.query["queue"] == QUEUE
        self.timeouts_s.append(float(request.query["timeout_s"]))
        if self.unavailable:
            return web.Response(status=503)
        if self.timeouts_s[-1] == 0:
            return web.Response(status=204)
        self.open_polls += 1
        try:
            return web.Response(status=await self.statuses.get())
        finally:
            self.open_polls -= 1


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Run a fake notifier."""
    fake, app = FakeNotifier(), web.Application()
    app.add_routes([web.get("/wake", fake.wake)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.02)


@asynccontextmanager
async def listening(notifier: FakeNotifier) -> AsyncIterator[tuple[WakeupListener, WakeupClient]]:
    """Run a listener; wake-ups that it passes on stay pending in the client, which is not running."""
    async with (
        WakeupClient.connect(None, QUEUE) as client,
        WakeupListener.connect(notifier.url, QUEUE, client, notifier.on_failure) as listener,
    ):
        task = asyncio.create_task(listener.run())
        try:
            yield listener, client
        finally:
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_listener_keeps_a_long_poll_open_while_resumed(notifier: FakeNotifier) -> None:
    """A paused listener sends nothing; a resumed one checks the notifier with a request of 0 s, then long-polls."""
    async with listening(notifier) as (listener, _):
        await asyncio.sleep(0)
        assert notifier.timeouts_s == []
        listener.resume()
        for _ in range(3):
            await wait_until(lambda: notifier.open_polls)
            assert listener.connected
            notifier.statuses.put_nowait(204)
            await wait_until(lambda: not notifier.statuses.qsize())
        assert not listener.received.is_set()
        await wait_until(lambda: notifier.open_polls)
        assert notifier.timeouts_s == [0, *[LONG_POLL_S] * 4]
        notifier.statuses.put_nowait(200)
        await wait_until(listener.received.is_set)


async def test_paused_listener_passes_a_wakeup_on(notifier: FakeNotifier) -> None:
    """A wake-up that arrives after `pause` goes to another worker; the next long poll starts after `resume`."""
    async with listening(notifier) as (listener, client):
        listener.resume()
        await wait_until(lambda: notifier.open_polls)
        listener.pause()
        assert not client._pending.is_set()
        notifier.statuses.put_nowait(200)
        await wait_until(client._pending.is_set)
        assert not listener.received.is_set()
        assert not notifier.open_polls
        listener.resume()
        await wait_until(lambda: notifier.open_polls)


async def test_pausing_passes_a_received_wakeup_on(notifier: FakeNotifier) -> None:
    """A wake-up that arrived while the last slot was filled goes to another worker."""
    async with listening(notifier) as (listener, client):
        listener.received.set()
        listener.pause()
        assert client._pending.is_set()
        assert not listener.received.is_set()


async def test_failed_long_poll_counts_as_one_wakeup(notifier: FakeNotifier) -> None:
    """The lost response may have been a wake-up; then the listener reports failures until the notifier is back."""
    async with listening(notifier) as (listener, _):
        listener.resume()
        await wait_until(lambda: notifier.open_polls)
        assert notifier.failures_seen == 0
        notifier.unavailable = True
        notifier.statuses.put_nowait(503)
        await wait_until(listener.received.is_set)
        assert not listener.connected
        listener.received.clear()
        count = len(notifier.timeouts_s)
        await wait_until(lambda: len(notifier.timeouts_s) > count + 3)
        assert set(notifier.timeouts_s[count:]) == {0}
        assert notifier.failures_seen > 2
        assert not listener.received.is_set()
        notifier.unavailable = False
        await wait_until(lambda: notifier.open_polls)
        assert listener.connected
