"""The control stream between a worker and notifiers over Redis; the heartbeat is too slow to explain a report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from headway.contracts import Progress, Verdict
from services.runtime.settings import ReloadingFile, read_keys
from services.worker.control import ControlListener, create_worker_id
from services.worker.reporting.report_stream import ReportStream
from services.worker.reporting.reporter import Reporter
from tests.integration.conftest import Notifier, running_notifier
from tests.reports import first_report
from tests.waiting import PATIENCE_S, wait_until

HEARTBEAT_S = 10 * PATIENCE_S


class Worker:
    """A worker that reports to a notifier, and keeps a control stream to it."""

    def __init__(self, reporter: Reporter, listener: ControlListener) -> None:
        self._reporter = reporter
        self.listener = listener
        self.verdicts: list[Verdict] = []

    @classmethod
    @asynccontextmanager
    async def running(cls, notifier: Notifier, folder: Path) -> AsyncIterator[Worker]:
        """Run the worker until the block ends, and yield it once the notifier can ask for reports."""
        (folder / "worker.key").write_text(notifier.report_key)
        keys, worker_id = ReloadingFile(folder / "worker.key", read_keys), create_worker_id()
        async with (
            Reporter.connect(notifier.internal, keys, HEARTBEAT_S, worker_id) as reporter,
            ControlListener.connect(notifier.internal, keys, worker_id, reporter, HEARTBEAT_S) as listener,
        ):
            tasks = [asyncio.create_task(task()) for task in (reporter.run, listener.run)]
            try:
                await wait_until(lambda: listener.connected)
                yield cls(reporter, listener)
            finally:
                for task in tasks:
                    assert not task.done(), task
                    task.cancel()
                await asyncio.wait(tasks)

    @asynccontextmanager
    async def running_job(self) -> AsyncIterator[tuple[str, ReportStream]]:
        """Start a job without watchers; yield its id and its reports."""
        with self._reporter.stream(first_report(), self.verdicts.append) as stream:
            loop = asyncio.get_running_loop()
            verdict = await stream.report("running", lease_until=loop.time() + 3600)
            assert (verdict.accepted, verdict.watched) == (True, False)
            self.verdicts.clear()
            yield str(stream.job_id), stream


@pytest.fixture
async def worker(notifier: Notifier, tmp_path: Path) -> AsyncIterator[Worker]:
    """Run a worker."""
    async with Worker.running(notifier, tmp_path) as worker:
        yield worker


async def cancel(notifier: Notifier, job_id: str) -> None:
    """Cancel a job as a client does."""
    headers = {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.post(f"{notifier.public}/live/jobs/{job_id}/cancel", headers=headers) as response:
        assert (response.status, (await response.json())["cancel_requested"]) == (202, True)


async def test_any_replica_reaches_the_worker(
    worker: Worker, notifier: Notifier, stores: dict[str, str], tmp_path: Path
) -> None:
    """A client cancels or watches a job at another replica than the one that the worker is connected to."""
    async with running_notifier(stores, tmp_path / "keys") as other, worker.running_job() as (job_id, stream):
        stream.progress_changed(partial(Progress, 1, 2))
        async with other.socket() as socket:
            await socket.send_json({"watch": other.token(job_id)})
            while (await socket.receive_json())["job"]["progress"] is None:
                pass
            await wait_until(lambda: any(verdict.watched for verdict in worker.verdicts))
            stream.progress_changed(partial(Progress, 2, 2))
            assert (await socket.receive_json())["job"]["progress"]["percent"] == 100
            assert not any(verdict.cancel_requested for verdict in worker.verdicts)
            await cancel(other, job_id)
            await wait_until(lambda: any(verdict.cancel_requested for verdict in worker.verdicts))


async def test_a_client_that_polls_sees_progress(worker: Worker, notifier: Notifier) -> None:
    """It does not watch the job, so the worker reports when it is asked."""
    async with worker.running_job() as (job_id, stream):
        stream.progress_changed(partial(Progress, 1, 2))
        url, headers = f"{notifier.public}/live/jobs/{job_id}", {"Authorization": f"Bearer {notifier.token(job_id)}"}

        async def has_progress() -> bool:
            async with notifier.session.get(url, headers=headers) as response:
                return (await response.json())["progress"] is not None

        await wait_until(has_progress)
        assert not any(verdict.watched for verdict in worker.verdicts)


async def test_all_jobs_are_reported_after_a_lost_subscription(worker: Worker, admin: Redis) -> None:
    """A message may have been lost with it."""
    async with worker.running_job(), worker.running_job():
        await admin.client_kill_filter(_type="pubsub")
        await wait_until(lambda: len({verdict.job_id for verdict in worker.verdicts}) == 2)
