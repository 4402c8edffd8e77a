"""Workers that are killed, frozen and stopped in mid-job: another one goes on, and nobody does anything twice."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.handler_log import HandlerLog, format_entries
from tests.integration.watchers import watch_jobs
from tests.integration.worker_fleet import HEARTBEAT_S, IDLE_WORKER, LEASE_S, run_workers
from tests.stack import Stack, running
from tests.waiting import wait_until

log = logging.getLogger(__name__)

KILLS = 6
LONG = {"LEASE_S": "30"}  # so that no lease ends by itself
WITHIN_S = 2.0  # from the last answer to a cancel to the last ending, and from a worker's exit to the last start


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system without workers."""
    async with running(tmp_path_factory.mktemp("fleet"), DRAIN_S="0", **IDLE_WORKER) as stack:
        yield stack


async def submit(stack: Stack, count: int, kind: str, payload: Any = None, **more: Any) -> dict[str, dict[str, Any]]:
    """Submit so many jobs; return their receipts by id."""
    receipts = await asyncio.gather(*(stack.submit(kind, payload, **more) for _ in range(count)))
    return {receipt["id"]: receipt for receipt in receipts}


async def test_cancelled_jobs_end_at_once_and_queued_ones_never_start(stack: Stack, tmp_path: Path) -> None:
    """Of fifty running and fifty queued jobs all are cancelled within two seconds, and no queued one has started."""
    async with watch_jobs(stack) as seen, run_workers(stack, tmp_path, 2, WORKER_CONCURRENCY="25", **LONG) as workers:
        jobs = await submit(stack, 100, "hold", str(tmp_path / "gate"))
        for receipt in jobs.values():
            await seen.watch(receipt)
        await wait_until(lambda: len(workers.handler_log.jobs) == 50)
        begun = workers.handler_log.jobs
        await seen.wait_for_status(begun, "running")
        await seen.wait_for_status(set(jobs) - begun, "queued")
        asked_at = time.monotonic()
        await asyncio.gather(*(stack.cancel(jobs[job_id]) for job_id in sorted(jobs, key=begun.__contains__)))
        answered_s = time.monotonic() - asked_at
        await seen.wait_for_status(set(jobs), "cancelled", timeout_s=WITHIN_S)
        log.info("100 jobs were cancelled within %.2f s, asking took %.2f", time.monotonic() - asked_at, answered_s)
        await wait_until(lambda: workers.handler_log.matching("cancelled cancel").jobs == begun)
        ((after, receipt),) = (await submit(stack, 1, "nap", 0)).items()  # behind all that were queued
        await seen.watch(receipt)
        await seen.wait_for_status({after}, "succeeded")
        assert workers.handler_log.matching("start").jobs == {*begun, after}
        assert seen.violations() == []


async def test_a_frozen_worker_that_wakes_up_too_late_moves_nothing(stack: Stack, tmp_path: Path) -> None:
    """It is frozen beyond its lease and another one has its jobs: it stops within a heartbeat, however they run."""
    gate = tmp_path / "gate"
    async with watch_jobs(stack) as seen, run_workers(stack, tmp_path, 1) as workers:
        (frozen,) = workers.workers
        held = {**await submit(stack, 2, "hold", str(gate)), **await submit(stack, 2, "hold-in-thread", str(gate))}
        held |= (in_process := await submit(stack, 2, "hold-in-process", str(gate)))
        await wait_until(lambda: workers.handler_log.matching("start").jobs == set(held))
        naps = await submit(stack, 2, "nap", LEASE_S)  # over for the frozen one as soon as it wakes up
        for receipt in (*held.values(), *naps.values()):
            await seen.watch(receipt)
        jobs = {*held, *naps}
        await wait_until(lambda: workers.handler_log.matching("start").jobs == jobs)
        await seen.wait_for_status(jobs, "running")
        frozen.signal(signal.SIGSTOP)
        (other,) = await workers.add()
        await wait_until(lambda: workers.handler_log.by_worker(other.pid).matching("start").jobs == jobs)
        thawed_at = time.monotonic()
        frozen.signal(signal.SIGCONT)
        stopped = set(held) - set(in_process)  # processes have ended themselves meanwhile
        await wait_until(lambda: workers.handler_log.by_worker(frozen.pid).matching("cancelled lease").jobs >= stopped)
        await seen.wait_for_status(set(naps), "succeeded")
        gate.touch()
        await seen.wait_for_status(jobs, "succeeded")
        effects = workers.handler_log
        last = max(effect.at for effect in effects.by_worker(frozen.pid))
        log.info("the frozen worker did its last %.3f s after it woke up", last - thawed_at)
        assert last < thawed_at + HEARTBEAT_S
        assert HandlerLog(effect for effect in effects if effect.job_id in in_process).overlapping(0) == []
        assert [seen.last(job_id)["result"] for job_id in jobs] == [2] * len(jobs)
        assert seen.violations() == []


async def test_a_stopping_workers_jobs_go_on_elsewhere_at_once(stack: Stack, tmp_path: Path) -> None:
    """Within two seconds of its exit another worker is at all twenty, and that has cost none of them an attempt."""
    gate = tmp_path / "gate"
    async with watch_jobs(stack) as seen, run_workers(stack, tmp_path, 1, WORKER_CONCURRENCY="20", **LONG) as workers:
        leaving = workers.workers[0]
        jobs = await submit(stack, 20, "hold", str(gate))
        for receipt in jobs.values():
            await seen.watch(receipt)
        await wait_until(lambda: workers.handler_log.jobs == set(jobs))
        (other,) = await workers.add()
        left_at = await leaving.stop()
        await wait_until(lambda: workers.handler_log.by_worker(other.pid).matching("start").jobs == set(jobs), 10)
        gate.touch()
        await seen.wait_for_status(set(jobs), "succeeded")
        effects = workers.handler_log
        starts = [effect.at - left_at for effect in effects.by_worker(other.pid).matching("start")]
        log.info("20 jobs went on within %.2f s of the exit", max(starts))
        assert max(starts) < WITHIN_S
        assert {effect.attempt for effect in effects} == {1}
        assert effects.by_worker(leaving.pid).matching("cancelled stop").jobs == set(jobs)
        assert effects.overlapping(0) == []
        assert {(job["status"], job["attempt"], job["result"]) for job in map(seen.last, jobs)} == {("succeeded", 1, 1)}
        assert seen.violations() == []


async def test_what_a_checkpoint_has_kept_is_never_done_again(stack: Stack, tmp_path: Path) -> None:
    """A job's worker is killed after each of six checkpoints, the moment that it is kept: that makes six steps."""
    async with watch_jobs(stack) as seen, run_workers(stack, tmp_path, 2, LEASE_S="2") as workers:
        ((job_id, receipt),) = (await submit(stack, 1, "deadly-checkpoints", {"steps": KILLS})).items()
        await seen.watch(receipt)

        async def revive_after(number: int) -> None:
            (saved,) = await wait_until(lambda: workers.handler_log.matching(f"saved {number}"))
            victim = workers.by_pid(saved.worker)
            await victim.kill()  # as its handler has done
            await victim.start()

        for number in range(KILLS):
            await revive_after(number)
        await seen.wait_for_status({job_id}, "succeeded")
        effects = workers.handler_log
        assert effects.jobs == {job_id}
        steps = [effect.event for effect in effects.matching("step ")]
        assert steps == [f"step {number}" for number in range(KILLS)], format_entries(effects)
