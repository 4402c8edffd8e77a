"""The memory of Redis is judged by what its nodes report, even if that is nothing."""

from __future__ import annotations

from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from services.notifier.records.memory import MemoryMonitor
from services.notifier.redis_client.connector import NodeAddress
from services.notifier.redis_client.topology import RedisClient


class FakeNodes:
    """Nodes that answer INFO."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = {NodeAddress("a", port): reply for port, reply in enumerate(replies)}

    def nodes(self) -> list[NodeAddress]:
        return list(self.replies)

    async def execute_on(self, node: NodeAddress, _commands: Any) -> list[Any]:
        return [self.replies[node]]


@pytest.mark.parametrize("replies", [(), (b"# Memory\r\n",), (b"used_memory:79\r\nmaxmemory:100\r\n",)])
async def test_nodes_without_figures_are_not_full(replies: tuple[bytes, ...]) -> None:
    """A cluster whose nodes are unknown has none; a proxy may leave out fields."""
    nodes = FakeNodes(b"used_memory:81\r\nmaxmemory:100\r\n", b"used_memory:99\r\nmaxmemory:0\r\n")
    monitor = MemoryMonitor(cast(RedisClient, nodes))
    with capture_logs() as lines:
        await monitor.read()
        nodes.replies = FakeNodes(*replies).replies
        await monitor.read()
    assert [line["event"] for line in lines] == ["redis_full", "redis_no_longer_full"]
    assert not monitor.is_full
