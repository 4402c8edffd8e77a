"""The held request of a worker, against a real HTTP server that answers as it is told to."""

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


class FakeNotifier:
    """Holds requests until it is told what to answer; a request for no time is answered at once."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[float] = []
        self.held = 0
        self.broken = False
        self.answers: asyncio.Queue[int] = asyncio.Queue()

    async def take(self, request: web.Request) -> web.Response:
        """Serve `GET /wake`."""
        self.asked.append(float(request.query["timeout_s"]))
        if self.broken:
            return web.Response(status=503)
        if self.asked[-1] == 0:
            return web.Response(status=204)
        self.held += 1
        try:
            return web.Response(status=await self.answers.get())
        finally:
            self.held -= 1


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Serve a fake notifier."""
    fake, app = FakeNotifier(), web.Application()
    app.add_routes([web.get("/wake", fake.take)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.02)


@asynccontextmanager
async def hearing(notifier: FakeNotifier) -> AsyncIterator[tuple[WakeupListener, WakeupClient]]:
    """Hear hints, with a waker that only takes down what it owes."""
    async with WakeupClient.connect(None) as waker, WakeupListener.connect(notifier.url, waker) as hints:
        task = asyncio.create_task(hints.run())
        try:
            yield hints, waker
        finally:
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_request_is_held_while_there_is_room(notifier: FakeNotifier) -> None:
    """None before, then one that shows that hints flow, then one after the other, each for a long time."""
    async with hearing(notifier) as (hints, _):
        await asyncio.sleep(0)
        assert notifier.asked == []
        hints.resume()
        for _ in range(3):
            await wait_until(lambda: notifier.held)
            assert hints.connected
            notifier.answers.put_nowait(204)
            await wait_until(lambda: not notifier.answers.qsize())
        assert not hints.received.is_set()
        await wait_until(lambda: notifier.held)
        assert notifier.asked == [0, *[LONG_POLL_S] * 4]
        notifier.answers.put_nowait(200)
        await wait_until(hints.received.is_set)


async def test_a_hint_for_which_there_is_no_room_is_passed_on(notifier: FakeNotifier) -> None:
    """Then no further request is held until there is some."""
    async with hearing(notifier) as (hints, waker):
        hints.resume()
        await wait_until(lambda: notifier.held)
        hints.pause()
        assert not waker._pending.is_set()
        notifier.answers.put_nowait(200)
        await wait_until(waker._pending.is_set)
        assert not hints.received.is_set()
        assert not notifier.held
        hints.resume()
        await wait_until(lambda: notifier.held)


async def test_a_hint_that_came_too_late_for_this_worker_is_passed_on(notifier: FakeNotifier) -> None:
    """It came while the last slot was filled: another worker may have one."""
    async with hearing(notifier) as (hints, waker):
        hints.received.set()
        hints.pause()
        assert waker._pending.is_set()
        assert not hints.received.is_set()


async def test_losing_the_notifier_is_a_hint_and_it_is_found_again(notifier: FakeNotifier) -> None:
    """What the lost request would have brought is found by polling, once, and hints flow again after a while."""
    async with hearing(notifier) as (hints, _):
        hints.resume()
        await wait_until(lambda: notifier.held)
        notifier.broken = True
        notifier.answers.put_nowait(503)
        await wait_until(hints.received.is_set)
        assert not hints.connected
        hints.received.clear()
        asked = len(notifier.asked)
        await wait_until(lambda: len(notifier.asked) > asked + 3)
        assert set(notifier.asked[asked:]) == {0}
        assert not hints.received.is_set()
        notifier.broken = False
        await wait_until(lambda: notifier.held)
        assert hints.connected
