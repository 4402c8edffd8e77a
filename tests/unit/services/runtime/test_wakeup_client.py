"""The waker against a real HTTP server: one request at a time, and no failure that anybody minds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.runtime import wakeup_client as module
from services.runtime.wakeup_client import MAX_DELAY_S, SLOT_S, WakeupClient
from tests.waiting import free_ports, wait_until


class FakeNotifier:
    """Counts hints, and answers them once its gate is open."""

    def __init__(self) -> None:
        self.url = ""
        self.hints = 0
        self.status = 204
        self.gate = asyncio.Event()
        self.gate.set()

    async def take(self, _request: web.Request) -> web.Response:
        """Serve `POST /wake`."""
        self.hints += 1
        await self.gate.wait()
        return web.Response(status=self.status)


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Serve a fake notifier."""
    fake, app = FakeNotifier(), web.Application()
    app.add_routes([web.post("/wake", fake.take)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@asynccontextmanager
async def hinting(url: str | None) -> AsyncIterator[WakeupClient]:
    """Run a waker; its task must outlive whatever happens."""
    async with WakeupClient.connect(url) as waker:
        task = asyncio.create_task(waker.run())
        try:
            yield waker
        finally:
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_one_request_is_in_flight_and_what_comes_meanwhile_is_one_more(notifier: FakeNotifier) -> None:
    """A hundred submissions during a request are one more hint."""
    notifier.gate.clear()
    async with hinting(notifier.url) as waker:
        waker.notify()
        await wait_until(lambda: notifier.hints == 1)
        for _ in range(100):
            waker.notify()
            await asyncio.sleep(0)
        assert notifier.hints == 1
        notifier.gate.set()
        await wait_until(lambda: notifier.hints == 2 and not waker._pending.is_set())
    assert notifier.hints == 2


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_a_refused_hint_is_not_sent_again(notifier: FakeNotifier, status: int) -> None:
    """Whatever the answer is, the next hint is the next one that somebody asks for."""
    notifier.status = status
    async with hinting(notifier.url) as waker:
        for count in (1, 2):
            waker.notify()
            await wait_until(lambda count=count: notifier.hints == count)  # type: ignore[misc]
    assert notifier.hints == 2


async def test_a_notifier_that_is_away_is_not_minded(notifier: FakeNotifier) -> None:
    """A refused connection ends nothing, and a later hint arrives."""
    async with hinting(f"http://127.0.0.1:{free_ports(1)[0]}") as waker:
        waker.notify()
        await wait_until(lambda: not waker._pending.is_set())
        waker._url = f"{notifier.url}/wake"
        waker.notify()
        await wait_until(lambda: notifier.hints == 1)


async def test_an_answer_that_does_not_come_is_not_waited_for(
    notifier: FakeNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notifier that hangs holds up no later hint for long."""
    monkeypatch.setattr(module, "TIMEOUT", type(module.TIMEOUT)(total=0.05))
    notifier.gate.clear()
    async with hinting(notifier.url) as waker:
        waker.notify()
        await wait_until(lambda: notifier.hints == 1)
        waker.notify()
        await wait_until(lambda: notifier.hints == 2)


async def test_without_a_notifier_there_are_no_hints() -> None:
    """A submitter that is not told of one submits all the same."""
    async with hinting(None) as waker:
        waker.notify()
        await wait_until(lambda: not waker._pending.is_set())


async def test_the_last_hint_goes_out_before_the_end(notifier: FakeNotifier) -> None:
    """What is owed when the task has been cancelled, in the midst of a request too, is sent on leaving."""
    notifier.gate.clear()
    async with hinting(notifier.url) as waker:
        waker.notify()
        await wait_until(lambda: notifier.hints == 1)
        asyncio.get_running_loop().call_later(0.01, notifier.gate.set)
    assert notifier.hints == 2
    async with WakeupClient.connect(notifier.url) as waker:
        waker.notify_after(0)
    assert notifier.hints == 3


async def test_a_hidden_message_is_hinted_at_when_it_is_seen_again(
    notifier: FakeNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not sooner, and once for all that are seen again within a slot."""
    monkeypatch.setattr(module, "SLOT_S", 0.05)
    loop = asyncio.get_running_loop()
    async with hinting(notifier.url) as waker:
        began = loop.time()
        for _ in range(100):
            waker.notify_after(0.1)
        assert len(waker._slots) <= 2
        await wait_until(lambda: notifier.hints)
        assert loop.time() - began >= 0.1
        await wait_until(lambda: not waker._slots and not waker._pending.is_set())
    assert notifier.hints <= 2


def test_timers_are_bounded() -> None:
    """However many delayed jobs there are, a slot has one timer, and what is more than an hour off has none."""

    async def fill() -> int:
        async with WakeupClient.connect(None) as waker:
            for number in range(100_000):
                waker.notify_after(number / 10)
            return len(waker._slots)

    assert asyncio.run(fill()) < 1.1 * MAX_DELAY_S / SLOT_S
