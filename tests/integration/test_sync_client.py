"""The sync client against the whole system."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from headway.client import JobCancelled, JobFailed, RequestFailed, SyncClient
from tests.integration.sample_jobs import broken, echo
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    async with running(tmp_path_factory.mktemp("sync"), WORKER_JOBS=JOBS, GRACE_S="1", DRAIN_S="0.2") as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[SyncClient]:
    """Create a client."""
    with SyncClient(stack.url) as client:
        yield client


def test_job_is_watched_until_its_result(stack: Stack, client: SyncClient) -> None:
    """A job is submitted, read, watched and awaited."""
    with stack.frozen("worker"):
        job = client.submit("countdown", {"steps": 10, "delay_s": 0.05})
        assert client.get(job).status == "queued"
        watch = client.watch(job)
        first = next(watch)
    versions = [first.version, *[snapshot.version for snapshot in watch]]
    assert versions == sorted(set(versions))
    assert len(versions) > 2
    assert client.result(job.id) == "Counted 10 steps"
    assert client.get(job).status == "succeeded"


def test_failures_raise_exceptions(client: SyncClient) -> None:
    """A failed job, a cancelled one, a rejected submission and a timeout each raise their own exception."""
    with pytest.raises(JobFailed, match="the cable is loose"):
        client.result(broken.submit(client, None))
    with pytest.raises(RequestFailed, match="max_attempts"):
        client.submit("countdown", max_attempts=0)
    delayed = client.submit("countdown", delay_s=60)
    with pytest.raises(TimeoutError):
        client.result(delayed, timeout_s=0.2)
    assert client.cancel(delayed).status == "cancelled"
    with pytest.raises(JobCancelled):
        client.result(delayed)


def test_threads_share_a_client(client: SyncClient) -> None:
    """Eight threads submit jobs with one client at the same time, and each gets the result of its own job."""
    barrier = threading.Barrier(8)

    def round_trip(number: int) -> object:
        barrier.wait()
        return client.result(echo.submit(client, number), timeout_s=PATIENCE_S)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(round_trip, range(8))) == list(range(8))


async def test_watch_survives_a_notifier_restart(stack: Stack, client: SyncClient) -> None:
    """A watch continues until the job ends when the notifier is killed meanwhile."""
    job = client.submit("countdown", {"steps": 20, "delay_s": 0.1})

    def watch() -> str:
        for snapshot in client.watch(job, timeout_s=PATIENCE_S):
            if snapshot.progress and snapshot.progress.current >= 30:
                halfway.set()
        return snapshot.status

    halfway = threading.Event()
    watching = asyncio.create_task(asyncio.to_thread(watch))
    assert await asyncio.to_thread(halfway.wait, PATIENCE_S)
    await stack.kill("notifier", signal.SIGKILL)
    assert await watching == "succeeded"
