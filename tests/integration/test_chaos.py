"""Chaos: every part of the system fails, and each job still has one outcome, the correct one.

Workers are killed, frozen and stopped, and their clocks are wrong by minutes; the services and Redis are restarted; all
connections fail or freeze; handlers raise exceptions that end a process, and signal their children. Only the handler's
own failure, and the death or freeze of its own worker, may cost a job an attempt.

Long form, of 500 jobs: LONG=1 CHAOS_SEED=7 make test ARGS=tests/integration/test_chaos.py
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from headway.azure.job_queue import API_VERSION, MAX_PAGE, JobQueue
from headway.message_codec import decode_message
from tests.integration.chaos_checks import Cancellation, JobStory, Plan
from tests.integration.chaos_system import ChaosSystem
from tests.integration.handler_log import HandlerLog
from tests.integration.watchers import JobsWatcher, watch_jobs
from tests.stack import ENDED
from tests.waiting import wait_until

log = logging.getLogger(__name__)

LONG_FORM = os.environ.get("LONG") == "1"
JOBS = 500 if LONG_FORM else 50
SEED = int(os.environ.get("CHAOS_SEED") or 1)
MAX_ATTEMPTS = 20  # of jobs whose worker may be killed
SUBMISSIONS_PER_S = 8
TIMEOUT_S = 120  # for the last jobs to end

STEPS = {"steps": 4, "step_s": 0.25}
MIX = [
    *[Plan("steps", STEPS, result=4)] * 4,
    *[Plan("steps", {"steps": 2, "step_s": 0.1, "retries": 3}, result=2)] * 2,
    *[Plan("checkpoints", {"steps": 6, "step_s": 0.25}, result=6)] * 4,
    *[Plan("steps-in-thread", STEPS, result=4)] * 2,
    Plan("steps-in-process", STEPS, result=4),
    Plan("fails", {"step_s": 0.2}, "failed"),
    Plan("hopeless", {}, "failed"),
    *[Plan("hold", "/nowhere", "cancelled", cancel="running")] * 2,
    *[Plan("nap", 1, cancel="at once", delay_s=3)] * 2,
    Plan("steps", STEPS, result=4, cancel="soon"),
    Plan("harms", {"error": "KeyboardInterrupt"}, "failed"),
    Plan("harms", {"error": "SystemExit", "place": "awaited task"}, "failed"),
    Plan("harms", {"error": "LibraryExit", "place": "background task"}, "failed"),
    Plan("harms", {"error": "SystemExit", "place": "callback"}, "failed"),
    Plan("harms-in-thread", {"error": "GeneratorExit"}, "failed"),
    Plan("harms-in-process", {"error": "KeyboardInterrupt"}, "failed"),
    Plan("signals-child", None, result=-signal.SIGTERM),
    Plan("signals-child-in-thread", None, result=-signal.SIGTERM),
    Plan("signals-child-in-process", None, result=-signal.SIGTERM),
]
POISONED = {"hopeless", "harms", "harms-in-thread", "harms-in-process"}  # the kinds whose attempts all fail


class Chaos:
    """The jobs of a run."""

    def __init__(self, system: ChaosSystem, watcher: JobsWatcher, seed: int) -> None:
        self.plans: dict[str, Plan] = {}
        self.receipts: dict[str, dict[str, Any]] = {}
        self.cancellations: dict[str, Cancellation] = {}
        self._system = system
        self._watcher = watcher
        self._rng = random.Random(seed)

    async def run(self) -> None:
        """Submit the jobs and inject faults until every job has ended."""
        system = self._system
        faults = [
            asyncio.create_task(system.harm_workers()),
            asyncio.create_task(system.harm_links()),
            asyncio.create_task(system.restart_services(self._have_ended)),
        ]
        try:
            await self._submit_all()
            await self._watcher.wait_for_status(set(self.plans), *ENDED, timeout_s=TIMEOUT_S)
            await faults[-1]
        finally:
            for fault in faults:
                fault.cancel()
            results = await asyncio.gather(*faults, return_exceptions=True)
        assert [result for result in results if isinstance(result, Exception)] == []

    def _have_ended(self, share: float) -> bool:
        return len(self._watcher.with_status(*ENDED)) >= share * JOBS

    async def _submit_all(self) -> None:
        plans = list(itertools.islice(itertools.cycle(MIX), JOBS))
        self._rng.shuffle(plans)
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                group.create_task(self._submit(plan, self._rng.uniform(0, 2)))
                await asyncio.sleep(1 / SUBMISSIONS_PER_S)

    async def _submit(self, plan: Plan, soon_s: float) -> None:
        attempts = {} if plan.kind.startswith("harms") else {"max_attempts": MAX_ATTEMPTS}
        delay = {"delay_s": plan.delay_s} if plan.delay_s else {}
        receipt = await self._system.stack.submit_persistently(plan.kind, plan.payload, **attempts, **delay)
        self.plans[receipt["id"]], self.receipts[receipt["id"]] = plan, receipt
        await self._watcher.watch(receipt)
        if plan.cancel != "never":
            await self._cancel(receipt, plan.cancel, soon_s)

    async def _cancel(self, receipt: dict[str, Any], when: str, soon_s: float) -> None:
        if when == "running":
            await self._watcher.wait_for_status({receipt["id"]}, "running", timeout_s=TIMEOUT_S)
        elif when == "soon":
            await asyncio.sleep(soon_s)
        headers = {"Authorization": f"Bearer {receipt['token']}"}
        while receipt["id"] not in self.cancellations:
            try:
                async with self._system.stack.session.post(receipt["links"]["cancel"], headers=headers) as response:
                    if response.status == 202:
                        cancellation = Cancellation(time.monotonic(), await response.json())
                        self.cancellations[receipt["id"]] = cancellation
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)

    def violations(self, handler_log: HandlerLog) -> list[str]:
        """Return a description of each violation, with the log of the job's handlers."""
        by_job = handler_log.by_job
        stories = {
            job_id: JobStory(
                plan,
                self._watcher.last(job_id),
                by_job.get(job_id, HandlerLog()),
                self.cancellations.get(job_id),
                self._system.worker_faults,
            )
            for job_id, plan in self.plans.items()
        }
        found = [f"{job_id} {violation}" for job_id, story in stories.items() for violation in story.violations()]
        return found + self._watcher.violations() + self._watcher.progress_violations()

    async def changed_records(self) -> list[dict[str, Any]]:
        """Return the snapshots that are not the last one that a watcher saw."""
        snapshots = [
            await self._system.stack.snapshot(job_id, receipt["token"]) for job_id, receipt in self.receipts.items()
        ]
        return [snapshot for snapshot in snapshots if snapshot != self._watcher.last(snapshot["id"])]


