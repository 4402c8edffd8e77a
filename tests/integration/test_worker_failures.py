"""Workers that are killed, frozen and stopped while they run jobs: other workers continue, and no work is repeated."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headway.contracts import Timestamp
from tests.integration.chaos_jobs import TICK_S
from tests.integration.handler_log import HandlerLog, format_entries
from tests.integration.http_proxy import http_proxy
from tests.integration.watchers import watch_jobs
from tests.integration.worker_fleet import HEARTBEAT_S, IDLE_WORKER, LEASE_S, WorkerFleet, run_workers
from tests.stack import Stack, running
from tests.waiting import free_ports, wait_until

log = logging.getLogger(__name__)

KILLS = 6 if os.environ.get("LONG") == "1" else 3  # each costs the rest of a lease
LONG_LEASE = {"LEASE_S": "30"}  # so that no lease expires
PROXY_ERRORS = ("500", "400", "413")
MAX_DELAY_S = 15.0  # from a worker's exit to the last start: before the leases end, also on a busy machine
MAX_STEPS = HEARTBEAT_S / TICK_S  # of a handler whose worker thaws without its lease


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system without workers."""
    async with running(tmp_path_factory.mktemp("fleet"), DRAIN_S="0", **IDLE_WORKER) as stack:
        yield stack


async def submit(stack: Stack, count: int, kind: str, payload: Any = None, **more: Any) -> dict[str, dict[str, Any]]:
    """Submit some jobs; return their receipts by id."""
    receipts = await asyncio.gather(*(stack.submit_persistently(kind, payload, **more) for _ in range(count)))
    return {receipt["id"]: receipt for receipt in receipts}


async def test_hundred_jobs_are_cancelled_at_once(stack: Stack, tmp_path: Path) -> None:
    """Fifty running and fifty queued jobs are cancelled, and no queued one starts."""
    async with (
        watch_jobs(stack) as watcher,
        run_workers(stack, tmp_path, 2, WORKER_CONCURRENCY="25", **LONG_LEASE) as workers,
    ):
        jobs = await submit(stack, 100, "hold", str(tmp_path / "finish"))
        for receipt in jobs.values():
            await watcher.watch(receipt)
        await wait_until(lambda: len(workers.handler_log.jobs) == 50)
        started = workers.handler_log.jobs
        await watcher.wait_for_status(started, "running")
        await watcher.wait_for_status(set(jobs) - started, "queued")
        requested_at = time.monotonic()
        await asyncio.gather(*(stack.cancel(jobs[job_id]) for job_id in sorted(jobs, key=started.__contains__)))
        requests_s = time.monotonic() - requested_at
        await watcher.wait_for_status(set(jobs), "cancelled")
        total_s = time.monotonic() - requested_at
        log.info("100 jobs were cancelled within %.2f s, the requests took %.2f s", total_s, requests_s)
        await wait_until(lambda: workers.handler_log.matching("cancelled cancel").jobs == started)
        ((after, receipt),) = (await submit(stack, 1, "nap", 0)).items()  # queued after all others
        await watcher.watch(receipt)
        await watcher.wait_for_status({after}, "succeeded")
        assert workers.handler_log.matching("start").jobs == {*started, after}
        assert watcher.violations() == []


async def test_clock_of_a_worker_does_not_matter(stack: Stack, tmp_path: Path) -> None:
    """With a clock that jumps by days, no watcher sees an expired lease, and the worker obeys a cancellation."""
    jobs_with_clock = "tests.integration.wrong_clock,tests.integration.chaos_jobs"
    async with watch_jobs(stack) as watcher, run_workers(stack, tmp_path, 1, WORKER_JOBS=jobs_with_clock) as workers:
        ((job_id, receipt),) = (await submit(stack, 1, "hold", str(tmp_path / "never"))).items()
        await watcher.watch(receipt)
        await watcher.wait_for_status({job_id}, "running")
        first = watcher.last(job_id)["lease_until"]
        await wait_until(lambda: watcher.last(job_id)["lease_until"] != first)  # a renewal
        for snapshot in watcher.snapshots[job_id]:
            if snapshot["status"] == "running":
                left_ms = Timestamp.parse(snapshot["lease_until"]) - Timestamp.parse(snapshot["updated_at"])
                assert 0 < left_ms <= LEASE_S * 1000, snapshot
        answer = await stack.cancel(receipt)
        assert (answer["status"], answer["cancel_requested"]) == ("running", True)
        await watcher.wait_for_status({job_id}, "cancelled")
        assert workers.handler_log.matching("cancelled cancel").jobs == {job_id}


