"""Faults of the queue: with lost responses, delays and errors, no job is lost and none ends twice.

Long form: AZURITE_FAULTS_S=120 AZURITE_FAULTS_SEED=7 make test ARGS=tests/integration/test_azurite_faults.py
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dev.environment import service_environment
from headway.contracts import Timestamp
from tests.integration.handler_log import HandlerLog, format_entries
from tests.integration.http_proxy import DELAY, DROP, LOST, NONE, HttpProxy, http_proxy
from tests.integration.watchers import JobsWatcher, watch_jobs
from tests.integration.worker_fleet import HEARTBEAT_S, IDLE_WORKER, LEASE_S, run_workers
from tests.stack import Stack, running
from tests.waiting import PATIENCE_S, free_ports

log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("AZURITE_FAULTS_S") or 7)
SEED = int(os.environ.get("AZURITE_FAULTS_SEED") or 1)
FAULTS = (DROP, DELAY, LOST, "503")
FAULT_RATE = 0.05  # of each of the four faults
SUBMISSIONS_PER_S, MAX_JOBS = 10, 500
JOBS = [
    *[("steps", {"steps": 20, "step_s": 0.4})] * 2,  # longer than two leases, so that a lost lease has an effect
    ("steps", {"steps": 2, "step_s": 0.1, "retries": 2}),
    ("steps-in-thread", {"steps": 4, "step_s": 0.3}),
    ("checkpoints", {"steps": 12, "step_s": 0.3}),
    ("fails", {"step_s": 0.1}),
]
STATUS_BY_KIND = {"fails": "failed"}  # all other kinds succeed


class Faulty(NamedTuple):
    """A running stack and the proxy between it and Azurite."""

    stack: Stack
    proxy: HttpProxy


@pytest.fixture
async def faulty(tmp_path: Path) -> AsyncIterator[Faulty]:
    """Run the system with the proxy in front of Azurite."""
    port, target = free_ports(2)
    queue = service_environment(tmp_path, {"AZURITE_PORT": str(port)})["QUEUE_CONNECTION_STRING"]
    env = {"AZURITE_PORT": str(target), "QUEUE_CONNECTION_STRING": queue}
    async with (
        http_proxy(port, target) as proxy,
        running(tmp_path / "stack", DRAIN_S="0", **IDLE_WORKER, **env) as stack,
    ):
        yield Faulty(stack, proxy)


def random_fault(rng: random.Random) -> str:
    """Choose the fault of the next request."""
    draw = rng.random()
    return next((fault for rank, fault in enumerate(FAULTS, 1) if draw < rank * FAULT_RATE), NONE)


async def submit_for(seconds: float, stack: Stack, watcher: JobsWatcher, rng: random.Random) -> dict[str, str]:
    """Submit jobs of all kinds for some seconds; return their kinds by id."""
    kinds: dict[str, str] = {}

    async def submit(kind: str, payload: Any) -> None:
        receipt = await stack.submit_persistently(kind, payload)
        kinds[receipt["id"]] = kind
        await watcher.watch(receipt)

    async with asyncio.TaskGroup() as group:
        for _ in range(count := min(MAX_JOBS, int(seconds * SUBMISSIONS_PER_S))):
            group.create_task(submit(*rng.choice(JOBS)))
            await asyncio.sleep(seconds / count)
    return kinds


def violations(watcher: JobsWatcher, handler_log: HandlerLog) -> list[str]:
    """Return the log of each job that no handler completed, or whose handler was called after the job's end.

    Two handlers may complete the same job, if the first one lost its lease before its outcome was accepted.
    """
    return [
        format_entries(entries)
        for job_id, entries in handler_log.by_job.items()
        if entries.started_after(Timestamp.parse(watcher.last(job_id)["finished_at"]).after(HEARTBEAT_S))
        or not (entries.matching("end") or entries.matching("raised Fail"))
    ]


@pytest.mark.timeout(300 + 3 * SECONDS)
@pytest.mark.parametrize("seed", [SEED], ids="AZURITE_FAULTS_SEED={}".format)
async def test_no_job_is_lost_and_none_ends_twice(faulty: Faulty, tmp_path: Path, seed: int) -> None:
    """Each of the four faults affects one request in twenty, and every job still has its one correct outcome."""
    async with (
        watch_jobs(faulty.stack) as watcher,
        run_workers(faulty.stack, tmp_path / "fleet", 2, WORKER_CONCURRENCY="24") as workers,
    ):
        faulty.proxy.next_fault = partial(random_fault, random.Random(seed))
        faults_end_at = time.monotonic() + SECONDS
        kinds = await submit_for(SECONDS - LEASE_S, faulty.stack, watcher, random.Random(seed))
        await asyncio.sleep(faults_end_at - time.monotonic())
        faulty.proxy.next_fault = lambda: NONE
        await watcher.wait_for_status(set(kinds), "succeeded", "failed", timeout_s=PATIENCE_S)
        handler_log = workers.handler_log
        log.info(
            "%d jobs, %d handler calls, requests: %s", len(kinds), len(handler_log.calls), dict(faulty.proxy.requests)
        )
        assert all(faulty.proxy.requests[fault] for fault in FAULTS)
        assert handler_log.jobs == set(kinds)
        assert {job_id: watcher.status(job_id) for job_id in kinds} == {
            job_id: STATUS_BY_KIND.get(kind, "succeeded") for job_id, kind in kinds.items()
        }
        assert violations(watcher, handler_log) == []
        assert format_entries(handler_log.overlapping(HEARTBEAT_S)) == ""
        assert watcher.violations() == []
