"""Cancelling a job in each of its states, seen from outside."""

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
from tests.waiting import wait_until

LEASE_S = 3


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system with a worker that does one job at a time."""
    env = {"LEASE_S": str(LEASE_S), "WORKER_CONCURRENCY": "1", "GRACE_S": "0", "DRAIN_S": "0", "WORKER_JOBS": JOBS}
    async with running(tmp_path_factory.mktemp("cancel"), **env) as stack:
        yield stack


async def status(stack: Stack, receipt: dict[str, Any]) -> str:
    """Tell how a job stands."""
    return str((await stack.snapshot(receipt["id"], receipt["token"]))["status"])


async def reaches(stack: Stack, receipt: dict[str, Any], *wanted: str) -> None:
    """Wait until a job has one of these statuses."""

    async def there() -> bool:
        return await status(stack, receipt) in wanted

    await wait_until(there, 30)


async def test_a_queued_job_never_starts(stack: Stack, tmp_path: Path) -> None:
    """Cancelled behind a busy worker, it is over at once, and is not run when its turn comes."""
    marks = tmp_path / "marks"
    busy = await stack.submit(payload={"steps": 10, "delay_s": 0.1})
    await reaches(stack, busy, "running")
    queued = await stack.submit("append-id", str(marks))
    assert (await stack.cancel(queued))["status"] == "cancelled"
    after = await stack.submit("append-id", str(marks))
    await reaches(stack, after, "succeeded")
    assert await status(stack, queued) == "cancelled"
    assert marks.read_text().splitlines() == [after["id"]]


async def test_a_delayed_job_never_starts(stack: Stack, tmp_path: Path) -> None:
    """Before its time there is no record; the cancellation makes one, which the worker obeys when the time comes."""
    marks = tmp_path / "marks"
    delayed = await stack.submit("append-id", str(marks), delay_s=1)
    shown = await stack.cancel(delayed)
    assert (shown["status"], shown["due_at"], shown["kind"]) == ("cancelled", None, "append-id")
    after = await stack.submit("append-id", str(marks), delay_s=2)
    await reaches(stack, after, "succeeded")
    assert marks.read_text().splitlines() == [after["id"]]
    assert (await stack.snapshot(delayed["id"], delayed["token"]))["version"] == shown["version"]


async def test_a_running_job_is_cancelled_by_its_worker(stack: Stack) -> None:
    """The request is shown at once, and its end within two heartbeats; asking twice changes nothing."""
    running_ = await stack.submit(payload={"steps": 100, "delay_s": 0.2})
    await reaches(stack, running_, "running")
    first, second = await stack.cancel(running_), await stack.cancel(running_)
    assert (first["status"], first["cancel_requested"]) == ("running", True)
    assert second["version"] >= first["version"]
    await asyncio.wait_for(reaches(stack, running_, "cancelled"), 5)
    ended = await stack.snapshot(running_["id"], running_["token"])
    assert ended["progress"]["percent"] < 100
    assert ended["finished_at"]


async def test_a_retrying_job_is_cancelled_at_once(stack: Stack) -> None:
    """Nobody holds it, so its end is now, and the worker that has it next hears so."""
    receipt = await stack.submit(delay_s=3600)
    due = str(Timestamp.now().after(60))
    assert (await stack.report(receipt, status="retrying", due_at=due))["accepted"]
    shown = await stack.cancel(receipt)
    assert (shown["status"], shown["due_at"], shown["lease_until"]) == ("cancelled", None, None)
    assert (await stack.report(receipt, delivery=2))["reason"] == "finished"


@pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled"])
async def test_an_ending_stands(stack: Stack, ending: str) -> None:
    """The answer is the unchanged snapshot."""
    receipt = await stack.submit(delay_s=3600)
    await stack.report(receipt, status=ending)
    before = await stack.snapshot(receipt["id"], receipt["token"])
    assert await stack.cancel(receipt) == before


async def test_a_job_whose_lease_is_over_is_cancelled_at_once(stack: Stack) -> None:
    """A dead worker holds nothing: `lease_until` in the past is nobody's."""
    receipt = await stack.submit(delay_s=3600)
    await stack.report(receipt, lease_until=str(Timestamp.now().after(60)))
    assert (await stack.cancel(receipt))["status"] == "running"
    gone = await stack.submit(delay_s=3600)
    await stack.report(gone, lease_until=str(Timestamp.now().after(-1)))
    assert (await stack.cancel(gone))["status"] == "cancelled"


async def test_a_request_outlives_the_worker_that_should_have_heard_it(stack: Stack) -> None:
    """The worker is frozen and then killed: the next one finds the request, and never calls the handler."""
    receipt = await stack.submit(payload={"steps": 100, "delay_s": 0.2})
    await reaches(stack, receipt, "running")
    worker = stack.pid("worker")
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    assert (await stack.cancel(receipt))["cancel_requested"] is True
    await stack.kill("worker")
    await reaches(stack, receipt, "cancelled")
    after = await stack.snapshot(receipt["id"], receipt["token"])
    assert (after["attempt"], after["progress"]) == (2, None)


async def test_a_token_that_may_only_watch_cancels_nothing(stack: Stack) -> None:
    """By plain HTTP and on a socket the answer is `forbidden`, and the job goes on."""
    receipt = await stack.submit(delay_s=3600)
    headers = {"Authorization": f"Bearer {receipt['token']}"}
    async with stack.session.post(
        f"{stack.url}/jobs/{receipt['id']}/token", json={"scope": "watch"}, headers=headers
    ) as made:
        token = (await made.json())["token"]
    headers = {"Authorization": f"Bearer {token}"}
    async with stack.session.post(receipt["links"]["cancel"], headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (403, "forbidden")
    async with stack.session.ws_connect(receipt["links"]["socket"]) as socket:
        await socket.send_json({"watch": token})
        await socket.send_json({"cancel": receipt["id"]})
        codes = [message.get("error", {}).get("code") for message in [await socket.receive_json() for _ in range(3)]]
    assert codes.count("forbidden") == 1
    assert await status(stack, receipt) == "queued"
