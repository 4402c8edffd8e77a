"""Actions on many jobs, with the whole system."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.broken_jobs import REPAIRED_VARIABLE
from tests.integration.handler_log import LOG_VARIABLE, HandlerLog
from tests.stack import Stack, running
from tests.waiting import wait_until

JOB_COUNT = 1_000 if os.environ.get("LONG") else 100
FEW, FEW_COUNT = {"owner": "few"}, 5
KILLED_AFTER = JOB_COUNT // 4  # jobs
REDRIVE = {"action": "redrive", "filter": {"kind": "broken", "error_type": "Fail"}}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Run the system with one slot, which the bulk job occupies, so that no other job is killed with the worker."""
    env = {
        "WORKER_JOBS": "tests.integration.broken_jobs",
        "WORKER_CONCURRENCY": "1",
        "LEASE_S": "4",
        "GRACE_S": "0",
        "DRAIN_S": "0",
        LOG_VARIABLE: str(tmp_path / "handlers.log"),
        REPAIRED_VARIABLE: str(tmp_path / "repaired"),
    }
    async with running(tmp_path / "state", **env) as stack:
        yield stack


async def post_bulk(stack: Stack, **fields: Any) -> dict[str, Any]:
    """Request an action; return the body of the answer."""
    async with stack.session.post(f"{stack.url}/bulk", json={**REDRIVE, **fields}) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == (200 if "dry_run" in fields else 202), answer
        return answer


async def end_of(stack: Stack, receipt: dict[str, Any]) -> dict[str, Any]:
    """Return the last snapshot of a job."""
    snapshots = [snapshot async for snapshot in stack.watch(receipt["token"])]
    return snapshots[-1]


async def test_killed_and_repeated_redrive_runs_each_job_once_more(stack: Stack, tmp_path: Path) -> None:
    """An operator clicks twice, and the worker is killed in the middle: each failed job runs exactly once more.

    So does each job of a rerun that is clicked twice, although a rerun repeats whatever it selects.
    """
    receipts = [
        await stack.submit("broken", {"number": number}, **(FEW if number < FEW_COUNT else {}))
        for number in range(JOB_COUNT)
    ]

    async def failed_count() -> int:
        return int((await post_bulk(stack, dry_run=True))["count"])

    async def unended_count() -> int:
        unended = {"action": "cancel", "filter": {"kind": "broken"}}
        return int((await post_bulk(stack, dry_run=True, **unended))["count"])

    await wait_until(lambda: _equals(failed_count, JOB_COUNT))
    (tmp_path / "repaired").touch()
    action, repeated = await asyncio.gather(post_bulk(stack), post_bulk(stack))
    assert action["id"] == repeated["id"]
    async for snapshot in stack.watch(action["token"]):
        if ((snapshot["progress"] or {}).get("current") or 0) >= KILLED_AFTER:
            await stack.kill("worker")
            break
    end = await end_of(stack, action)
    assert end["status"] == "succeeded"
    results = [(await end_of(stack, receipt))["result"] for receipt in receipts]
    assert results == list(range(JOB_COUNT))
    events = Counter((entry.job_id, entry.event) for entry in HandlerLog.read(tmp_path / "handlers.log"))
    for receipt in receipts:
        assert (events[receipt["id"], "raised Fail"], events[receipt["id"], "end"]) == (1, 1)
    assert end["result"]["failed"] == {}
    assert end["result"]["done"] + sum(end["result"]["skipped"].values()) == JOB_COUNT
    assert await failed_count() == 0
    rerun = {"action": "rerun", "filter": {"kind": "broken", "status": "succeeded", **FEW}}
    for action in [await post_bulk(stack, **rerun), await post_bulk(stack, **rerun)]:
        assert (await end_of(stack, action))["result"]["done"] == FEW_COUNT
    await wait_until(lambda: handlers_ended(tmp_path) >= JOB_COUNT + FEW_COUNT)
    await wait_until(lambda: _equals(unended_count, 0))
    assert handlers_ended(tmp_path) == JOB_COUNT + FEW_COUNT


def handlers_ended(folder: Path) -> int:
    """Return how many attempts have succeeded."""
    return sum(entry.event == "end" for entry in HandlerLog.read(folder / "handlers.log"))


async def _equals(function: Any, wanted: int) -> bool:
    return bool(await function() == wanted)
