"""When a notifier is one to send watchers to: all share one Redis, so a short loss must not take all away."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from tests.waiting import wait_until


class RedisProxy:
    """A way to Valkey that can be cut."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0  # so far
        self.server: asyncio.Server

    async def listen(self, port: int = 0) -> int:
        """Let connections through; return the port."""
        self.server = await asyncio.start_server(self._connect, "127.0.0.1", port)
        return int(self.server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """End all connections and take no more."""
        self.server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        other_reader, other_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers.append(other_writer)
        await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


async def test_a_short_loss_is_none_and_a_long_one_is(stores: dict[str, str]) -> None:
    """Not ready before the first subscription, ready through a loss that is made good, and not after a lasting one."""
    line = RedisProxy(stores["REDIS_URL"])
    port = await line.listen()
    async with redis_from_url(f"redis://127.0.0.1:{port}/0") as servers:
        bus = PubSub(servers, subscription_timeout_s=1)

        def ready() -> bool:
            return bus.ready

        assert not ready()
        running = asyncio.create_task(bus.run())
        await wait_until(ready)
        line.cut()
        await line.listen(port)
        await wait_until(lambda: line.connections > 1)
        assert ready()
        line.cut()
        await wait_until(lambda: not ready())
        await line.listen(port)
        await wait_until(ready)
        line.cut()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
