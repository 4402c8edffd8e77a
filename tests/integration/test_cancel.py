"""Cancellation of a job in each of its states."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headway.contracts import Timestamp
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, wait_until

LEASE_S = 3


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system with a worker that runs one job at a time."""
    env = {"LEASE_S": str(LEASE_S), "WORKER_CONCURRENCY": "1", "GRACE_S": "0", "DRAIN_S": "0", "WORKER_JOBS": JOBS}
    async with running(tmp_path_factory.mktemp("cancel"), **env) as stack:
        yield stack


async def status(stack: Stack, receipt: dict[str, Any]) -> str:
    """Return a job's status."""
    return str((await stack.snapshot(receipt["id"], receipt["token"]))["status"])


async def wait_for(stack: Stack, receipt: dict[str, Any], *statuses: str) -> None:
    """Wait until a job has one of these statuses."""

    async def reached() -> bool:
        return await status(stack, receipt) in statuses

    await wait_until(reached)


async def test_queued_job_is_cancelled_and_never_starts(stack: Stack, tmp_path: Path) -> None:
    """A job that waits for a busy worker is cancelled at once, and the worker does not run it later."""
    marks, done = tmp_path / "marks", tmp_path / "done"
    busy = await stack.submit("wait-for-file", str(done))
    await wait_for(stack, busy, "running")
    queued = await stack.submit("append-id", str(marks))
    assert (await stack.cancel(queued))["status"] == "cancelled"
    done.touch()
    after = await stack.submit("append-id", str(marks))
    await wait_for(stack, after, "succeeded")
    assert await status(stack, queued) == "cancelled"
    assert marks.read_text().splitlines() == [after["id"]]


async def test_delayed_job_is_cancelled_and_never_starts(stack: Stack, tmp_path: Path) -> None:
    """A delayed job has no record yet; the cancellation creates one, and the worker obeys it when the job is due."""
    marks = tmp_path / "marks"
    with stack.frozen("worker"):
        delayed = await stack.submit("append-id", str(marks), delay_s=1)
        snapshot = await stack.cancel(delayed)
    assert (snapshot["status"], snapshot["due_at"], snapshot["kind"]) == ("cancelled", None, "append-id")
    after = await stack.submit("append-id", str(marks), delay_s=2)
    await wait_for(stack, after, "succeeded")
    assert marks.read_text().splitlines() == [after["id"]]
    assert (await stack.snapshot(delayed["id"], delayed["token"]))["version"] == snapshot["version"]


async def test_running_job_is_cancelled_by_its_worker(stack: Stack) -> None:
    """The snapshot shows the request at once, and the end before the handler is done; a repetition changes nothing."""
    running_ = await stack.submit(payload={"steps": 100, "delay_s": 0.2})

    async def has_progress() -> bool:
        return (await stack.snapshot(running_["id"], running_["token"]))["progress"] is not None

    await wait_until(has_progress)
    first, second = await stack.cancel(running_), await stack.cancel(running_)
    assert (first["status"], first["cancel_requested"]) == ("running", True)
    assert second["version"] >= first["version"]
    await asyncio.wait_for(wait_for(stack, running_, "cancelled"), PATIENCE_S)
    ended = await stack.snapshot(running_["id"], running_["token"])
    assert ended["progress"]["percent"] < 100
    assert ended["finished_at"]


async def test_retrying_job_is_cancelled_at_once(stack: Stack) -> None:
    """Without a lease the job ends immediately; the next delivery gets the verdict `finished`."""
    receipt = await stack.submit(delay_s=3600)
    due = str(Timestamp.now().after(60))
    assert (await stack.report(receipt, status="retrying", due_at=due))["accepted"]
    snapshot = await stack.cancel(receipt)
    assert (snapshot["status"], snapshot["due_at"], snapshot["lease_until"]) == ("cancelled", None, None)
    assert (await stack.report(receipt, delivery=2))["reason"] == "finished"


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "cancelled"])
async def test_cancel_does_not_change_an_ended_job(stack: Stack, outcome: str) -> None:
    """The response is the unchanged snapshot."""
    receipt = await stack.submit(delay_s=3600)
    await stack.report(receipt, status=outcome)
    before = await stack.snapshot(receipt["id"], receipt["token"])
    assert await stack.cancel(receipt) == before


async def test_running_job_without_a_live_lease_is_cancelled_at_once(stack: Stack) -> None:
    """A job whose `lease_until` has passed has no worker that could obey the request."""
    receipt = await stack.submit(delay_s=3600)
    await stack.report(receipt, lease_until=str(Timestamp.now().after(60)))
    assert (await stack.cancel(receipt))["status"] == "running"
    expired = await stack.submit(delay_s=3600)
    await stack.report(expired, lease_until=str(Timestamp.now().after(-1)))
    assert (await stack.cancel(expired))["status"] == "cancelled"


async def test_cancel_request_survives_the_death_of_the_worker(stack: Stack) -> None:
    """The worker is frozen, then killed; the next one gets the request and does not call the handler."""
    receipt = await stack.submit(payload={"steps": 100, "delay_s": 0.2})
    await wait_for(stack, receipt, "running")
    worker = stack.pid("worker")
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    assert (await stack.cancel(receipt))["cancel_requested"] is True
    await stack.kill("worker")
    await wait_for(stack, receipt, "cancelled")
    after = await stack.snapshot(receipt["id"], receipt["token"])
    assert (after["attempt"], after["progress"]) == (2, None)


async def test_watch_token_cannot_cancel(stack: Stack) -> None:
    """Over HTTP and over a WebSocket the request is answered `forbidden`, and the job is not cancelled."""
    receipt = await stack.submit(delay_s=3600)
    headers = {"Authorization": f"Bearer {receipt['token']}"}
    async with stack.session.post(
        f"{stack.url}/jobs/{receipt['id']}/token", json={"scope": "watch"}, headers=headers
    ) as response:
        token = (await response.json())["token"]
    headers = {"Authorization": f"Bearer {token}"}
    async with stack.session.post(receipt["links"]["cancel"], headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (403, "forbidden")
    async with stack.session.ws_connect(receipt["links"]["socket"]) as socket:
        await socket.send_json({"watch": token})
        await socket.send_json({"cancel": receipt["id"]})
        codes = [message.get("error", {}).get("code") for message in [await socket.receive_json() for _ in range(3)]]
    assert codes.count("forbidden") == 1
    assert await status(stack, receipt) == "queued"
