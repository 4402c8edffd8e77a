"""Repeated submissions with one `Idempotency-Key` are one job, which runs once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until

SUBMISSIONS = 20


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system with enough slots to run all submissions at once."""
    env = {"WORKER_JOBS": JOBS, "WORKER_CONCURRENCY": str(2 * SUBMISSIONS), "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("idempotency"), **env) as stack:
        yield stack


async def submit(stack: Stack, key: str, payload: Any, kind: str = "append-id") -> dict[str, Any]:
    """Submit a job over a new connection; return the receipt."""
    body, headers = {"kind": kind, "payload": payload}, {"Idempotency-Key": key}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{stack.url}/jobs", json=body, headers=headers) as response,
    ):
        receipt: dict[str, Any] = await response.json()
        assert response.status == 202, receipt
        return receipt


async def test_concurrent_submissions_with_one_key_are_one_job(stack: Stack, tmp_path: Path) -> None:
    """The job starts once, and not again after its end; another payload or another key makes it another job."""
    marks, key = tmp_path / "marks", str(uuid.uuid4())
    receipts = await asyncio.gather(*(submit(stack, key, str(marks)) for _ in range(SUBMISSIONS)))
    (job_id,) = {receipt["id"] for receipt in receipts}
    for receipt in receipts:
        assert [job async for job in stack.watch(receipt["token"])][-1]["status"] == "succeeded"
    receipts.append(await submit(stack, key, str(marks)))
    assert receipts[-1]["id"] == job_id
    other_payload = await submit(stack, key, str(tmp_path / "others"))
    assert other_payload["id"] != job_id
    other_key = await submit(stack, str(uuid.uuid4()), str(tmp_path / "others"))
    assert other_key["id"] not in (job_id, other_payload["id"])

    async def all_delivered() -> bool:
        return await stack.metric('jobs_finished_total{kind="append-id"}', "worker") == SUBMISSIONS + 3

    await wait_until(all_delivered)
    assert marks.read_text().splitlines() == [job_id]
    assert len((tmp_path / "others").read_text().splitlines()) == 2
