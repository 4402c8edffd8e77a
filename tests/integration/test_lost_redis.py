"""A replica loses Redis: workers leave it at once, clients slowly, and it serves both again when Redis answers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import pytest

from headway.contracts import Progress, Timestamp, Verdict
from headway.tokens import Grant, TokenSigner
from services.runtime.settings import ReloadingFile, read_keys
from services.worker.reporting.report_stream import ReportStream
from services.worker.reporting.reporter import Reporter
from tests.integration.event_stream import read_events
from tests.integration.replicas import Replica, Replicas
from tests.integration.tcp_proxy import TcpProxy
from tests.reports import first_report
from tests.waiting import metric, wait_until

log = logging.getLogger(__name__)

SETTINGS = {"DEAF_S": "0.3", "UNREADY_S": "1"}
CLIENTS = 60  # one is closed per second
MAX_GAP_S = 5.0  # without a verdict, after the loss of Redis
HEARTBEAT_S = 0.1


class RedisLink:
    """The connections of one replica to Redis, which a test cuts."""

    def __init__(self, port: int) -> None:
        self.proxy: TcpProxy
        self._ports = [port]
        self._port = port

    @classmethod
    @asynccontextmanager
    async def running(cls, port: int) -> AsyncIterator[RedisLink]:
        """Run a proxy in front of Redis until the block ends."""
        link = cls(port)
        async with TcpProxy.running(lambda: link._ports) as link.proxy:
            yield link

    def cut(self) -> None:
        """Close all connections, and every further one."""
        self._ports.clear()
        for connection in list(self.proxy.connections):
            connection.transport.abort()

    def restore(self) -> None:
        """Forward new connections."""
        self._ports.append(self._port)


class Deployment:
    """Two replicas, their links to Redis, and a balancer in front of their internal listeners, ready or not."""

    def __init__(self, links: list[RedisLink], replicas: Replicas, balancer: TcpProxy) -> None:
        self.links = links
        self.replicas = replicas
        self.balancer = balancer

    async def reports(self, session: aiohttp.ClientSession) -> list[float]:
        """Return the number of reports that each replica has accepted."""
        return [await metric(session, replica.internal, "notifier_reports_total") for replica in self.replicas.all]


@pytest.fixture
async def deployment(stores: dict[str, str], tmp_path: Path) -> AsyncIterator[Deployment]:
    """Run two replicas."""
    redis_port = urlsplit(stores["REDIS_URL"]).port
    assert redis_port is not None
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(RedisLink.running(redis_port)) for _ in range(2)]
        urls = [f"redis://127.0.0.1:{link.proxy.port}/0" for link in links]
        replicas = await stack.enter_async_context(Replicas.running(urls, tmp_path / "keys", **SETTINGS))
        ports = [urlsplit(replica.internal).port or 0 for replica in replicas.all]
        yield Deployment(links, replicas, await stack.enter_async_context(TcpProxy.running(lambda: ports)))


class RunningJob(NamedTuple):
    """A job that is reported as by a worker, and the times of the verdicts so far."""

    stream: ReportStream
    verdicts: list[float]


@asynccontextmanager
async def running_job(deployment: Deployment, job_id: uuid.UUID) -> AsyncIterator[RunningJob]:
    """Report a running job until the block ends."""
    verdicts: list[float] = []

    def on_verdict(verdict: Verdict) -> None:
        assert verdict.accepted
        verdicts.append(time.monotonic())

    initial = first_report(job_id)
    keys = ReloadingFile(deployment.replicas.keys / "report.key", read_keys)
    async with Reporter.connect(f"http://127.0.0.1:{deployment.balancer.port}", keys, HEARTBEAT_S) as reporter:
        task = asyncio.create_task(reporter.run())
        with reporter.stream(initial, on_verdict) as stream:
            await stream.report("running", lease_until=None)
            yield RunningJob(stream, verdicts)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Client:
    """A WebSocket of a replica that watches a job."""

    def __init__(self) -> None:
        self.messages = 0
        self.close_code: int | None = None

    async def run(self, session: aiohttp.ClientSession, replica: Replica, token: str) -> None:
        """Watch until the replica closes the connection."""
        async with session.ws_connect(f"http://127.0.0.1:{replica.port}/live") as socket:
            await socket.send_json({"watch": token})
            async for _message in socket:
                self.messages += 1
            self.close_code = socket.close_code


async def check_refusals(session: aiohttp.ClientSession, replica: Replica, token: str) -> None:
    """Check that new clients and workers are sent to another replica."""
    public = f"http://127.0.0.1:{replica.port}"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await session.ws_connect(f"{public}/live")
    assert refusal.value.status == 503
    assert refusal.value.headers is not None
    assert int(refusal.value.headers["Retry-After"]) > 0
    async with session.post(f"{public}/live/events", json={"watch": [token]}) as stream:
        assert [event.retry is not None async for event in read_events(stream)] == [True]
    body = {"watch": [{"watch": token, "version": 1}]}
    async with session.post(f"{public}/live/jobs", json=body, headers={"Prefer": "wait=60"}) as response:
        assert (response.status, response.headers["Connection"]) == (503, "close")
    async with session.get(f"{replica.internal}/wake") as response:
        assert (response.status, response.headers["Connection"]) == (503, "close")


async def test_workers_and_clients_leave_a_replica_without_redis(deployment: Deployment) -> None:
    """A worker's reports are soon accepted by the other replica; clients are closed with 1013 until Redis answers."""
    job_id = uuid.uuid4()
    now = Timestamp.now()
    signer = TokenSigner((deployment.replicas.keys / "token.pem").read_text())
    token = signer.sign(Grant(job_id=job_id, kind="k", submitted_at=now, expires_at=now.after(600)))
    async with aiohttp.ClientSession() as session, running_job(deployment, job_id) as job:
        before = await deployment.reports(session)
        await wait_until(lambda: len(job.verdicts) >= 5)
        counts = await deployment.reports(session)
        served_by = max(range(2), key=lambda number: counts[number] - before[number])
        replica, link = deployment.replicas.all[served_by], deployment.links[served_by]
        clients = [Client() for _ in range(CLIENTS)]
        watching = [asyncio.create_task(client.run(session, replica, token)) for client in clients]
        await wait_until(lambda: all(client.messages >= 2 for client in clients))  # the hello and a snapshot

        verdicts_before = len(job.verdicts)
        link.cut()

        async def other_replica_reports() -> bool:
            return (await deployment.reports(session))[1 - served_by] > counts[1 - served_by]

        await wait_until(other_replica_reports)
        gap_s = max(after - before for before, after in itertools.pairwise(job.verdicts[verdicts_before - 1 :]))
        log.info("the worker got no verdict for %.2f s", gap_s)
        assert gap_s < MAX_GAP_S
        await wait_until(lambda: not replica.ready and any(client.close_code for client in clients))
        await check_refusals(session, replica, token)
        async with session.get(f"{replica.internal}/livez") as response:
            assert response.status == 200  # a restart would not help

        link.restore()
        await wait_until(lambda: replica.ready)
        closed = [client.close_code for client in clients if client.close_code is not None]
        assert set(closed) == {1013}
        assert len(closed) < CLIENTS
        remaining = [client for client in clients if client.close_code is None]
        async with session.ws_connect(f"http://127.0.0.1:{replica.port}/live") as socket:
            assert "hello" in await socket.receive_json()
        job.stream.progress_changed(partial(Progress, 1, 2))
        await wait_until(lambda: all(client.messages >= 3 or client.close_code for client in remaining))
        sent_away = await metric(session, replica.internal, "notifier_connections_sent_away_total")
        assert 0 < sent_away < CLIENTS
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