async def test_frozen_worker_stops_after_losing_its_leases(stack: Stack, tmp_path: Path) -> None:
    """Within a heartbeat of thawing, the worker stops the jobs that another worker has taken over, in any executor."""
    finish = tmp_path / "finish"
    async with watch_jobs(stack) as watcher, run_workers(stack, tmp_path, 1) as workers:
        (frozen,) = workers.workers
        held = {**await submit(stack, 2, "hold", str(finish)), **await submit(stack, 2, "hold-in-thread", str(finish))}
        held |= (in_process := await submit(stack, 2, "hold-in-process", str(finish)))
        await wait_until(lambda: workers.handler_log.matching("start").jobs == set(held))
        naps = await submit(stack, 2, "nap", LEASE_S)  # their sleep is over as soon as the frozen worker thaws
        for receipt in (*held.values(), *naps.values()):
            await watcher.watch(receipt)
        jobs = {*held, *naps}
        await wait_until(lambda: workers.handler_log.matching("start").jobs == jobs)
        await watcher.wait_for_status(jobs, "running")
        frozen.signal(signal.SIGSTOP)
        (other,) = await workers.add()
        await wait_until(lambda: workers.handler_log.by_worker(other.pid).matching("start").jobs == jobs)
        thawed_at = time.monotonic()
        frozen.signal(signal.SIGCONT)
        stopped = set(held) - set(in_process)  # handler processes exit by themselves when the lease ends
        await wait_until(lambda: workers.handler_log.by_worker(frozen.pid).matching("cancelled lease").jobs >= stopped)
        await watcher.wait_for_status(set(naps), "succeeded")
        finish.touch()
        await watcher.wait_for_status(jobs, "succeeded")
        entries = workers.handler_log
        steps = [entry for entry in entries.by_worker(frozen.pid).matching("step") if entry.at > thawed_at]
        log.info("after it thawed, the worker did %d steps of %d jobs", len(steps), len(held))
        assert all(count <= MAX_STEPS for count in Counter(entry.job_id for entry in steps).values())
        assert HandlerLog(entry for entry in entries if entry.job_id in in_process).overlapping(0) == []
        assert [watcher.last(job_id)["result"] for job_id in jobs] == [2] * len(jobs)
        assert watcher.violations() == []


async def test_jobs_of_a_stopped_worker_continue_at_once(stack: Stack, tmp_path: Path) -> None:
    """Before their leases would have ended another worker runs all twenty jobs, and none has lost an attempt."""
    finish = tmp_path / "finish"
    async with (
        watch_jobs(stack) as watcher,
        run_workers(stack, tmp_path, 1, WORKER_CONCURRENCY="20", **LONG_LEASE) as workers,
    ):
        stopping = workers.workers[0]
        jobs = await submit(stack, 20, "hold", str(finish))
        for receipt in jobs.values():
            await watcher.watch(receipt)
        await wait_until(lambda: workers.handler_log.jobs == set(jobs))
        (other,) = await workers.add()
        exited_at = await stopping.stop()
        await wait_until(lambda: workers.handler_log.by_worker(other.pid).matching("start").jobs == set(jobs))
        finish.touch()
        await watcher.wait_for_status(set(jobs), "succeeded")
        entries = workers.handler_log
        starts = [entry.at - exited_at for entry in entries.by_worker(other.pid).matching("start")]
        log.info("20 jobs continued within %.2f s of the exit", max(starts))
        assert max(starts) < MAX_DELAY_S
        assert {entry.attempt for entry in entries} == {1}
        assert entries.by_worker(stopping.pid).matching("cancelled stop").jobs == set(jobs)
        assert entries.overlapping(0) == []
        assert {(job["status"], job["attempt"], job["result"]) for job in map(watcher.last, jobs)} == {
            ("succeeded", 1, 1)
        }
        assert watcher.violations() + watcher.progress_violations() == []


async def test_steps_before_a_checkpoint_are_not_repeated(stack: Stack, tmp_path: Path) -> None:
    """A worker is killed right after each checkpoint, and the job does each step once."""
    async with watch_jobs(stack) as watcher, run_workers(stack, tmp_path, 2, LEASE_S="2") as workers:
        ((job_id, receipt),) = (await submit(stack, 1, "deadly-checkpoints", {"steps": KILLS})).items()
        await watcher.watch(receipt)

        async def restart_after(number: int) -> None:
            (saved,) = await wait_until(lambda: workers.handler_log.matching(f"saved {number}"))
            victim = workers.by_pid(saved.worker)
            await victim.kill()  # its handler has killed it already; this waits for the exit
            await victim.launch()

        for number in range(KILLS):
            await restart_after(number)
        await watcher.wait_for_status({job_id}, "succeeded")
        entries = workers.handler_log
        assert entries.jobs == {job_id}
        steps = [entry.event for entry in entries.matching("step ")]
        assert steps == [f"step {number}" for number in range(KILLS)], format_entries(entries)


async def wait_for_report(workers: WorkerFleet, status: str) -> None:
    """Wait until reports have been answered with this status."""

    async def is_answered() -> bool:
        return await workers.metric(f'worker_reports_total{{outcome="{status}"}}') >= 2

    await wait_until(is_answered)


async def test_a_proxy_s_errors_lose_no_outcome(stack: Stack, tmp_path: Path) -> None:
    """Eight jobs start and end while a proxy answers their reports itself; all succeed with their first attempt."""
    (port,) = free_ports(1)
    behind_proxy = {"NOTIFIER_INTERNAL_URL": f"http://127.0.0.1:{port}", "WORKER_CONCURRENCY": "30"}
    async with (
        watch_jobs(stack) as watcher,
        http_proxy(port, int(stack.env["NOTIFIER_INTERNAL_PORT"])) as proxy,
        run_workers(stack, tmp_path, 1, **behind_proxy, **LONG_LEASE) as workers,
    ):
        for status in PROXY_ERRORS:
            finish = tmp_path / f"finish-{status}"
            jobs = await submit(stack, 4, "hold", str(finish))
            await wait_until(partial(lambda jobs: set(jobs) <= workers.handler_log.jobs, jobs))
            with proxy.failing(status):
                finish.touch()
                jobs |= await submit(stack, 4, "nap", 0)
                await wait_for_report(workers, status)
            for receipt in jobs.values():
                await watcher.watch(receipt)
            await watcher.wait_for_status(set(jobs), "succeeded")
            assert {watcher.last(job_id)["attempt"] for job_id in jobs} == {1}
        assert await workers.metric("jobs_poisoned_total") == 0
        assert watcher.violations() == []
