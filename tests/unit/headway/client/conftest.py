"""Fixtures of the tests of the clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from headway.client import Client, notifier_connection, reconnects, retries
from tests.unit.headway.client.fake_services import Services
from tests.waiting import free_ports


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    """Run the fake services for one test."""
    services = Services()
    app = web.Application()
    app.router.add_get("/live", services.serve_socket)
    app.router.add_route("*", "/{path:.*}", services.respond)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    services.url = f"http://127.0.0.1:{port}"
    yield services
    await runner.cleanup()


@pytest.fixture
async def client(services: Services) -> AsyncIterator[Client]:
    """Open a client of the fake services."""
    async with Client(services.url, api_key="the key") as client:
        yield client


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the delays between retries."""
    monkeypatch.setattr(retries, "BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(reconnects, "RECONNECT_SPREAD_S", 0.001)
    monkeypatch.setattr(reconnects, "RECONNECT_CAP_S", 0.01)
    monkeypatch.setattr(reconnects, "OVERLOAD_CAP_S", 0.01)
    monkeypatch.setattr(reconnects, "MIN_OVERLOAD_DELAY_S", 0.01)
    monkeypatch.setattr(notifier_connection, "EMPTY_POLL_DELAY_S", 0.01)
