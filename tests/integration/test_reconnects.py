"""Python clients that lose their replica: they come back spread over two seconds, with one connection each.

`tests/unit/headway/client/test_reconnects.py` computes the same for 20,000 clients. The long form has 2,000:
`LONG=1 make test ARGS="tests/integration/test_reconnects.py --log-level=INFO -rP"`
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from headway.client import Client, notifier_connection
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from tests.integration.conftest import new_id, report
from tests.integration.replicas import Replicas
from tests.integration.tcp_proxy import TcpProxy
from tests.waiting import PATIENCE_S, metric, wait_until

log = logging.getLogger(__name__)

LONG_FORM = os.environ.get("LONG") == "1"
CLIENTS = 2_000 if LONG_FORM else 60
CONNECTING = 50  # at a time, at the beginning
SPREAD_S = 2.0


@pytest.fixture
async def replicas(stores: dict[str, str], redis: Redis, tmp_path: Path) -> AsyncIterator[Replicas]:
    """Run two replicas with the same Redis, and a proxy in front of them."""
    async with Replicas.running([stores["REDIS_URL"]] * 2, tmp_path / "keys") as replicas:
        yield replicas


def record_connections(proxy: TcpProxy) -> list[float]:
    """Return a list to which the proxy appends the time of each further connection."""
    accepted: list[float] = []
    connect = proxy.connect_upstream

    def record(connection: Any) -> None:
        accepted.append(time.monotonic())
        connect(connection)

    proxy.connect_upstream = record  # type: ignore[method-assign]
    return accepted


@pytest.mark.timeout(600)
async def test_clients_that_lose_their_replica_spread_their_reconnects(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica is killed: each of its clients opens one WebSocket, and no client misses the end of its job."""
    monkeypatch.setattr(notifier_connection, "HELLO_TIMEOUT_S", PATIENCE_S)  # this process runs all clients
    job_id, now = new_id(), Timestamp.now()
    grant = Grant(job_id=uuid.UUID(job_id), kind="k", submitted_at=now, expires_at=now.after(3600))
    token = TokenSigner((replicas.keys / "token.pem").read_text()).sign(grant)
    link = f"http://127.0.0.1:{replicas.proxy.port}/live/jobs/{job_id}#{token}"
    connecting, connected = asyncio.Semaphore(CONNECTING), []

    async def watch() -> str:
        async with Client() as client:
            snapshots = client.watch(link)
            async with connecting:
                connected.append((await anext(snapshots)).version)
            return [snapshot.status async for snapshot in snapshots][-1]

    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
        watches = [group.create_task(watch()) for _ in range(CLIENTS)]
        await wait_until(lambda: len(connected) == CLIENTS)
        killed, survivor = replicas.all
        lost = int(await metric(session, killed.internal, "notifier_connections"))
        accepted, killed_at = record_connections(replicas.proxy), time.monotonic()
        await killed.kill()

        async def all_are_back() -> bool:
            return await metric(session, survivor.internal, "notifier_connections") == CLIENTS

        await wait_until(all_are_back, poll_s=0.25)
        opened = await metric(session, survivor.internal, "notifier_connections_opened_total")
        headers = {"Authorization": f"Bearer {(replicas.keys / 'report.key').read_text().strip()}"}
        reports = [report(job_id, 1, status="succeeded")]
        async with session.post(f"{survivor.internal}/reports", json=reports, headers=headers) as response:
            assert response.status == 200
    assert {watch.result() for watch in watches} == {"succeeded"}
    assert lost > 0.4 * CLIENTS
    assert (len(accepted), opened) == (lost, CLIENTS)  # no second WebSocket, no stream and no long poll
    by_half_second = Counter(int(2 * (accepted_at - killed_at)) for accepted_at in accepted)
    log.info("%d of %d clients came back, by half second: %s", lost, CLIENTS, sorted(by_half_second.items()))
    assert by_half_second[0] < 0.5 * lost  # a quarter, or fewer if this process is slow
    assert accepted[-1] - killed_at > SPREAD_S / 2
