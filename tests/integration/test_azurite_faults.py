"""Between Headway and its queue a proxy that loses answers, dawdles and fails: no job is lost, and none ends twice.

AZURITE_FAULTS_S=120 AZURITE_FAULTS_SEED=7 make test ARGS=tests/integration/test_azurite_faults.py is the long form.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dev.environment import ACCOUNT, ACCOUNT_KEY
from headway.contracts import Timestamp
from tests.integration.azurite_proxy import FAULTS, AzuriteProxy, azurite_proxy
from tests.integration.handler_log import HandlerLog, format_entries
from tests.integration.watchers import JobsWatcher, watch_jobs
from tests.integration.worker_fleet import HEARTBEAT_S, IDLE_WORKER, LEASE_S, run_workers
from tests.stack import Stack, running
from tests.waiting import free_ports

log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("AZURITE_FAULTS_S") or 7)
SEED = int(os.environ.get("AZURITE_FAULTS_SEED") or 1)
SHARE = 0.05
A_SECOND, MOST = 10, 500  # jobs submitted
JOBS = [
    *[("steps", {"steps": 20, "step_s": 0.4})] * 2,  # longer than two leases: one that is lost is missed
    ("steps", {"steps": 2, "step_s": 0.1, "retries": 2}),
    ("steps-in-thread", {"steps": 4, "step_s": 0.3}),
    ("checkpoints", {"steps": 12, "step_s": 0.3}),
    ("fails", {"step_s": 0.1}),
]
ENDING = {"fails": "failed"}


class Faulty(NamedTuple):
    """A system whose way to Azurite can be made bad."""

    stack: Stack
    proxy: AzuriteProxy


@pytest.fixture
async def faulty(tmp_path: Path, seed: int) -> AsyncIterator[Faulty]:
    """Run the system with the proxy before Azurite."""
    port, target = free_ports(2)
    queue = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};QueueEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
    env = {"AZURITE_PORT": str(target), "QUEUE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{queue}"}
    async with (
        azurite_proxy(port, target, seed) as proxy,
        running(tmp_path / "stack", DRAIN_S="0", **IDLE_WORKER, **env) as stack,
    ):
        yield Faulty(stack, proxy)


async def submit_persistently(stack: Stack, kind: str, payload: Any) -> dict[str, Any]:
    """Submit a job, again and again when the queue is away; return its receipt."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    while True:
        body = {"kind": kind, "payload": payload}
        async with stack.session.post(f"{stack.url}/jobs", json=body, headers=headers) as response:
            receipt: dict[str, Any] = await response.json()
            if response.status == 202:
                return receipt
            assert response.status == 503, receipt


async def submit_for(seconds: float, stack: Stack, seen: JobsWatcher, choice: random.Random) -> dict[str, str]:
    """Submit jobs of all kinds for so long; return their kinds by id."""
    kinds: dict[str, str] = {}

    async def submit(kind: str, payload: Any) -> None:
        receipt = await submit_persistently(stack, kind, payload)
        kinds[receipt["id"]] = kind
        await seen.watch(receipt)

    async with asyncio.TaskGroup() as group:
        for _ in range(count := min(MOST, int(seconds * A_SECOND))):
            group.create_task(submit(*choice.choice(JOBS)))
            await asyncio.sleep(seconds / count)
    return kinds


def wrong(seen: JobsWatcher, effects: HandlerLog) -> list[str]:
    """Show the jobs that no handler has brought to their end, or that one has started after it.

    Two handlers may come to the end of one job: the first one's lease was lost before its ending was taken.
    """
    return [
        format_entries(own)
        for job_id, own in effects.by_job.items()
        if own.started_after(Timestamp.parse(seen.last(job_id)["finished_at"]).after(HEARTBEAT_S))
        or not (own.matching("end") or own.matching("raised Fail"))
    ]


@pytest.mark.timeout(60 + 3 * SECONDS)
@pytest.mark.parametrize("seed", [SEED], ids="AZURITE_FAULTS_SEED={}".format)
async def test_no_job_is_lost_and_none_ends_twice(faulty: Faulty, tmp_path: Path, seed: int) -> None:
    """Each of the four faults befalls one request in twenty, and every job still comes to its one right end."""
    async with (
        watch_jobs(faulty.stack) as seen,
        run_workers(faulty.stack, tmp_path / "fleet", 2, WORKER_CONCURRENCY="24") as workers,
    ):
        faulty.proxy.fault_rate = SHARE
        until = time.monotonic() + SECONDS
        kinds = await submit_for(SECONDS - LEASE_S, faulty.stack, seen, random.Random(seed))
        await asyncio.sleep(until - time.monotonic())
        faulty.proxy.fault_rate = 0
        await seen.wait_for_status(set(kinds), "succeeded", "failed", timeout_s=30)
        effects = workers.handler_log
        log.info("%d jobs, %d runs, requests: %s", len(kinds), len(effects.calls), dict(faulty.proxy.requests))
        assert all(faulty.proxy.requests[fault] for fault in FAULTS)
        assert effects.jobs == set(kinds)
        assert {job_id: seen.status(job_id) for job_id in kinds} == {
            job_id: ENDING.get(kind, "succeeded") for job_id, kind in kinds.items()
        }
        assert wrong(seen, effects) == []
        assert format_entries(effects.overlapping(HEARTBEAT_S)) == ""
        assert seen.violations() == []
