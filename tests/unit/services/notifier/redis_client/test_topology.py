"""The nodes of a cluster as fake servers, and the connections to them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio.sentinel import Sentinel
from structlog.testing import capture_logs

from services.notifier.redis_client import connection, topology
from services.notifier.redis_client.pubsub import PubSub
from services.notifier.redis_client.topology import DEFAULT_NODE, ClusterRedis, RedisClient, SlotNotCovered
from services.notifier.redis_client.url import redis_from_url
from tests.unit.services.notifier.redis_client.fake_redis import FakeRedis
from tests.waiting import free_ports, wait_until

SLOTS = 16_384
FIRST_HALF, SECOND_HALF = "{b}", "{a}"  # keys whose slots are there


def slots_reply(*nodes: FakeRedis) -> bytes:
    """Return a reply to CLUSTER SLOTS, by which these nodes share the slots evenly."""
    share = SLOTS // max(1, len(nodes))
    reply = b"*%d" % len(nodes)
    for number, (host, port) in enumerate(node.address for node in nodes):
        reply += b"\r\n*3\r\n:%d\r\n:%d" % (number * share, (number + 1) * share - 1)
        reply += b"\r\n*2\r\n$%d\r\n%s\r\n:%d" % (len(host), host.encode(), port)
    return reply


class FakeCluster:
    """A seed and two nodes. The seed knows the slots, but serves none."""

    def __init__(self, seed: FakeRedis, first: FakeRedis, second: FakeRedis) -> None:
        self.seed, self.first, self.second = seed, first, second
        self.client = redis_from_url(f"redis+cluster://{seed.address}")
        assert isinstance(self.client, ClusterRedis)
        self.share_slots(first, second)

    def share_slots(self, *nodes: FakeRedis) -> None:
        """Share the slots among some nodes, and let the client know that slots may have moved."""
        for server in (self.seed, self.first, self.second):
            server.handshake_replies[b"CLUSTER"] = slots_reply(*nodes)
        assert isinstance(self.client, ClusterRedis)
        self.client.slots_stale = True

    async def get(self, key: str, node: FakeRedis) -> int:
        """Send GET with the client, and let a node reply."""
        result = asyncio.ensure_future(self.client.execute([(key, ("GET", key))]))
        await wait_until(lambda: [b"GET", key.encode()] in node.commands)
        node.commands.clear()
        node.reply(b":1")
        (reply,) = await result
        return int(reply)


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeCluster]:
    """Run a fake cluster and its client, which may refresh the slots at any time."""
    monkeypatch.setattr(topology, "MIN_REFRESH_INTERVAL_S", 0)
    monkeypatch.setattr(connection, "CHECK_INTERVAL_S", 0.01)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(FakeRedis.running()) for _ in range(3)]
        cluster = FakeCluster(*servers)
        async with cluster.client:
            yield cluster


async def test_connections_to_nodes_that_left_are_closed(cluster: FakeCluster) -> None:
    """So is the one to the seed. A node that serves slots again gets a new connection."""
    for key, node in ((FIRST_HALF, cluster.first), (SECOND_HALF, cluster.second)):
        assert await cluster.get(key, node) == 1
    await wait_until(lambda: not cluster.seed.open_connections())
    cluster.share_slots(cluster.first)
    assert await cluster.get(SECOND_HALF, cluster.first) == 1
    await wait_until(lambda: not cluster.second.open_connections())
    assert len(cluster.first.open_connections()) == 1
    cluster.share_slots(cluster.second)
    assert await cluster.get(FIRST_HALF, cluster.second) == 1
    await wait_until(lambda: not cluster.first.open_connections())


async def test_a_node_that_knows_no_slots_is_not_believed(cluster: FakeCluster) -> None:
    """A node that has left the cluster replies without slots; the next one is asked."""
    assert await cluster.get(FIRST_HALF, cluster.first) == 1
    cluster.share_slots(cluster.second)
    cluster.first.handshake_replies[b"CLUSTER"] = slots_reply()
    assert await cluster.get(FIRST_HALF, cluster.second) == 1
    cluster.share_slots()
    with pytest.raises(SlotNotCovered):
        await cluster.client.refresh_slots()


async def test_a_failed_refresh_names_the_nodes() -> None:
    """The log shows which nodes were asked, and how each of them failed."""
    first, second = free_ports(2)
    async with redis_from_url(f"redis+cluster://127.0.0.1:{first},127.0.0.1:{second}") as client:
        with capture_logs() as logs:
            running = asyncio.create_task(PubSub(client).run())
            await wait_until(lambda: logs)
            running.cancel()
    assert logs[0]["event"] == "redis_topology_refresh_failed"
    assert re.findall(r"127\.0\.0\.1:(\d+) \(ConnectionError\)", logs[0]["reason"]) == [str(first), str(second)]


async def address_in_logs(client: RedisClient) -> str:
    """Return the address of the lost subscription that a PubSub logs first."""
    with capture_logs() as logs:
        running = asyncio.create_task(PubSub(client).run())
        await wait_until(lambda: logs)
        running.cancel()
        await asyncio.wait({running})
    return str(logs[0]["address"])


async def test_a_lost_subscription_names_the_server() -> None:
    """The log shows the address of the server, or the name of a primary that no sentinel knows."""
    (port,) = free_ports(1)
    async with redis_from_url(f"redis://:password@localhost:{port}/0") as client:
        assert await address_in_logs(client) == f"localhost:{port}"
    async with redis_from_url(f"redis+sentinel://localhost:{port}/0?sentinel_name=primary") as client:
        assert await address_in_logs(client) == "primary"


async def test_a_primary_is_named_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Sentinel has answered, the log shows the address of the primary."""

    async def discover_master(_sentinel: Sentinel, _name: str) -> tuple[str, int]:
        return fake.address

    monkeypatch.setattr(Sentinel, "discover_master", discover_master)
    async with FakeRedis.running() as fake, redis_from_url("redis+sentinel://x/0?sentinel_name=primary") as client:
        (await client.connect(DEFAULT_NODE)).close()
        assert client.address(DEFAULT_NODE) == str(fake.address)
