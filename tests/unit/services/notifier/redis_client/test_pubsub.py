"""Publish/subscribe over connections that fail, and whose replies arrive, when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notifier.redis_client import pubsub as pubsub_module
from services.notifier.redis_client import subscriber as subscriber_module
from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.url import redis_from_url
from tests.channels import RecordingHandler
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis
from tests.unit.services.notifier.redis_client.model_cluster import ModelCluster
from tests.waiting import PATIENCE_S, wait_until

Step = tuple[tuple[str, str | int], int]  # an action, and how many event-loop iterations follow it
CHANNELS = ("{a}1", "{a}2", "{b}")  # the first two share a slot
SUBSCRIPTION_TIMEOUT_S = 600  # no ping is due while a test runs
counts = st.integers(1, 4)
joins = st.tuples(st.sampled_from(["subscribe", "unsubscribe", "rejoin"]), st.sampled_from(CHANNELS))
replies = st.tuples(st.sampled_from(["process", "deliver"]), counts)
moves = st.tuples(st.just("move"), st.sampled_from(CHANNELS))
faults = st.tuples(st.sampled_from(["refresh", "disconnect"]), counts)
actions = st.one_of([joins, replies] * 4 + [moves, faults])
steps = st.lists(st.tuples(actions, st.integers(0, 1)), min_size=20, max_size=60)


@pytest.fixture(autouse=True, scope="module")
def _without_delays() -> Iterator[None]:
    """Reconnect and refresh the slots without a delay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pubsub_module, "MIN_REFRESH_INTERVAL_S", 0)
        patch.setattr(subscriber_module, "BACKOFF_S", 0)
        yield


class Scenario:
    """A PubSub over a model of Redis, and the channels that should be subscribed."""

    def __init__(self, *, sharded: bool) -> None:
        self.cluster = ModelCluster(CHANNELS, sharded=sharded)
        self.pubsub = PubSub(self.cluster, subscription_timeout_s=SUBSCRIPTION_TIMEOUT_S)
        self.handler = RecordingHandler()
        self.wanted: set[str] = set()

    async def run(self, steps: list[Step]) -> None:
        """Perform the steps, settle the model, and check the subscriptions."""
        running = asyncio.create_task(self.pubsub.run())
        await self.cluster.settle()
        for (name, argument), iterations in steps:
            if (coroutine := getattr(self, name)(argument)) is not None:
                await coroutine
            for _ in range(iterations):
                await asyncio.sleep(0)
        await self.cluster.settle()
        assert self.cluster.subscriptions() == {name: self.cluster.owners[name] for name in self.wanted}
        assert self.wanted <= self.handler.subscribed, "a confirmation is missing"
        running.cancel()
        await asyncio.wait({running})

    def subscribe(self, channel: str) -> None:
        """Subscribe to a channel. Unless it is confirmed already, a later call of `on_subscribed` is expected."""
        self.wanted.add(channel)
        self.handler.subscribed.discard(channel)
        if self.pubsub.subscribe(channel, self.handler):
            self.handler.subscribed.add(channel)
            assert not self._is_being_left(channel)

    def _is_being_left(self, channel: str) -> bool:
        commands = [command for connection in self.cluster.open_connections() for command in connection.commands]
        return any(command[0].endswith("UNSUBSCRIBE") and channel in command for command in commands)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel."""
        self.wanted.discard(channel)
        self.pubsub.unsubscribe(channel)

    async def rejoin(self, channel: str) -> None:
        """Unsubscribe, and subscribe again before any reply."""
        self.unsubscribe(channel)
        await asyncio.sleep(0)
        self.subscribe(channel)

    def move(self, channel: str) -> None:
        """Move a channel's slot to the other node."""
        self.cluster.move(channel)

    def process(self, count: int) -> None:
        """Process some commands at each node."""
        for connection in self.cluster.open_connections():
            for _ in range(min(count, len(connection.commands))):
                connection.process()

    def deliver(self, count: int) -> None:
        """Deliver some replies of each node."""
        for connection in self.cluster.open_connections():
            for _ in range(min(count, len(connection.replies))):
                connection.deliver()

    def disconnect(self, number: int) -> None:
        """Abort a connection."""
        if connections := self.cluster.open_connections():
            connections[number % len(connections)].close()

    def refresh(self, _: int) -> None:
        """Allow the client to refresh the slots."""
        self.cluster.may_refresh.set()


@pytest.mark.parametrize("sharded", [False, True])
@settings(max_examples=100)
@given(steps=steps)
def test_the_wanted_channels_are_subscribed_in_the_end(sharded: bool, steps: list[Step]) -> None:
    """Whatever the order of subscriptions, replies, moved slots and lost connections, no channel is missing or left."""
    asyncio.run(Scenario(sharded=sharded).run(steps))


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
        await asyncio.wait({running}, timeout=PATIENCE_S)
        assert running.cancelled()


async def test_a_silent_connection_is_replaced() -> None:
    """A connection whose pings are not answered is replaced, and all channels are subscribed again."""
    async with FakeRedis.running() as fake, redis_from_url(f"redis://127.0.0.1:{fake.address.port}") as redis:
        pubsub = PubSub(redis, subscription_timeout_s=0.2)
        for channel in ("headway:job:{a}", "headway:wake"):
            pubsub.subscribe(channel, RecordingHandler())
        running = asyncio.create_task(pubsub.run())
        await wait_until(lambda: len(fake.connections) >= 3)
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
