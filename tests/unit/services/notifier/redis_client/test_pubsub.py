"""Publish/subscribe over a connection that fails when a test says so."""

from __future__ import annotations

import asyncio

import pytest

from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from tests.channels import RecordingHandler
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis
from tests.waiting import wait_until


@pytest.mark.parametrize("lost_first", [True, False])
async def test_pubsub_stops_when_its_connection_is_lost_meanwhile(lost_first: bool) -> None:
    """A lost connection is reopened again and again, but not after the task was cancelled."""
    async with FakeRedis.running() as fake, redis_from_url(f"redis://127.0.0.1:{fake.address.port}") as redis:
        pubsub = PubSub(redis)
        pubsub.subscribe("headway:wake", RecordingHandler())
        running = asyncio.create_task(pubsub.run())
        await wait_until(lambda: {b"SUBSCRIBE", b"PING"} <= {command[0] for command in fake.commands})
        for action in (fake.disconnect_all, running.cancel) if lost_first else (running.cancel, fake.disconnect_all):
            action()
        await asyncio.wait({running}, timeout=5)
        assert running.cancelled()


async def test_a_silent_connection_is_replaced() -> None:
    """A connection whose pings are not answered is replaced, and all channels are subscribed again."""
    async with FakeRedis.running() as fake, redis_from_url(f"redis://127.0.0.1:{fake.address.port}") as redis:
        pubsub = PubSub(redis, subscription_timeout_s=0.2)
        for channel in ("headway:job:{a}", "headway:wake"):
            pubsub.subscribe(channel, RecordingHandler())
        running = asyncio.create_task(pubsub.run())
        await wait_until(lambda: len(fake.connections) == 3)
        assert not pubsub.ready
        subscribed = [command[1:] for command in fake.commands if command[0] == b"SUBSCRIBE"]
        assert all(sorted(channels) == [b"headway:job:{a}", b"headway:wake"] for channels in subscribed)
        running.cancel()


async def test_the_loss_of_redis_counts_from_its_last_reply() -> None:
    """A replica that is ready has not lost Redis; one that never had a reply counts from its start."""
    async with FakeRedis.running() as fake, redis_from_url(f"redis://127.0.0.1:{fake.address.port}") as redis:
        pubsub = PubSub(redis, subscription_timeout_s=0.1)
        assert not pubsub.ready
        assert not pubsub.is_lost_for(10)
        running = asyncio.create_task(pubsub.run())
        await wait_until(lambda: pubsub.is_lost_for(0.3))
        fake.handshake_replies[b"PING"] = b"+PONG"
        await wait_until(lambda: pubsub.ready and not pubsub.is_lost_for(0))
        fake.completes_handshake = False
        await wait_until(lambda: pubsub.is_lost_for(0))
        assert not pubsub.is_lost_for(10)
        await wait_until(lambda: pubsub.is_lost_for(0.3))
        fake.completes_handshake = True
        await wait_until(lambda: pubsub.ready and not pubsub.is_lost_for(0))
        running.cancel()
