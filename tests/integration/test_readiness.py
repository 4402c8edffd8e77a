"""Readiness of a notifier. All replicas share one Redis, so a short loss must not make all of them unready at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from tests.waiting import wait_until


class RedisProxy:
    """A TCP proxy in front of Valkey whose connections a test can cut."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0  # accepted so far
        self.server: asyncio.Server

    async def listen(self, port: int = 0) -> int:
        """Accept and forward connections; return the port."""
        self.server = await asyncio.start_server(self._connect, "127.0.0.1", port)
        return int(self.server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Abort all connections and accept no more."""
        self.server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        upstream_reader, upstream_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers.append(upstream_writer)
        await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


async def test_notifier_stays_ready_during_a_short_loss_of_redis(stores: dict[str, str]) -> None:
    """It is ready from its first subscription on, and unready once Redis is unreachable for longer than the timeout."""
    proxy = RedisProxy(stores["REDIS_URL"])
    port = await proxy.listen()
    async with redis_from_url(f"redis://127.0.0.1:{port}/0") as client:
        pubsub = PubSub(client, subscription_timeout_s=2)

        def ready() -> bool:
            return pubsub.ready

        assert not ready()
        running = asyncio.create_task(pubsub.run())
        await wait_until(ready)
        proxy.cut()
        await proxy.listen(port)
        await wait_until(lambda: proxy.connections > 1)
        assert ready()
        proxy.cut()
        await wait_until(lambda: not ready())
        await proxy.listen(port)
        await wait_until(ready)
        proxy.cut()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
