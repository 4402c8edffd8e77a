"""Two replicas behind a round-robin proxy without sticky sessions serve SignalR clients that have no WebSocket.

Each request of a client is a new connection, and reaches the other replica than the one before it.
The long form has 200 clients of each transport: LONG=1 make test ARGS=tests/integration/test_signalr_replicas.py
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from tests.integration.conftest import new_id, report
from tests.integration.load_watchers import WatchedJob
from tests.integration.replicas import Replicas
from tests.integration.signalr_clients import CLIENT_TYPES, SignalRClient
from tests.integration.tcp_proxy import HOST, TcpProxy
from tests.waiting import PATIENCE_S, wait_until

log = logging.getLogger(__name__)

CLIENTS = 200 if os.environ.get("LONG") else 8  # of each transport
CLIENTS_PER_JOB = 4
CONNECTING = 16  # the most clients that connect at the same time
STEPS = 10
STEP_S = 0.1  # between two reports of a job


def new_job(signer: TokenSigner) -> WatchedJob:
    """Return a job with its token."""
    job_id, now = new_id(), Timestamp.now()
    grant = Grant(job_id=uuid.UUID(job_id), kind="k", submitted_at=now, expires_at=now.after(3600))
    return WatchedJob(job_id, signer.sign(grant))


async def report_step(step: int, jobs: list[WatchedJob], replicas: Replicas, session: aiohttp.ClientSession) -> None:
    """Report a step of all jobs, to the replicas in turn."""
    status, progress = "succeeded" if step == STEPS else "running", {"current": step, "total": STEPS}
    reports = [report(job.id, step, progress=progress, status=status) for job in jobs]
    headers = {"Authorization": f"Bearer {(replicas.keys / 'report.key').read_text().strip()}"}
    url = f"{replicas.all[step % len(replicas.all)].internal}/reports"
    async with session.post(url, json=reports, headers=headers) as response:
        assert [verdict["accepted"] for verdict in await response.json()] == [True] * len(jobs)


async def last_version(job: WatchedJob, base: str, session: aiohttp.ClientSession) -> int:
    """Return the version of a job's record."""
    headers = {"Authorization": f"Bearer {job.token}"}
    async with session.get(f"{base}/live/jobs/{job.id}", headers=headers) as response:
        return int((await response.json())["version"])


@pytest.mark.timeout(2 * PATIENCE_S)
async def test_all_clients_see_their_job_end(stores: dict[str, str], redis: Redis, tmp_path: Path) -> None:
    """Each client ends with the last version and 100 %, and receives no version or percentage twice or backwards."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with (
        Replicas.running([stores["REDIS_URL"]] * 2, tmp_path / "keys") as replicas,
        TcpProxy.running(lambda: [replica.port for replica in replicas.all]) as proxy,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        base, signer = f"http://{HOST}:{proxy.port}", TokenSigner((replicas.keys / "token.pem").read_text())
        jobs = [new_job(signer) for _ in range(CLIENTS // CLIENTS_PER_JOB)]
        clients: list[SignalRClient] = [
            client_type(job, base, session)
            for client_type in CLIENT_TYPES
            for job in jobs
            for _ in range(CLIENTS_PER_JOB)
        ]
        await report_step(1, jobs, replicas, session)
        async with asyncio.TaskGroup() as running:
            for number, client in enumerate(clients, 1):
                running.create_task(client.run())
                if number % CONNECTING == 0:
                    await wait_until(lambda: all(client.version for client in clients[:number]))  # noqa: B023
            for step in range(2, STEPS + 1):
                await report_step(step, jobs, replicas, session)
                await asyncio.sleep(STEP_S)
            ended_at = time.monotonic()
        seen, seconds = sum(len(client.percents) for client in clients) / len(clients), time.monotonic() - ended_at
        log.info("%d clients saw %.1f of %d percentages, and the end %.1f s later", len(clients), seen, STEPS, seconds)
        assert [problem for client in clients for problem in client.problems] == []
        versions = {job.id: await last_version(job, base, session) for job in jobs}
        assert [client.version for client in clients] == [versions[client.job.id] for client in clients]
        assert {client.percents[-1] for client in clients} == {100}
