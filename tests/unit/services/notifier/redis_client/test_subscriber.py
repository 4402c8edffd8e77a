"""The subscriber over a model of a Redis node, which processes commands and delivers replies when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from services.notifier.redis_client.subscriber import CHANNELS_PER_COMMAND, Subscriber
from tests.unit.services.notifier.redis_client.model_cluster import NODES, ModelCluster, ModelConnection
from tests.waiting import wait_until

CHANNEL, NEIGHBOR, OTHER = "{a}1", "{a}2", "{b}"  # the first two share a slot


class RecordingListener:
    """Records the events of a subscriber."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.subscribed: list[str] = []
        self.moves = 0

    def on_message(self, channel: bytes, data: bytes) -> None:
        self.messages.append((channel, data))

    def on_subscribed(self, channel: bytes) -> None:
        self.subscribed.append(channel.decode())

    def on_slots_moved(self) -> None:
        self.moves += 1


class RunningSubscriber:
    """A subscriber that runs, its listener, and the model of its node."""

    def __init__(self, *, sharded: bool) -> None:
        self.cluster = ModelCluster((CHANNEL, NEIGHBOR, OTHER), sharded=sharded)
        self.cluster.owners = dict.fromkeys(self.cluster.owners, NODES[0])
        self.listener = RecordingListener()
        self.subscriber = Subscriber(
            partial(self.cluster.connect, NODES[0]), self.listener, 600, sharded=sharded, address=lambda: "redis:6379"
        )

    @property
    def connection(self) -> ModelConnection:
        """The newest connection."""
        return self.cluster.connections[-1]

    def sent(self, command: str) -> list[tuple[str, ...]]:
        """Return the channels of each such command so far, plain or sharded, and drop all commands."""
        names = (command, f"S{command}")
        commands = [channels for name, *channels in self.cluster.sent if name in names]
        self.cluster.sent.clear()
        return [tuple(sorted(channels)) for channels in commands]


