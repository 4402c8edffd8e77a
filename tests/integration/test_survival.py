"""Each process is killed while a job runs: the job still ends once, and its watchers see no contradiction."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.storage.queue.aio import QueueServiceClient
from redis.asyncio import Redis

from headway.azure.job_queue import API_VERSION
from tests.stack import ENDED, Stack, running
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system with a lease of five seconds and a worker that releases its jobs at once."""
    async with running(tmp_path_factory.mktemp("survival"), LEASE_S="5", GRACE_S="0", DRAIN_S="0.2") as stack:
        yield stack


@pytest.mark.parametrize("victim", ["submitter", "worker", "notifier", "valkey"])
async def test_killed_process_loses_nothing(stack: Stack, victim: str) -> None:
    """A connected watcher sees the job end once; neither the version nor the progress of an attempt goes down."""
    receipt = await stack.submit("countdown", {"steps": 20, "delay_s": 0.15})
    snapshots: list[dict[str, Any]] = []
    halfway = asyncio.Event()

    async def watch() -> None:
        async for snapshot in stack.watch(receipt["token"]):
            snapshots.append(snapshot)
            if snapshot["progress"] and snapshot["progress"]["current"] >= 20:
                halfway.set()

    watching = asyncio.create_task(watch())
    await asyncio.wait_for(halfway.wait(), PATIENCE_S)
    await stack.kill(victim)
    await asyncio.wait_for(watching, PATIENCE_S)
    versions = [snapshot["version"] for snapshot in snapshots]
    assert versions == sorted(versions)
    assert [snapshot["status"] for snapshot in snapshots if snapshot["status"] in ENDED] == ["succeeded"]
    assert snapshots[-1]["progress"]["percent"] == 100.0
    for before, after in itertools.pairwise(snapshots):
        if before["attempt"] == after["attempt"] and before["progress"] and after["progress"]:
            assert before["progress"]["current"] <= after["progress"]["current"]
    assert await stack.snapshot(receipt["id"], receipt["token"]) == snapshots[-1]


async def test_stopped_worker_releases_its_job(stack: Stack) -> None:
    """A worker that receives SIGTERM releases its job, which continues in the same attempt."""
    receipt = await stack.submit("countdown", {"steps": 30, "delay_s": 0.1})
    stopped = False
    snapshots: list[dict[str, Any]] = []
    async for snapshot in stack.watch(receipt["token"]):
        snapshots.append(snapshot)
        if snapshot["progress"] and not stopped:
            pid = stack.pid("worker")
            assert pid is not None
            os.kill(pid, signal.SIGTERM)
            stopped = True
    assert "queued" in [snapshot["status"] for snapshot in snapshots[1:]]
    assert snapshots[-1]["status"] == "succeeded"
    assert {snapshot["attempt"] for snapshot in snapshots} == {1}


async def test_redis_without_its_data_loses_no_job(stack: Stack) -> None:
    """A running and a waiting job succeed, and clients that watch them see it; only outcomes of ended jobs are lost."""
    ended = await stack.submit("countdown", {"steps": 1, "delay_s": 0})
    async for snapshot in stack.watch(ended["token"]):
        last = snapshot
    assert last["status"] == "succeeded"
    running = await stack.submit("countdown", {"steps": 50, "delay_s": 0.1})
    snapshots: list[dict[str, Any]] = []
    async for snapshot in stack.watch(running["token"]):
        if snapshot["progress"] and not any(each["progress"] for each in snapshots):
            waiting = await stack.submit("countdown", {"steps": 1, "delay_s": 0}, delay_s=4)
            async with Redis.from_url(stack.env["REDIS_URL"]) as redis:
                await redis.flushall()
        snapshots.append(snapshot)
    versions = [snapshot["version"] for snapshot in snapshots]
    assert versions == sorted(versions)
    assert (snapshots[-1]["status"], snapshots[-1]["attempt"]) == ("succeeded", 1)
    assert await stack.snapshot(running["id"], running["token"]) == snapshots[-1]
    async for snapshot in stack.watch(waiting["token"]):
        last = snapshot
    assert (last["status"], last["attempt"]) == ("succeeded", 1)
    lost = await stack.snapshot(ended["id"], ended["token"])
    assert (lost["status"], lost["version"]) == ("queued", 0)


async def test_deleted_queue_loses_only_the_jobs_on_it(stack: Stack) -> None:
    """The services create the queue again and run new jobs; a job that was lost can be cancelled."""
    lost = await stack.submit_recorded()
    connection_string, version = stack.env["QUEUE_CONNECTION_STRING"], stack.env.get("QUEUE_API_VERSION", API_VERSION)
    async with QueueServiceClient.from_connection_string(connection_string, api_version=version) as account:
        await account.delete_queue(stack.env.get("QUEUE_NAME", "jobs"))
    receipt = await stack.submit_persistently("countdown", {"steps": 1, "delay_s": 0})
    async for snapshot in stack.watch(receipt["token"]):
        last = snapshot
    assert last["status"] == "succeeded"
    assert (await stack.cancel(lost))["status"] == "cancelled"
