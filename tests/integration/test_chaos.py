"""Chaos: workers, the notifier and Redis die again and again, and each job still has one outcome, the correct one.

Long form, of at most three minutes: CHAOS_JOBS=500 CHAOS_SEED=7 make test ARGS=tests/integration/test_chaos.py
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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from headway.azure.job_queue import API_VERSION, MAX_PAGE, JobQueue
from headway.contracts import Timestamp, decode_message
from tests.integration.handler_log import HandlerLog, format_entries
from tests.integration.watchers import JobsWatcher, watch_jobs
from tests.integration.worker_fleet import HEARTBEAT_S, IDLE_WORKER, WorkerFleet, WorkerProcess, run_workers
from tests.stack import ENDED, Stack, running
from tests.waiting import wait_until

log = logging.getLogger(__name__)

JOBS = int(os.environ.get("CHAOS_JOBS") or 80)
SEED = int(os.environ.get("CHAOS_SEED") or 1)
MAX_ATTEMPTS = 20
SUBMISSIONS_PER_S = 8
FAULT_INTERVAL_S, DOWNTIME_S = (1.0, 2.5), (0.0, 1.0)  # ranges: between two faults, and until a worker is restarted
TIMEOUT_S = 60  # for the last jobs to end


class Plan(NamedTuple):
    """A job to submit, its expected outcome unless it is cancelled, and when to cancel it."""

    kind: str
    payload: Any
    outcome: str
    cancel: str = "never"  # or "at once", "soon", "running"
    delay_s: int = 0


MIX = [
    *[Plan("steps", {"steps": 4, "step_s": 0.25}, "succeeded")] * 4,
    *[Plan("steps", {"steps": 2, "step_s": 0.1, "retries": 3}, "succeeded")] * 3,
    *[Plan("checkpoints", {"steps": 6, "step_s": 0.25}, "succeeded")] * 4,
    *[Plan("steps-in-thread", {"steps": 4, "step_s": 0.25}, "succeeded")] * 2,
    Plan("steps-in-process", {"steps": 4, "step_s": 0.25}, "succeeded"),
    *[Plan("fails", {"step_s": 0.2}, "failed")] * 2,
    Plan("hopeless", {}, "failed"),
    *[Plan("hold", "/nowhere", "cancelled", "running")] * 2,
    *[Plan("nap", 1, "succeeded", "at once", 3)] * 2,
    Plan("steps", {"steps": 4, "step_s": 0.25}, "succeeded", "soon"),
]


class Cancellation(NamedTuple):
    """The response to a cancellation, and its time."""

    at: float
    snapshot: dict[str, Any]


class Chaos:
    """The jobs of a run, and the faults that are injected meanwhile."""

    def __init__(self, stack: Stack, workers: WorkerFleet, watcher: JobsWatcher, seed: int) -> None:
        self.plans: dict[str, Plan] = {}
        self.cancellations: dict[str, Cancellation] = {}
        self.faults: list[str] = []
        self._stack = stack
        self._workers = workers
        self._watcher = watcher
        self._job_rng, self._fault_rng = random.Random(seed), random.Random(seed + 1)

    async def submit_all(self) -> None:
        """Submit all jobs, and cancel those whose plan says so."""
        plans = list(itertools.islice(itertools.cycle(MIX), JOBS))
        self._job_rng.shuffle(plans)
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                more = {"delay_s": plan.delay_s} if plan.delay_s else {}
                receipt = await self._stack.submit(plan.kind, plan.payload, max_attempts=MAX_ATTEMPTS, **more)
                self.plans[receipt["id"]] = plan
                await self._watcher.watch(receipt)
                if plan.cancel != "never":
                    group.create_task(self._cancel(receipt, plan.cancel, self._job_rng.uniform(0, 2)))
                await asyncio.sleep(1 / SUBMISSIONS_PER_S)

    async def _cancel(self, receipt: dict[str, Any], when: str, soon_s: float) -> None:
        if when == "running":
            await self._watcher.wait_for_status({receipt["id"]}, "running", timeout_s=TIMEOUT_S)
        elif when == "soon":
            await asyncio.sleep(soon_s)
        headers = {"Authorization": f"Bearer {receipt['token']}"}
        while receipt["id"] not in self.cancellations:
            try:
                async with self._stack.session.post(receipt["links"]["cancel"], headers=headers) as response:
                    if response.status == 202:
                        cancellation = Cancellation(time.monotonic(), await response.json())
                        self.cancellations[receipt["id"]] = cancellation
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)

    async def restart_workers(self) -> None:
        """Kill or stop a worker every few seconds and restart it, until cancelled; at least one keeps running."""
        up = list(self._workers.workers)

        async def restart(worker: WorkerProcess, kill: bool) -> None:
            await (worker.kill() if kill else worker.stop())
            await asyncio.sleep(self._fault_rng.uniform(*DOWNTIME_S))
            await worker.start()
            up.append(worker)

        async with asyncio.TaskGroup() as group:
            for kill in itertools.cycle([True, False]):
                await asyncio.sleep(self._fault_rng.uniform(*FAULT_INTERVAL_S))
                if len(up) > 1:
                    worker = up.pop(self._fault_rng.randrange(len(up)))
                    self.faults.append("worker killed" if kill else "worker stopped")
                    group.create_task(restart(worker, kill))

    async def restart_notifier_and_redis(self) -> None:
        """Kill the notifier, then Redis, then stop the notifier, each when a certain share of the jobs has ended."""
        for share, name, signal_number in (
            (0.2, "notifier", signal.SIGKILL),
            (0.4, "valkey", signal.SIGKILL),
            (0.6, "notifier", signal.SIGTERM),
        ):
            await wait_until(partial(self._have_ended, share), 180)
            await self._stack.kill(name, signal_number)
            self.faults.append(f"{name} {signal_number.name}")

    def _have_ended(self, share: float) -> bool:
        return len(self._watcher.with_status(*ENDED)) >= share * JOBS

    async def run(self) -> None:
        """Submit the jobs and inject faults until every job has ended."""
        faults = [
            asyncio.create_task(self.restart_workers()),
            asyncio.create_task(self.restart_notifier_and_redis()),
        ]
        try:
            await self.submit_all()
            await self._watcher.wait_for_status(set(self.plans), *ENDED, timeout_s=TIMEOUT_S)
            await faults[1]
        finally:
            for fault in faults:
                fault.cancel()
            results = await asyncio.gather(*faults, return_exceptions=True)
        assert [result for result in results if isinstance(result, Exception)] == []


async def poisoned_jobs(stack: Stack) -> set[str]:
    """Receive all messages of the poison queue; return the ids of their jobs."""
    job_ids: set[str] = set()
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs-poison", API_VERSION) as queue:
        while page := await queue.receive(MAX_PAGE, 60):
            job_ids |= {str(decode_message(received.text).id) for received in page}
    return job_ids


def wrong_outcome(
    plan: Plan, end: dict[str, Any], handler_log: HandlerLog, cancellation: Cancellation | None
) -> str | None:
    """Return what is wrong with a job's outcome, given its handlers' log and its cancellation; None if it is right."""
    if end["status"] != plan.outcome and (end["status"], cancellation is None) != ("cancelled", False):
        return f"{end['status']} instead of {plan.outcome}"
    if end["status"] == "succeeded" and not (
        handler_log.matching("end") and end["result"] == expected_result(plan, handler_log)
    ):
        return f"succeeded with {end['result']}"
    if plan.kind == "fails" and end["status"] == "failed" and not handler_log.matching("raised Fail"):
        return "failed, although no handler raised Fail"
    if handler_log.started_after(Timestamp.parse(end["finished_at"]).after(HEARTBEAT_S)):
        return "started after its end"
    return None


def expected_result(plan: Plan, handler_log: HandlerLog) -> int:
    """Return the result that the handler of a succeeded job must have returned."""
    return handler_log.matching("end")[-1].attempt if plan.kind == "nap" else int(plan.payload["steps"])


def started_after_cancellation(handler_log: HandlerLog, cancellation: Cancellation | None) -> bool:
    """Return whether a handler was called after the response had shown its job as cancelled."""
    if cancellation is None or cancellation.snapshot["status"] != "cancelled":
        return False
    never_started = cancellation.snapshot["started_at"] is None
    return any(never_started or start.at > cancellation.at for start in handler_log.matching("start"))


def lost_checkpoint(handler_log: HandlerLog) -> bool:
    """Return whether a step before a saved checkpoint was repeated, or several steps after one interruption."""
    saved = -1
    for call in handler_log.calls:
        steps = [int(entry.event.split()[1]) for entry in call.matching("step ")]
        if steps and steps[0] <= saved:
            return True
        saved = max([saved, *(int(entry.event.split()[1]) for entry in call.matching("saved "))])
    return handler_log.repeated_steps() >= max(1, len(handler_log.calls))


def violations(chaos: Chaos, watcher: JobsWatcher, handler_log: HandlerLog) -> list[str]:
    """Return a description of each violation, with the log of the job's handlers."""
    found = []
    by_job = handler_log.by_job
    for job_id, plan in chaos.plans.items():
        entries, cancellation = by_job.get(job_id, HandlerLog()), chaos.cancellations.get(job_id)
        problem = wrong_outcome(plan, watcher.last(job_id), entries, cancellation)
        if started_after_cancellation(entries, cancellation):
            problem = "started after its cancellation"
        if plan.kind == "checkpoints" and lost_checkpoint(entries):
            problem = "repeated a step before a checkpoint"
        if overlapping := entries.overlapping(HEARTBEAT_S):
            problem = f"ran at the same time as another delivery: {format_entries(overlapping)}"
        if problem:
            found.append(f"{plan.kind} {job_id}: {problem}\n{format_entries(entries)}")
    return found


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Run the system without workers."""
    async with running(tmp_path / "stack", DRAIN_S="0.2", **IDLE_WORKER) as stack:
        yield stack


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [SEED], ids="CHAOS_SEED={}".format)
async def test_every_job_has_one_correct_outcome(stack: Stack, tmp_path: Path, seed: int) -> None:
    """While workers, the notifier and Redis are killed and restarted, the handlers' log and the watchers agree."""
    env = {"WORKER_CONCURRENCY": "8", "GRACE_S": "0.3"}
    async with watch_jobs(stack) as watcher, run_workers(stack, tmp_path / "fleet", 3, **env) as workers:
        started_at = time.monotonic()
        chaos = Chaos(stack, workers, watcher, seed)
        await chaos.run()
        handler_log = workers.handler_log
        log.info(
            "%d jobs, %d handler calls, %d connections, %.1f s, faults: %s",
            len(chaos.plans),
            len(handler_log.calls),
            watcher.connections,
            time.monotonic() - started_at,
            chaos.faults,
        )
        assert violations(chaos, watcher, handler_log) == []
        assert watcher.violations() == []
        hopeless = {job_id for job_id, plan in chaos.plans.items() if plan.kind == "hopeless"}
        exhausted = {job_id for job_id in chaos.plans if watcher.last(job_id)["attempt"] == MAX_ATTEMPTS}
        assert await poisoned_jobs(stack) == exhausted == hopeless
