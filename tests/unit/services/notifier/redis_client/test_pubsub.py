"""The bus over a connection that fails when it is told to."""

from __future__ import annotations

import asyncio

import pytest

from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from tests.channels import RecordingHandler
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis
from tests.waiting import wait_until


@pytest.mark.parametrize("lost_first", [True, False])
async def test_a_bus_stops_though_its_connection_is_lost_in_that_moment(lost_first: bool) -> None:
    """A lost connection is made anew for ever, but not once the service stops."""
    async with FakeRedis.running() as fake, redis_from_url(f"redis://127.0.0.1:{fake.address.port}") as servers:
        bus = PubSub(servers)
        bus.subscribe("headway:wake", RecordingHandler())
        running = asyncio.create_task(bus.run())
        await wait_until(lambda: {b"SUBSCRIBE", b"PING"} <= {command[0] for command in fake.asked})
        for act in (fake.cut, running.cancel) if lost_first else (running.cancel, fake.cut):
            act()
        await asyncio.wait({running}, timeout=5)
        assert running.cancelled()


async def test_a_server_that_says_nothing_is_left() -> None:
    """Not every peer says goodbye: a connection without an answer to its pings is made anew."""
    async with FakeRedis.running() as fake, redis_from_url(f"redis://127.0.0.1:{fake.address.port}") as servers:
        bus = PubSub(servers, subscription_timeout_s=0.2)
        for channel in ("headway:job:{a}", "headway:wake"):
            bus.subscribe(channel, RecordingHandler())
        running = asyncio.create_task(bus.run())
        await wait_until(lambda: len(fake.connections) == 3)
        assert not bus.ready
        wanted = [command[1:] for command in fake.asked if command[0] == b"SUBSCRIBE"]
        assert all(sorted(one) == [b"headway:job:{a}", b"headway:wake"] for one in wanted)
        running.cancel()
