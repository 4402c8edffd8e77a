"""One `Idempotency-Key` is one job, however often and from wherever it is sent; its starts are counted in a file."""

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

TIMES = 20


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system with a worker that would do all at once."""
    env = {"WORKER_JOBS": JOBS, "WORKER_CONCURRENCY": str(2 * TIMES), "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("idempotency"), **env) as stack:
        yield stack


async def submit(stack: Stack, key: str, payload: Any, kind: str = "append-id") -> dict[str, Any]:
    """Submit by a connection of its own."""
    body, headers = {"kind": kind, "payload": payload}, {"Idempotency-Key": key}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{stack.url}/jobs", json=body, headers=headers) as response,
    ):
        receipt: dict[str, Any] = await response.json()
        assert response.status == 202, receipt
        return receipt


async def test_twenty_at_once_are_one_job_with_one_start(stack: Stack, tmp_path: Path) -> None:
    """All receipts name the same job, which starts once; again after its end, it does not start anew."""
    marks, key = tmp_path / "marks", str(uuid.uuid4())
    receipts = await asyncio.gather(*(submit(stack, key, str(marks)) for _ in range(TIMES)))
    (job_id,) = {receipt["id"] for receipt in receipts}
    for receipt in receipts:
        assert [job async for job in stack.watch(receipt["token"])][-1]["status"] == "succeeded"
    receipts.append(await submit(stack, key, str(marks)))
    assert receipts[-1]["id"] == job_id
    other = await submit(stack, key, str(tmp_path / "others"))
    assert other["id"] != job_id
    assert (await submit(stack, str(uuid.uuid4()), str(tmp_path / "others")))["id"] not in (job_id, other["id"])

    async def all_delivered() -> bool:
        return await stack.metric('jobs_finished_total{kind="append-id"}', "worker") == TIMES + 3

    await wait_until(all_delivered)
    assert marks.read_text().splitlines() == [job_id]
    assert len((tmp_path / "others").read_text().splitlines()) == 2
