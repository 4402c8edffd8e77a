"""The wake-up client against a real HTTP server: one request at a time, and failures are ignored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.runtime import wakeup_client as module
from services.runtime.wakeup_client import COALESCE_S, MAX_DELAY_S, WakeupClient
from tests.waiting import free_ports, wait_until

QUEUE = "mail"


class FakeNotifier:
    """Counts wake-ups, and answers them while `answering` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.wakeups = 0
        self.queues: set[str] = set()
        self.status = 204
        self.answering = asyncio.Event()
        self.answering.set()

    async def wake(self, request: web.Request) -> web.Response:
        """Handle `POST /wake`."""
        self.wakeups += 1
        self.queues.add(request.query["queue"])
        await self.answering.wait()
        return web.Response(status=self.status)


@pytest.fixture
async def notifier() -> AsyncIterator[FakeNotifier]:
    """Serve a fake notifier."""
    fake, app = FakeNotifier(), web.Application()
    app.add_routes([web.post("/wake", fake.wake)])
    async with TestServer(app) as server:
        fake.url = str(server.make_url(""))
        yield fake


@asynccontextmanager
async def running(url: str | None) -> AsyncIterator[WakeupClient]:
    """Run a client; its task must survive all failures."""
    async with WakeupClient.connect(url, QUEUE) as client:
        task = asyncio.create_task(client.run())
        try:
            yield client
        finally:
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_wakeups_during_a_request_are_sent_as_one(notifier: FakeNotifier) -> None:
    """A hundred submissions during a request cause one more request."""
    notifier.answering.clear()
    async with running(notifier.url) as client:
        client.notify()
        await wait_until(lambda: notifier.wakeups == 1)
        for _ in range(100):
            client.notify()
            await asyncio.sleep(0)
        assert notifier.wakeups == 1
        notifier.answering.set()
        await wait_until(lambda: notifier.wakeups == 2 and not client._pending.is_set())
    assert (notifier.wakeups, notifier.queues) == (2, {QUEUE})


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_a_rejected_wakeup_is_not_retried(notifier: FakeNotifier, status: int) -> None:
    """Whatever the status, the next request is for the next wake-up."""
    notifier.status = status
    async with running(notifier.url) as client:
        for count in (1, 2):
            client.notify()
            await wait_until(lambda count=count: notifier.wakeups == count)  # type: ignore[misc]
    assert notifier.wakeups == 2


async def test_an_unavailable_notifier_is_ignored(notifier: FakeNotifier) -> None:
    """After a refused connection the client continues, and a later wake-up arrives."""
    async with running(f"http://127.0.0.1:{free_ports(1)[0]}") as client:
        client.notify()
        await wait_until(lambda: not client._pending.is_set())
        client._url = f"{notifier.url}/wake"
        client.notify()
        await wait_until(lambda: notifier.wakeups == 1)


async def test_a_hanging_request_times_out(notifier: FakeNotifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notifier that does not answer delays a later wake-up by no more than the timeout."""
    monkeypatch.setattr(module, "TIMEOUT", type(module.TIMEOUT)(total=1))  # less is too little on a busy machine
    notifier.answering.clear()
    async with running(notifier.url) as client:
        client.notify()
        await wait_until(lambda: notifier.wakeups == 1)
        client.notify()
        await wait_until(lambda: notifier.wakeups == 2)


async def test_without_a_notifier_no_wakeups_are_sent() -> None:
    """A submitter without the notifier's URL ignores wake-ups."""
    async with running(None) as client:
        client.notify()
        await wait_until(lambda: not client._pending.is_set())


async def test_a_pending_wakeup_is_sent_on_exit(notifier: FakeNotifier) -> None:
    """A wake-up that is pending or in flight when the task is cancelled is sent when the client closes."""
    notifier.answering.clear()
    async with running(notifier.url) as client:
        client.notify()
        await wait_until(lambda: notifier.wakeups == 1)
        asyncio.get_running_loop().call_later(0.01, notifier.answering.set)
    assert notifier.wakeups == 2
    async with WakeupClient.connect(notifier.url, QUEUE) as client:
        client.notify_after(0)
    assert notifier.wakeups == 3


async def test_a_delayed_wakeup_is_sent_when_it_is_due(notifier: FakeNotifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up is not sent early, and all that are due within an interval are sent as one."""
    monkeypatch.setattr(module, "COALESCE_S", 0.5)
    loop = asyncio.get_running_loop()
    async with running(notifier.url) as client:
        started_at = loop.time()
        for _ in range(100):
            client.notify_after(0.1)
        assert len(client._scheduled) <= 2
        await wait_until(lambda: notifier.wakeups)
        assert loop.time() - started_at >= 0.1
        await wait_until(lambda: not client._scheduled and not client._pending.is_set())
    assert notifier.wakeups <= 2


def test_timers_are_bounded() -> None:
    """An interval has one timer for all its wake-ups, and a wake-up in more than an hour has none."""

    async def scheduled_timers() -> int:
        async with WakeupClient.connect(None, QUEUE) as client:
            for number in range(100_000):
                client.notify_after(number / 10)
            return len(client._scheduled)

    assert asyncio.run(scheduled_timers()) < 1.1 * MAX_DELAY_S / COALESCE_S
