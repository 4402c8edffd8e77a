"""Redis as a cluster and behind Sentinel: records and publications follow their keys, whoever keeps them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from services.notifier.records import channel
from tests.integration.conftest import Notifier, new_id, report, running_notifier
from tests.integration.redis_servers import Cluster, Watched
from tests.waiting import wait_until

JOBS = 60
PACE_S = 0.05


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Run a cluster."""
    async with Cluster.running(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    """Run a primary and a replica behind Sentinel."""
    async with Watched.running(tmp_path) as watched:
        yield watched


class Show:
    """Some jobs, reported to one replica and watched at another."""

    def __init__(self, jobs: list[str], to: Notifier, at: Notifier) -> None:
        self.jobs = jobs
        self.seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._to, self._at = to, at
        self._sequence = 0

    async def watch(self) -> None:
        """Watch all jobs for ever."""
        async with self._at.socket() as socket:
            for job_id in self.jobs:
                await socket.send_json({"watch": self._at.token(job_id)})
            async for message in socket:
                job = message.json()["job"]
                self.seen[job["id"]].append(job)

    async def report(self, **more: Any) -> bool:
        """Report on all jobs; tell whether that was taken."""
        self._sequence += 1
        reports = [report(job_id, self._sequence, **more) for job_id in self.jobs]
        headers = {"Authorization": f"Bearer {self._to.report_key}"}
        address = f"{self._to.internal}/reports"
        async with self._to.session.post(address, json=reports, headers=headers) as response:
            assert response.status in {200, 503}, await response.text()
            return response.status == 200

    def all_show(self, key: str, value: Any) -> bool:
        """Tell whether all jobs are shown with a field's value."""
        return all(self.seen[job_id] and self.seen[job_id][-1][key] == value for job_id in self.jobs)

    def rises(self) -> bool:
        """Tell whether no watcher saw a version go down."""
        versions = [[job["version"] for job in jobs] for jobs in self.seen.values()]
        return all(one == sorted(set(one)) for one in versions)


async def shown_through(url: str, folder: Path, blow: Any) -> Show:
    """Report and watch through two replicas, deal a blow in between, and return what was shown."""
    stores = {"REDIS_URL": url}
    async with running_notifier(stores, folder) as one, running_notifier(stores, folder) as other:
        show = Show([new_id() for _ in range(JOBS)], one, other)
        watching = asyncio.create_task(show.watch())
        assert await show.report(progress={"current": 1})
        await wait_until(lambda: show.all_show("status", "running"))
        blows = asyncio.create_task(blow(show))
        current = 1
        while not blows.done():
            current += 1
            await show.report(progress={"current": current})
            await asyncio.wait({blows}, timeout=PACE_S)
        await blows
        await wait_until(lambda: show.report(status="succeeded"), 10)
        await wait_until(lambda: show.all_show("status", "succeeded"), 10)
        watching.cancel()
    return show


async def test_a_cluster_is_followed_through_a_moved_slot_and_a_failover(cluster: Cluster, tmp_path: Path) -> None:
    """Every watcher ends with the last version of its job, though the job's server has become another."""

    async def blow(show: Show) -> None:
        slots = {key_slot(channel(job_id).encode()) for job_id in show.jobs}
        theirs = sorted(slot for slot in slots if 5_462 <= slot < 10_924)
        for slot in theirs[:3]:
            await cluster.move(slot)
        await cluster.fail_over()

    show = await shown_through(cluster.url, tmp_path, blow)
    assert show.rises()


async def test_sentinel_is_followed_through_a_failover(watched: Watched, tmp_path: Path) -> None:
    """Every watcher ends with the last version of its job, though the server has become another."""

    async def blow(_show: Show) -> None:
        await watched.fail_over()

    show = await shown_through(watched.url, tmp_path, blow)
    assert show.rises()
