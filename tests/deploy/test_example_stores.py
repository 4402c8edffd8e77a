"""The stores of examples/app/compose.yaml in containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from azure.core.exceptions import AzureError
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from dev.environment import ROOT, service_environment, state_dir
from headway.azure.job_queue import JobQueue
from tests.deploy.containers import docker
from tests.waiting import free_ports, wait_until

pytestmark = pytest.mark.containers


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Start the stores on free ports as docs/get-started.md does; yield the ports of Azurite and Valkey."""
    azurite, valkey = free_ports(2)
    text = (ROOT / "examples/app/compose.yaml").read_text()
    file = tmp_path / "compose.yaml"
    file.write_text(text.replace(":10001:", f":{azurite}:").replace(":6390:", f":{valkey}:"))
    compose = ("compose", f"--file={file}", f"--project-name=stores-{azurite}")
    docker(*compose, "up", "--detach")
    yield azurite, valkey
    docker(*compose, "down", "--volumes")


async def test_stores_are_reachable_and_durable(ports: tuple[int, int]) -> None:
    """The queue accepts and delivers a message; Valkey writes an append-only file and evicts no keys."""
    azurite, valkey = ports
    settings = {"AZURITE_PORT": str(azurite), "VALKEY_PORT": str(valkey)}
    env = service_environment(state_dir({}), settings)
    async with JobQueue.connect(env["QUEUE_CONNECTION_STRING"], "jobs") as queue:

        async def sent() -> bool:
            with suppress(AzureError):
                await queue.send("a message")
                return True
            return False

        await wait_until(sent, 60)
        (message,) = await queue.receive(1, 30)
        assert message.text == "a message"
    async with Redis.from_url(env["REDIS_URL"]) as redis:

        async def answers() -> bool:
            with suppress(ConnectionError):
                return bool(await redis.ping())
            return False

        await wait_until(answers, 60)
        options = await redis.config_get("appendonly", "maxmemory-policy")
        assert options == {"appendonly": "yes", "maxmemory-policy": "noeviction"}
