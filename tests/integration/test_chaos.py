"""Everything dies, again and again, under jobs of every kind: each of them still has one ending, and the right one.

CHAOS_JOBS=500 CHAOS_SEED=7 make test ARGS=tests/integration/test_chaos.py is the long form, of three minutes at most.
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
A_SECOND = 8  # jobs submitted
PAUSE_S, AWAY_S = (1.0, 2.5), (0.0, 1.0)  # between two blows, and until the worker comes back
LAST_S = 60  # the longest that the last jobs take


class Plan(NamedTuple):
    """A job to submit, how it ends unless it is cancelled, and when it is."""

    kind: str
    payload: Any
    ending: str
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


class Cancelled(NamedTuple):
    """What was answered to a cancel, and when."""

    at: float
    snapshot: dict[str, Any]


class Chaos:
    """The jobs of one run, and the blows that are dealt meanwhile."""

    def __init__(self, stack: Stack, workers: WorkerFleet, seen: JobsWatcher, seed: int) -> None:
        self.plans: dict[str, Plan] = {}
        self.cancelled: dict[str, Cancelled] = {}
        self.blows: list[str] = []
        self._stack = stack
        self._workers = workers
        self._seen = seen
        self._jobs, self._blows = random.Random(seed), random.Random(seed + 1)

    async def submit_all(self) -> None:
        """Submit all jobs, and cancel those that are to be."""
        plans = list(itertools.islice(itertools.cycle(MIX), JOBS))
        self._jobs.shuffle(plans)
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                more = {"delay_s": plan.delay_s} if plan.delay_s else {}
                receipt = await self._stack.submit(plan.kind, plan.payload, max_attempts=MAX_ATTEMPTS, **more)
                self.plans[receipt["id"]] = plan
                await self._seen.watch(receipt)
                if plan.cancel != "never":
                    group.create_task(self._cancel(receipt, plan.cancel, self._jobs.uniform(0, 2)))
                await asyncio.sleep(1 / A_SECOND)

    async def _cancel(self, receipt: dict[str, Any], when: str, soon_s: float) -> None:
        if when == "running":
            await self._seen.wait_for_status({receipt["id"]}, "running", timeout_s=LAST_S)
        elif when == "soon":
            await asyncio.sleep(soon_s)
        headers = {"Authorization": f"Bearer {receipt['token']}"}
        while receipt["id"] not in self.cancelled:
            try:
                async with self._stack.session.post(receipt["links"]["cancel"], headers=headers) as response:
                    if response.status == 202:
                        self.cancelled[receipt["id"]] = Cancelled(time.monotonic(), await response.json())
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)

    async def strike_workers(self) -> None:
        """Every few seconds kill a worker or have it stop, and start it again, for ever; one at least is left."""
        up = list(self._workers.workers)

        async def strike(worker: WorkerProcess, kill: bool) -> None:
            await (worker.kill() if kill else worker.stop())
            await asyncio.sleep(self._blows.uniform(*AWAY_S))
            await worker.start()
            up.append(worker)

        async with asyncio.TaskGroup() as group:
            for kill in itertools.cycle([True, False]):
                await asyncio.sleep(self._blows.uniform(*PAUSE_S))
                if len(up) > 1:
                    worker = up.pop(self._blows.randrange(len(up)))
                    self.blows.append("worker killed" if kill else "worker stopped")
                    group.create_task(strike(worker, kill))

    async def strike_the_others(self) -> None:
        """Restart the notifier twice, once by killing it, and between that kill Redis, as the jobs proceed."""
        for share, name, number in (
            (0.2, "notifier", signal.SIGKILL),
            (0.4, "valkey", signal.SIGKILL),
            (0.6, "notifier", signal.SIGTERM),
        ):
            await wait_until(partial(self._have_ended, share), 180)
            await self._stack.kill(name, number)
            self.blows.append(f"{name} {number.name}")

    def _have_ended(self, share: float) -> bool:
        return len(self._seen.with_status(*ENDED)) >= share * JOBS

    async def run(self) -> None:
        """Let it all happen, until every job has ended."""
        blows = [asyncio.create_task(self.strike_workers()), asyncio.create_task(self.strike_the_others())]
        try:
            await self.submit_all()
            await self._seen.wait_for_status(set(self.plans), *ENDED, timeout_s=LAST_S)
            await blows[1]
        finally:
            for blow in blows:
                blow.cancel()
            ends = await asyncio.gather(*blows, return_exceptions=True)
        assert [end for end in ends if isinstance(end, Exception)] == []


async def poisoned(stack: Stack) -> set[str]:
    """Empty the poison queue and name the jobs on it."""
    found: set[str] = set()
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs-poison", API_VERSION) as queue:
        while page := await queue.receive(MAX_PAGE, 60):
            found |= {str(decode_message(received.text).id) for received in page}
    return found


def wrong_ending(plan: Plan, end: dict[str, Any], effects: HandlerLog, cancelled: Cancelled | None) -> str | None:
    """Say what is wrong with how a job ended, by what its handlers did and who cancelled it."""
    if end["status"] != plan.ending and (end["status"], cancelled is None) != ("cancelled", False):
        return f"{end['status']} instead of {plan.ending}"
    if end["status"] == "succeeded" and not (effects.matching("end") and end["result"] == returned(plan, effects)):
        return f"succeeded with {end['result']}"
    if plan.kind == "fails" and end["status"] == "failed" and not effects.matching("raised Fail"):
        return "failed though no handler said so"
    if effects.started_after(Timestamp.parse(end["finished_at"]).after(HEARTBEAT_S)):
        return "started after its end"
    return None


def returned(plan: Plan, effects: HandlerLog) -> int:
    """Tell what the handler that came to its end has returned."""
    return effects.matching("end")[-1].attempt if plan.kind == "nap" else int(plan.payload["steps"])


def started_in_vain(effects: HandlerLog, cancelled: Cancelled | None) -> bool:
    """Tell whether a handler has started after its job's end by cancelling had been shown."""
    if cancelled is None or cancelled.snapshot["status"] != "cancelled":
        return False
    never = cancelled.snapshot["started_at"] is None
    return any(never or start.at > cancelled.at for start in effects.matching("start"))


