"""Compatibility with version 0.1: it runs beside this version over the same Redis and queue, with jobs running.

A crossed system has a notifier and a submitter of one version and a worker of the other. Two of them share one Redis.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from headway.contracts import Timestamp
from headway.tokens import make_keys
from tests.integration.release_0_1 import (
    NEW,
    OLD,
    OTHER,
    SERVICES,
    TIMEOUT_S,
    Receipt,
    System,
    Trees,
    extract,
    progress_from,
)
from tests.integration.watchers import watch_jobs
from tests.stack import ENDED
from tests.waiting import wait_until

Crossed = dict[str, System]  # by the version of notifier and submitter

PAYLOAD = {"text": 'Grüße "🎉"\n', "number": 2**60, "fraction": 0.1, "empty": [{}, [], None], "nested": {"a": [[1]]}}
JOB = ["id", "kind", "status", "version", "generation", "attempt", "max_attempts", "progress", "result", "error"]
TIMES = ["submitted_at", "started_at", "updated_at", "finished_at", "due_at", "lease_until", "expires_at"]
FENCE = ["cancel_requested", "message_id", "delivery", "sequence", "lease_ms", "due_ms", "expires_ms"]
FIELDS_OF_0_1 = [*JOB, *TIMES, *FENCE]

for_each_crossed_system = pytest.mark.parametrize(
    "version",
    [pytest.param(NEW, id="worker-of-0.1-and-new-notifier"), pytest.param(OLD, id="new-worker-and-notifier-of-0.1")],
)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Extract version 0.1."""
    return extract(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def shared_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the keys that all services share."""
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return folder


@pytest.fixture(scope="module")
async def crossed(
    stores: dict[str, str], trees: Trees, shared_keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Crossed]:
    """Run the two crossed systems for this module."""
    folder = tmp_path_factory.mktemp("crossed")
    async with AsyncExitStack() as stack:
        systems = {}
        for version in (OLD, NEW):
            versions = {"notifier": version, "submitter": version, "worker": OTHER[version]}
            system = System.running(folder / version, shared_keys, stores, trees, **versions)
            systems[version] = await stack.enter_async_context(system)
        yield systems


async def end_of(system: System, receipt: Receipt) -> dict[str, Any]:
    """Watch a job and return its last snapshot."""
    async with asyncio.timeout(TIMEOUT_S):
        return [job async for job in system.watch(receipt["token"])][-1]


@for_each_crossed_system
async def test_worker_runs_a_job_of_the_other_version(crossed: Crossed, version: str) -> None:
    """A message, its payload and the result pass unchanged between the versions."""
    receipt = await crossed[version].submit("echo", PAYLOAD, max_attempts=7, timeout_s=60)
    job = await end_of(crossed[version], receipt)
    assert (job["status"], job["result"], job["kind"]) == ("succeeded", PAYLOAD, "echo")
    assert (job["attempt"], job["max_attempts"], job["error"]) == (1, 7, None)


@for_each_crossed_system
async def test_submission_wakes_a_worker_of_the_other_version(crossed: Crossed, version: str) -> None:
    """A wake-up passes from the submitter through the notifier to a worker of the other version."""
    system = crossed[version]
    before = await system.metric("worker_hints_total", "worker")
    await end_of(system, await system.submit("echo"))

    async def woken() -> bool:
        return await system.metric("worker_hints_total", "worker") > before

    await wait_until(woken, TIMEOUT_S)


@for_each_crossed_system
async def test_watchers_see_progress_of_the_other_version(crossed: Crossed, tmp_path: Path, version: str) -> None:
    """Progress that a worker reports to a notifier of the other version is seen live at both notifiers."""
    finish = tmp_path / "finish"
    async with watch_jobs(crossed[OLD]) as at_old, watch_jobs(crossed[NEW]) as at_new:
        job_id = (await crossed[version].submit_wait(finish, at_old, at_new))["id"]
        for watcher in (at_old, at_new):
            await progress_from(OTHER[version], watcher, [job_id])
            assert watcher.last(job_id)["lease_until"]
        finish.touch()
        for watcher in (at_old, at_new):
            await watcher.wait_for_status({job_id}, "succeeded", timeout_s=TIMEOUT_S)
            assert watcher.violations() == []
        assert at_old.last(job_id) == at_new.last(job_id)


@for_each_crossed_system
async def test_retries_pass_between_the_versions(crossed: Crossed, version: str) -> None:
    """A failed attempt is retried with its checkpoint, and watchers see the reason."""
    async with watch_jobs(crossed[version]) as watcher:
        job_id = (await crossed[version].submit_watched("third-attempt", {}, watcher, delay_s=1))["id"]
        await watcher.wait_for_status({job_id}, "succeeded", timeout_s=TIMEOUT_S)
        job = watcher.last(job_id)
    assert (job["attempt"], job["max_attempts"], job["result"], job["due_at"]) == (3, 3, [1, 2], None)
    errors = {seen["error"]["message"] for seen in watcher.snapshots[job_id] if seen["status"] == "retrying"}
    assert errors <= {"The album is locked."}  # a slow client may skip the snapshots of a retry
    assert watcher.violations() == []


@for_each_crossed_system
async def test_stopped_worker_releases_its_jobs_to_the_other_version(
    crossed: Crossed, tmp_path: Path, version: str
) -> None:
    """A job of a stopped worker continues on the other version and back, at no attempt and with its checkpoint."""
    system, finish, first, second = crossed[version], tmp_path / "finish", OTHER[version], version
    worker = system.services["worker"]
    async with watch_jobs(system) as watcher:
        kept = (await system.submit_wait(finish, watcher))["id"]
        plain = (await system.submit_wait(finish, watcher, checkpoint=False))["id"]
        await progress_from(first, watcher, [kept, plain])
        try:
            await worker.stop()
            await watcher.wait_for_status({kept, plain}, "queued", timeout_s=TIMEOUT_S)
            await worker.start(second)
            await progress_from(second, watcher, [kept, plain])
        finally:
            await system.replace("worker", first)
        await progress_from(first, watcher, [kept, plain])
        finish.touch()
        await watcher.wait_for_status({kept, plain}, "succeeded", timeout_s=TIMEOUT_S)
        assert watcher.last(kept)["result"] == {"ran": [first, second, first], "attempt": 1}
        assert watcher.last(plain)["result"] == {"ran": [first], "attempt": 1}
        assert watcher.violations() == []


async def test_same_request_to_both_versions_is_one_job(crossed: Crossed, tmp_path: Path) -> None:
    """An idempotency key names the same job at both submitters, and the job runs once."""
    marks = tmp_path / "marks"
    receipts = [await system.submit_with_key(str(tmp_path), "mark", str(marks)) for system in crossed.values()]
    assert len({receipt["id"] for receipt in receipts}) == 1

    async def both_handled() -> bool:
        deliveries = [await system.metric('jobs_finished_total{kind="mark"', "worker") for system in crossed.values()]
        return deliveries == [1, 1]

    await wait_until(both_handled, TIMEOUT_S)
    for system, receipt in zip(crossed.values(), receipts, strict=True):
        assert (await end_of(system, receipt))["status"] == "succeeded"
    assert marks.read_text().split() == [receipts[0]["id"]]


@pytest.mark.parametrize("first", [OLD, NEW])
async def test_both_notifiers_share_a_record(crossed: Crossed, first: str) -> None:
    """A record that one notifier writes is updated and ended by the other, live for the watchers of both."""
    writer, other = crossed[first], crossed[OTHER[first]]
    async with watch_jobs(writer) as at_writer, watch_jobs(other) as at_other:
        receipt = await writer.submit_watched("echo", {}, at_writer, at_other, delay_s=3600)
        job_id = receipt["id"]

        async def seen_by_both(status: str, current: int) -> None:
            def shown_by_both() -> bool:
                last = [(each.last(job_id)["status"], each.last(job_id)["progress"]) for each in (at_writer, at_other)]
                return all(job[0] == status and job[1] and job[1]["current"] == current for job in last)

            await wait_until(shown_by_both, TIMEOUT_S)
            assert at_writer.last(job_id) == at_other.last(job_id)

        for watcher in (at_writer, at_other):
            await watcher.wait_for_status({job_id}, "queued", timeout_s=TIMEOUT_S)
        for step, notifier in enumerate((writer, other, writer, other), 1):
            verdict = await notifier.report(receipt, step, progress={"current": step, "total": 4})
            assert (verdict["accepted"], verdict["watched"]) == (True, True)
            await seen_by_both("running", step)
            refusals = [await each.report(receipt, step) for each in (other, writer)]
            assert [verdict["reason"] for verdict in refusals] == ["stale", "stale"]
        verdict = await other.report(receipt, 5, status="succeeded", progress={"current": 5}, result=[1])
        assert verdict["accepted"]
        await seen_by_both("succeeded", 5)
        for notifier in (writer, other):
            assert (await notifier.report(receipt, 6))["reason"] == "finished"
            assert (await notifier.snapshot(job_id, receipt["token"]))["result"] == [1]
        assert at_writer.violations() + at_other.violations() == []


@for_each_crossed_system
async def test_cancel_through_either_notifier_reaches_the_worker(
    crossed: Crossed, tmp_path: Path, version: str
) -> None:
    """A running job is cancelled by its worker, whichever notifier accepts the request."""
    async with watch_jobs(crossed[OLD]) as at_old, watch_jobs(crossed[NEW]) as at_new:
        receipts = [await crossed[version].submit_wait(tmp_path / "never", at_old, at_new) for _ in crossed]
        jobs = [receipt["id"] for receipt in receipts]
        for watcher in (at_old, at_new):
            await progress_from(OTHER[version], watcher, jobs)
        for system, receipt in zip(crossed.values(), receipts, strict=True):
            answer = await system.cancel_here(receipt)
            assert (answer["status"], answer["cancel_requested"]) == ("running", True)
        for watcher in (at_old, at_new):
            await watcher.wait_for_status(set(jobs), "cancelled", timeout_s=TIMEOUT_S)
            assert watcher.violations() == []
        assert [at_old.last(job_id) for job_id in jobs] == [at_new.last(job_id) for job_id in jobs]


def report_of(state: str) -> dict[str, Any]:
    """Return the fields of a worker's report in this state."""
    soon, progress = str(Timestamp.now().after(60)), {"current": 1, "total": 2, "unit": "MB", "message": "Grüße"}
    more: dict[str, dict[str, Any]] = {
        "running": {"lease_until": soon, "progress": progress},
        "retrying": {"due_at": soon, "error": {"type": "Retry", "message": "The album is locked."}},
        "succeeded": {"progress": progress, "result": PAYLOAD},
        "failed": {"error": {"type": "Fail", "message": "The album is empty."}},
    }
    return {"status": state, **more.get(state, {})}


@pytest.mark.parametrize(
    "state", ["running", "retrying", "queued", "succeeded", "failed", "cancelled", "cancelled-before-its-start"]
)
async def test_record_has_all_fields_of_0_1(crossed: Crossed, admin: Redis, state: str) -> None:
    """A record that this version writes has all 24 fields of 0.1, which serves the job and continues it."""
    old, new = crossed[OLD], crossed[NEW]
    receipt = await new.submit("echo", delay_s=3600)
    if state == "cancelled-before-its-start":
        assert (await new.cancel(receipt))["status"] == "cancelled"
    else:
        assert (await new.report(receipt, **report_of(state)))["accepted"]
    values = await admin.hmget(f"headway:job:{{{receipt['id']}}}", FIELDS_OF_0_1)
    missing = [name for name, value in zip(FIELDS_OF_0_1, values, strict=True) if value is None]
    assert (missing, len(set(FIELDS_OF_0_1))) == ([], 24)
    old_snapshot, new_snapshot = [await notifier.snapshot(receipt["id"], receipt["token"]) for notifier in (old, new)]
    assert old_snapshot["status"] == state.partition("-")[0]
    assert old_snapshot["version"] > 0
    assert old_snapshot == {name: new_snapshot[name] for name in old_snapshot}
    ended = old_snapshot["status"] in ENDED
    verdict = await old.report(receipt, delivery=2, message_id="another")
    assert verdict["reason"] == ("finished" if ended else "duplicate")
    verdict = await old.report(receipt, delivery=2, status="succeeded", result=2)
    assert verdict["reason"] == ("finished" if ended else None)
    assert (await new.snapshot(receipt["id"], receipt["token"]))["result"] == (new_snapshot["result"] if ended else 2)


@pytest.mark.parametrize("change", ["start", "cancel"])
@pytest.mark.parametrize("state", ["submitted", "redriven"])
async def test_0_1_accepts_a_submitted_job(crossed: Crossed, admin: Redis, change: str, state: str) -> None:
    """0.1 sees no record of a job that waits, so that it starts and cancels it. The record keeps its labels."""
    old, new = crossed[OLD], crossed[NEW]
    receipt = await old.submit("echo", delay_s=3600)
    generation, labels = int(state == "redriven"), {"name": "Mail", "owner": "ann"}
    if generation:
        assert (await new.report(receipt, status="failed", labels=labels))["accepted"]
    await new.record_submission(receipt, generation=generation, labels=labels)
    assert (await new.snapshot(receipt["id"], receipt["token"]))["status"] == "queued"
    shown = await old.snapshot(receipt["id"], receipt["token"])
    assert (shown["status"], shown["version"]) == ("queued", 0)
    if change == "start":
        verdict = await old.report(receipt, generation=generation, delivery=2, message_id="another")
        assert (verdict["accepted"], verdict["reason"]) == (True, None)
    else:
        assert (await old.cancel_here(receipt))["status"] == "cancelled"
    key = f"headway:job:{{{receipt['id']}}}"
    assert None not in await admin.hmget(key, FIELDS_OF_0_1)
    assert json.loads(await admin.hget(key, "labels") or b"") == labels
    snapshot = await new.snapshot(receipt["id"], receipt["token"])
    assert (snapshot["status"], snapshot["name"]) == ("running" if change == "start" else "cancelled", "Mail")


@pytest.mark.timeout(600)
async def test_rolling_upgrade_and_downgrade_keep_running_jobs(
    stores: dict[str, str], trees: Trees, shared_keys: Path, tmp_path: Path
) -> None:
    """While each service is replaced by this version and back by 0.1, each job succeeds exactly once."""
    finish, folder, worker = tmp_path / "finish", tmp_path / "system", OLD
    steps = [(name, NEW) for name in SERVICES] + [(name, OLD) for name in reversed(SERVICES)]
    all_old = dict.fromkeys(SERVICES, OLD)
    async with System.running(folder, shared_keys, stores, trees, **all_old) as system, watch_jobs(system) as watcher:
        waiting = [(await system.submit_wait(finish, watcher, checkpoint=kept))["id"] for kept in (True, True, False)]
        retried = [(await system.submit_watched("only-on", NEW, watcher))["id"]]  # until the upgrade
        await progress_from(OLD, watcher, waiting)
        for name, version in steps:
            await system.replace(name, version)
            worker = version if name == "worker" else worker
            waiting.append((await system.submit_wait(finish, watcher))["id"])
            await progress_from(worker, watcher, waiting)
            if (name, version) == ("submitter", NEW):
                retried.append((await system.submit_watched("only-on", OLD, watcher))["id"])  # until the downgrade
        finish.touch()
        await watcher.wait_for_status({*waiting, *retried}, "succeeded", timeout_s=TIMEOUT_S)
        await wait_until(system.is_empty, TIMEOUT_S)
    assert sorted(finish.read_text().split()) == sorted(waiting)
    for job_id in (*waiting, *retried):
        ends = {job["version"]: job["status"] for job in watcher.snapshots[job_id] if job["status"] in ENDED}
        assert list(ends.values()) == ["succeeded"]
    results = [watcher.last(job_id)["result"] for job_id in waiting]
    assert [result["ran"] for result in results[:3]] == [[OLD, NEW, OLD], [OLD, NEW, OLD], [OLD]]
    assert {result["attempt"] for result in results} == {1}
    assert [watcher.last(job_id)["result"] for job_id in retried] == [NEW, OLD]
    assert watcher.violations() == []
