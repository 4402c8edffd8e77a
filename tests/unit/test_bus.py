"""The bus over a connection that fails when it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import ConnectionPool

from services.notifier.bus import Bus
from services.notifier.servers import Servers
from tests.waiting import wait_until


class FakeConnection:
    """A connection."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.commands: list[str] = []

    async def connect(self) -> None:
        """Connect."""

    async def send_command(self, name: str, *_arguments: Any) -> None:
        """Take a command."""
        self.commands.append(name)

    async def send_packed_command(self, commands: list[bytes], **_options: Any) -> None:
        """Take commands as they go over the wire."""
        self.commands += [command.split()[2].decode() for command in commands]

    async def read_response(self, **_options: Any) -> Any:
        """Wait for what the test answers."""
        return await self.answer

    async def disconnect(self, **_options: Any) -> None:
        """Disconnect."""


@pytest.mark.parametrize("lost_first", [True, False])
async def test_a_bus_stops_though_its_connection_is_lost_in_that_moment(
    lost_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection is made anew for ever, but not once the service stops."""
    pool, connection = ConnectionPool(), FakeConnection()
    monkeypatch.setattr(pool, "make_connection", lambda: connection)
    bus = Bus(Servers(pool), lambda *_: None, lambda _: None)
    running = asyncio.create_task(bus.run())
    await wait_until(lambda: {"SUBSCRIBE", "PING"} <= set(connection.commands))
    if lost_first:
        connection.answer.set_exception(ConnectionError())
        running.cancel()
    else:
        running.cancel()
        connection.answer.set_exception(ConnectionError())
    await asyncio.wait({running}, timeout=5)
    assert running.cancelled()
