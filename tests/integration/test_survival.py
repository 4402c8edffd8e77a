"""With a short lease every process is killed in mid-job, one at a time, and nobody who watches is misled."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.stack import ENDED, Stack, running


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system with a lease of three seconds."""
    async with running(tmp_path_factory.mktemp("survival"), LEASE_S="3", DRAIN_S="0.2") as stack:
        yield stack


@pytest.mark.parametrize("victim", ["submitter", "worker", "notifier", "valkey"])
async def test_killed_process_loses_nothing(stack: Stack, victim: str) -> None:
    """The job ends once, a connected watcher sees its end, and no watcher sees a version go down."""
    receipt = await stack.submit("countdown", {"steps": 20, "delay_s": 0.15})
    seen: list[dict[str, Any]] = []
    middle = asyncio.Event()

    async def watch() -> None:
        async for job in stack.watch(receipt["token"]):
            seen.append(job)
            if job["progress"] and job["progress"]["current"] >= 20:
                middle.set()

    watching = asyncio.create_task(watch())
    await asyncio.wait_for(middle.wait(), 20)
    await stack.kill(victim)
    await asyncio.wait_for(watching, 60)
    versions = [job["version"] for job in seen]
    assert versions == sorted(versions)
    assert [job["status"] for job in seen if job["status"] in ENDED] == ["succeeded"]
    assert seen[-1]["progress"]["percent"] == 100.0
    for before, after in itertools.pairwise(seen):
        if before["attempt"] == after["attempt"] and before["progress"] and after["progress"]:
            assert before["progress"]["current"] <= after["progress"]["current"]
    assert await stack.snapshot(receipt["id"], receipt["token"]) == seen[-1]


async def test_stopped_worker_hands_its_job_back(stack: Stack) -> None:
    """A worker that is told to stop hands its job to the next one at once, and that costs no attempt."""
    receipt = await stack.submit("countdown", {"steps": 60, "delay_s": 0.1})
    stopped = False
    seen: list[dict[str, Any]] = []
    async for job in stack.watch(receipt["token"]):
        seen.append(job)
        if job["progress"] and not stopped:
            pid = stack.pid("worker")
            assert pid is not None
            os.kill(pid, signal.SIGTERM)
            stopped = True
    assert "queued" in [job["status"] for job in seen[1:]]
    assert seen[-1]["status"] == "succeeded"
    assert {job["attempt"] for job in seen} == {1}