def forgotten(effects: HandlerLog) -> bool:
    """Tell whether a step was done again that a checkpoint had kept, or more than one for each interruption."""
    kept = -1
    for run in effects.calls:
        steps = [int(effect.event.split()[1]) for effect in run.matching("step ")]
        if steps and steps[0] <= kept:
            return True
        kept = max([kept, *(int(effect.event.split()[1]) for effect in run.matching("saved "))])
    return effects.repeated_steps() >= max(1, len(effects.calls))


def wrong(chaos: Chaos, seen: JobsWatcher, effects: HandlerLog) -> list[str]:
    """Say of every job what is wrong with it, with all that its handlers did."""
    found = []
    by_job = effects.by_job
    for job_id, plan in chaos.plans.items():
        own, cancelled = by_job.get(job_id, HandlerLog()), chaos.cancelled.get(job_id)
        problem = wrong_ending(plan, seen.last(job_id), own, cancelled)
        if started_in_vain(own, cancelled):
            problem = "started after it had been cancelled"
        if plan.kind == "checkpoints" and forgotten(own):
            problem = "did again what a checkpoint had kept"
        if late := own.overlapping(HEARTBEAT_S):
            problem = f"at work beside another delivery: {format_entries(late)}"
        if problem:
            found.append(f"{plan.kind} {job_id}: {problem}\n{format_entries(own)}")
    return found


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Run the system without workers."""
    async with running(tmp_path / "stack", DRAIN_S="0.2", **IDLE_WORKER) as stack:
        yield stack


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [SEED], ids="CHAOS_SEED={}".format)
async def test_every_job_has_one_ending_and_the_right_one(stack: Stack, tmp_path: Path, seed: int) -> None:
    """Workers are killed and stopped, the notifier and Redis restarted; handlers and watchers tell the same story."""
    env = {"WORKER_CONCURRENCY": "8", "GRACE_S": "0.3"}
    async with watch_jobs(stack) as seen, run_workers(stack, tmp_path / "fleet", 3, **env) as workers:
        begun_at = time.monotonic()
        chaos = Chaos(stack, workers, seen, seed)
        await chaos.run()
        effects = workers.handler_log
        log.info(
            "%d jobs, %d runs, %d sockets, %.1f s, blows: %s",
            len(chaos.plans),
            len(effects.calls),
            seen.connections,
            time.monotonic() - begun_at,
            chaos.blows,
        )
        assert wrong(chaos, seen, effects) == []
        assert seen.violations() == []
        hopeless = {job_id for job_id, plan in chaos.plans.items() if plan.kind == "hopeless"}
        used_up = {job_id for job_id in chaos.plans if seen.last(job_id)["attempt"] == MAX_ATTEMPTS}
        assert await poisoned(stack) == used_up == hopeless
