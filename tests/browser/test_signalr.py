"""Unmodified clients of both generations of SignalR watch a job while replicas and Redis fail.

Long form, with each version over each transport: LONG=1 make test ARGS=tests/browser/test_signalr.py
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser

from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from tests.browser.signalr_clients.clients import CLIENTS, Client, Job, Recordings, watching, whole_matrix
from tests.integration.conftest import report
from tests.integration.redis_servers import PERSISTENT, RedisServer
from tests.integration.replicas import Replica, Replicas
from tests.integration.tcp_proxy import TcpProxy
from tests.waiting import free_ports, wait_until

pytestmark = pytest.mark.browser

TESTED = whole_matrix() if os.environ.get("LONG") else CLIENTS
RECONNECT_S = 15.0  # more than the pauses of the clients
FAILURES = [
    "The hub has no method 'Nothing'.",
    "invalid: Expected `array` of at least length 1, got 0",
    "invalid_token: The token is not valid for this service.",
    "not_watched: Watch the job first: its token determines whether you may cancel it.",
]


class Deployment:
    """Redis, two replicas behind a balancer without sticky sessions, and a job that clients watch."""

    def __init__(self, redis: RedisServer, replicas: Replicas, session: aiohttp.ClientSession) -> None:
        self.job: Job
        self._redis = redis
        self._replicas = list(replicas.all)
        self._serving = list(replicas.all)  # get new connections
        self._session = session
        self._report_key = (replicas.keys / "report.key").read_text().strip()
        self._signer = TokenSigner((replicas.keys / "token.pem").read_text())
        self._sequence = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, origin: str) -> AsyncIterator[Deployment]:
        """Run Redis and the replicas until the block ends."""
        async with AsyncExitStack() as stack:
            redis = await stack.enter_async_context(RedisServer.running(folder, *PERSISTENT))
            urls = [f"redis://{redis.address}/0"] * 2
            replicas = await stack.enter_async_context(Replicas.running(urls, folder / "keys", ALLOWED_ORIGINS=origin))
            deployment = cls(redis, replicas, await stack.enter_async_context(aiohttp.ClientSession()))
            balancer = await stack.enter_async_context(
                TcpProxy.running(lambda: [replica.port for replica in deployment._serving])
            )
            deployment.job = deployment._sign_job(f"http://127.0.0.1:{balancer.port}")
            yield deployment

    def _sign_job(self, url: str) -> Job:
        now = Timestamp.now()
        grant = Grant(job_id=uuid.uuid4(), kind="k", submitted_at=now, expires_at=now.after(3600))
        return Job(url, str(grant.job_id), self._signer.sign(grant))

    async def fail(self, recordings: Recordings) -> None:
        """Cause every fault in turn. Every client must see what is reported after each fault, before its repair."""
        first, second = self._replicas
        await self._show(recordings, 10, "at the start")
        await self._stop(first)
        await self._show(recordings, 30, "after SIGTERM of the first replica")
        await self._start(first)
        await self._kill(second)  # which all sockets and streams have now
        await self._show(recordings, 50, "after kill -9 of the second replica")
        await self._start(second)
        await self._reconnect(recordings, self._stop(first))  # which has them now
        await self._show(recordings, 70, "after another SIGTERM of the first replica")
        self._redis.kill()
        await self._redis.start()
        await self._show(recordings, 90, "after the restart of Redis")
        await self._show(recordings, 100, "at the end", "succeeded")

    async def _reconnect(self, recordings: Recordings, fault: Coroutine[None, None, None]) -> None:
        """Wait until a fault is over and clients that it hits have reconnected: nothing new hides what they see again.

        Those that poll do not notice it, and a few others may have lost their connections earlier.
        """
        counts = {
            recording: len(recording.values("connected"))
            for client, recording in recordings.items()
            if not client.polls
        }
        await fault
        with suppress(AssertionError):
            await wait_until(
                lambda: all(len(each.values("connected")) > count for each, count in counts.items()), RECONNECT_S
            )

    async def _show(self, recordings: Recordings, percent: int, when: str, status: str = "running") -> None:
        """Report progress, and wait until all clients have seen it; report more, which may be lost on its way."""

        def missing() -> list[str]:
            return [
                str(client)
                for client, recording in recordings.items()
                if recording.percent < percent or not recording.values("connected")
            ]

        await wait_until(partial(self._is_reported, percent, status))
        with suppress(AssertionError):
            await wait_until(lambda: not missing())
        assert not missing(), f"{percent} %, reported {when}, is not seen"
        if status == "running":
            await self._is_reported(percent + 5, status)

    async def _is_reported(self, percent: int, status: str) -> bool:
        """Report as a worker does; return whether the report is accepted: the replica may be without Redis."""
        self._sequence += 1
        body = report(self.job.id, self._sequence, status=status, progress={"current": percent, "total": 100})
        headers = {"Authorization": f"Bearer {self._report_key}"}
        url = f"{self._serving[0].internal}/reports"
        async with self._session.post(url, json=[body], headers=headers) as response:
            return response.status == 200 and bool((await response.json())[0]["accepted"])

    async def _stop(self, replica: Replica) -> None:
        """Stop a replica with SIGTERM; it gets no new connections: signalrcore gives up if its first attempt fails."""
        self._serving.remove(replica)
        await replica.stop()

    async def _kill(self, replica: Replica) -> None:
        self._serving.remove(replica)
        await replica.kill()

    async def _start(self, replica: Replica) -> None:
        await replica.start()
        self._serving.append(replica)

    async def read_version(self) -> int:
        """Return the version of the job."""
        url, headers = f"{self.job.url}/live/jobs/{self.job.id}", {"Authorization": f"Bearer {self.job.token}"}
        async with self._session.get(url, headers=headers) as response:
            return int((await response.json())["version"])


def is_rising(values: Iterable[float]) -> bool:
    """Return whether each value is greater than the one before."""
    return all(before < after for before, after in pairwise(values))


@pytest.fixture(scope="module")
async def seen(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recordings, int]:
    """Return what each client has seen of a job during the faults, and the last version of the job."""
    folder, port = tmp_path_factory.mktemp("signalr"), free_ports(1)[0]
    async with Deployment.running(folder, f"http://127.0.0.1:{port}") as deployment:
        async with watching(TESTED, deployment.job, browser, port, folder) as recordings:
            await deployment.fail(recordings)
        return recordings, await deployment.read_version()


@pytest.mark.parametrize("client", TESTED, ids=str)
async def test_client_sees_a_job_to_its_end(seen: tuple[Recordings, int], client: Client) -> None:
    """It ends with the last version, and sees no version or percentage twice or backwards, whatever fails."""
    recordings, last_version = seen
    recording = recordings[client]
    assert recording.values("snapshot")[-1] == ["succeeded", last_version, 100]
    assert recording.values("error") == []
    for events in [recording] if client.continues else recording.connections():
        assert is_rising(version for _, version, _ in events.values("snapshot"))
        assert is_rising(percent for _, _, percent in events.values("snapshot") if percent is not None)
        assert is_rising(percent for (percent,) in events.values("progress"))
    percents = [percent for (percent,) in recording.values("progress")]
    assert percents == sorted(percents)
    assert percents[-1:] == ([] if client.watch == "stream" else [100])


@pytest.mark.parametrize("client", [client for client in TESTED if not client.polls], ids=str)
async def test_client_reconnects(seen: tuple[Recordings, int], client: Client) -> None:
    """It has lost its connection with at least two replicas that served it, so that the faults have not missed it."""
    assert len(seen[0][client].values("connected")) > 2


@pytest.mark.parametrize("client", [client for client in TESTED if client.is_classic], ids=str)
async def test_page_of_2015_shows_the_progress(seen: tuple[Recordings, int], client: Client) -> None:
    """Its client uses the transport that the page names, and its function shows the progress in its span."""
    recording = seen[0][client]
    assert recording.values("connected")[0] == [client.transport]
    assert recording.values("shown") == [["100%"]]


@pytest.mark.parametrize("client", [client for client in TESTED if client.packages[0].startswith("@")], ids=str)
async def test_failed_invocations(seen: tuple[Recordings, int], client: Client) -> None:
    """Unknown methods, wrong arguments, bad tokens and jobs that are not watched are errors of their invocations."""
    assert [text for (text,) in seen[0][client].values("failed")] == FAILURES