@pytest.fixture(params=[False, True], ids=["plain", "sharded"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[RunningSubscriber]:
    """Run a subscriber until the test ends."""
    running = RunningSubscriber(sharded=request.param)
    task = asyncio.create_task(running.subscriber.run())
    await running.cluster.settle()
    running.cluster.sent.clear()
    yield running
    task.cancel()
    await asyncio.wait({task})


async def one_iteration() -> None:
    """Run the event loop once."""
    await asyncio.sleep(0)


async def test_a_channel_that_is_left_and_joined_again_at_once_is_left_in_the_end(running: RunningSubscriber) -> None:
    """A late confirmation of the first UNSUBSCRIBE does not make the subscriber forget the second subscription."""
    subscriber = running.subscriber
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    subscriber.unsubscribe(CHANNEL)
    await one_iteration()
    assert not subscriber.subscribe(CHANNEL), "the channel is being left"
    await one_iteration()
    while running.connection.commands:
        running.connection.process()
    while running.connection.replies:
        running.connection.deliver()
    subscriber.unsubscribe(CHANNEL)
    await running.cluster.settle()
    assert running.cluster.subscriptions() == {}
    assert running.listener.moves == 0


async def test_a_channel_that_is_joined_again_is_confirmed_again(running: RunningSubscriber) -> None:
    """A channel that is being left does not count as confirmed, because messages may be missed until it is joined."""
    subscriber = running.subscriber
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    assert subscriber.subscribe(CHANNEL)
    subscriber.unsubscribe(CHANNEL)
    await one_iteration()
    assert not subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    assert subscriber.subscribe(CHANNEL)
    assert running.listener.subscribed == [CHANNEL] * 2
    assert running.cluster.subscriptions() == {CHANNEL: NODES[0]}


async def test_changes_of_one_iteration_are_sent_together(running: RunningSubscriber) -> None:
    """Only what changes in the end is sent; a sharded command accepts a single slot."""
    subscriber = running.subscriber
    for channel in (CHANNEL, NEIGHBOR, OTHER):
        subscriber.subscribe(channel)
    subscriber.unsubscribe(OTHER)
    await running.cluster.settle()
    together = [(CHANNEL, NEIGHBOR)] if not running.cluster.sharded else [(CHANNEL,), (NEIGHBOR,)]
    assert sorted(running.sent("SUBSCRIBE")) == together
    subscriber.unsubscribe(CHANNEL)
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    assert running.cluster.sent == []
    for channel in (CHANNEL, NEIGHBOR):
        subscriber.unsubscribe(channel)
    await running.cluster.settle()
    assert sorted(running.sent("UNSUBSCRIBE")) == together
    assert running.cluster.subscriptions() == {}


async def test_a_command_has_a_limited_number_of_channels() -> None:
    """A reconnect with thousands of channels sends a command for each group of them."""
    running = RunningSubscriber(sharded=False)
    channels = [f"{{{number}}}" for number in range(CHANNELS_PER_COMMAND + 1)]
    running.cluster.owners = dict.fromkeys(channels, NODES[0])
    for channel in channels:
        running.subscriber.subscribe(channel)
    task = asyncio.create_task(running.subscriber.run())
    await running.cluster.settle()
    assert sorted(len(channels) for channels in running.sent("SUBSCRIBE")) == [1, CHANNELS_PER_COMMAND]
    assert len(running.cluster.subscriptions()) == len(channels)
    task.cancel()
    await asyncio.wait({task})


async def test_messages_are_forwarded(running: RunningSubscriber) -> None:
    """Messages of plain and of sharded channels reach the listener."""
    running.subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    running.connection.replies.extend([[b"message", b"{a}1", b"x"], [b"smessage", b"{b}", b"y"]])
    await running.cluster.settle()
    assert running.listener.messages == [(b"{a}1", b"x"), (b"{b}", b"y")]


@pytest.mark.parametrize("running", [True], indirect=True, ids=["sharded"])
async def test_a_moved_channel_is_requested_again(running: RunningSubscriber) -> None:
    """When Redis ends a subscription, the listener is asked for the channel's node, which may be the same again."""
    subscriber = running.subscriber
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    for _ in NODES:
        running.cluster.move(CHANNEL)
    await running.cluster.settle()
    assert running.listener.moves == 1
    assert running.sent("SUBSCRIBE") == [(CHANNEL,)], "the listener decides where to subscribe"
    assert not subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    assert running.sent("SUBSCRIBE") == [(CHANNEL,)]
    assert running.cluster.subscriptions() == {CHANNEL: NODES[0]}


@pytest.mark.parametrize("running", [True], indirect=True, ids=["sharded"])
async def test_a_refused_channel_leaves_the_others_subscribed(running: RunningSubscriber) -> None:
    """MOVED concerns the requests of one slot. The connection stays, and the refused channel may be requested again."""
    subscriber, connection = running.subscriber, running.connection
    subscriber.subscribe(OTHER)
    await running.cluster.settle()
    running.cluster.move(CHANNEL)
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    assert running.listener.moves == 1
    assert running.cluster.subscriptions() == {OTHER: NODES[0]}
    running.cluster.move(CHANNEL)
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    assert running.cluster.subscriptions() == {CHANNEL: NODES[0], OTHER: NODES[0]}
    assert running.connection is connection


@pytest.mark.parametrize("running", [True], indirect=True, ids=["sharded"])
async def test_a_slot_that_moves_while_its_channel_is_left(running: RunningSubscriber) -> None:
    """Redis ends the subscription and refuses the UNSUBSCRIBE; the channel can be joined again before and after it."""
    subscriber, connection = running.subscriber, running.connection
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    subscriber.unsubscribe(CHANNEL)
    await one_iteration()
    running.cluster.move(CHANNEL)
    connection.deliver()  # the end of the subscription, which looks like the reply to UNSUBSCRIBE
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    assert running.cluster.subscriptions() == {}
    running.cluster.move(CHANNEL)
    subscriber.subscribe(CHANNEL)
    await running.cluster.settle()
    assert running.cluster.subscriptions() == {CHANNEL: NODES[0]}
    assert running.connection is connection


async def test_a_lost_connection_is_logged_with_its_address_and_replaced(running: RunningSubscriber) -> None:
    """An error reply, such as NOPERM, ends the connection; the next one subscribes to the wanted channels again."""
    for channel in (CHANNEL, OTHER):
        running.subscriber.subscribe(channel)
    await running.cluster.settle()
    running.subscriber.unsubscribe(OTHER)
    await one_iteration()
    with capture_logs() as logs:
        running.connection.replies.append(ResponseError("NOPERM"))
        running.connection.deliver()
        await wait_until(lambda: len(running.cluster.connections) == 2)
    await running.cluster.settle()
    assert running.cluster.subscriptions() == {CHANNEL: NODES[0]}
    assert logs == [
        {
            "event": "redis_subscription_lost",
            "log_level": "warning",
            "address": "redis:6379",
            "error": "ConnectionError",
        }
    ]
    assert running.listener.moves == 1, "the node may have left"