async def poisoned_jobs(queue: JobQueue) -> set[str]:
    """Receive all messages of the poison queue; return the ids of their jobs."""
    job_ids: set[str] = set()
    while page := await queue.receive(MAX_PAGE, 60):
        job_ids |= {str(decode_message(received.text).id) for received in page}
    return job_ids


@pytest.fixture
async def system(tmp_path: Path, seed: int) -> AsyncIterator[ChaosSystem]:
    """Run the system."""
    async with ChaosSystem.running(tmp_path, seed) as system:
        yield system


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [SEED], ids="CHAOS_SEED={}".format)
async def test_every_job_has_one_correct_outcome(system: ChaosSystem, seed: int) -> None:
    """While everything fails, the handlers' log, the watchers and the queues agree on one outcome per job."""
    async with watch_jobs(system.stack) as watcher:
        started_at = time.monotonic()
        chaos = Chaos(system, watcher, seed)
        await chaos.run()
        handler_log = system.workers.handler_log
        seconds = time.monotonic() - started_at
        log.info("%d jobs, %d handler calls, %.1f s", len(chaos.plans), len(handler_log.calls), seconds)
        log.info("faults: %s, %s", system.worker_faults, system.other_faults)
        assert chaos.violations(handler_log) == []
        async with JobQueue.connect(system.queue, "jobs", API_VERSION) as queue:

            async def is_empty() -> bool:
                return (await queue.depth()).messages == 0

            await wait_until(is_empty)
        async with JobQueue.connect(system.queue, "jobs-poison", API_VERSION) as queue:
            hopeless = {job_id for job_id, plan in chaos.plans.items() if plan.kind in POISONED}
            assert await poisoned_jobs(queue) == hopeless
        assert await chaos.changed_records() == []
