"""What becomes of an attempt that fails: another one after a while, until all are used up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage, Timestamp, decode_message, encode_message
from tests.integration.test_one_job import VERSION, history
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    async with running(tmp_path_factory.mktemp("attempts"), WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0") as stack:
        yield stack


async def until(stack: Stack, receipt: dict[str, Any], status: str) -> dict[str, Any]:
    """Watch a job until it has a status."""
    async for snapshot in stack.watch(receipt["token"]):
        if snapshot["status"] == status:
            return snapshot
    raise AssertionError(f"the job was never {status}")


async def poisoned(stack: Stack, job_id: str) -> JobMessage | None:
    """Return a job's message when it is on the poison queue."""
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs-poison", VERSION) as poison:
        messages = [decode_message(received.text) for received in await poison.receive(32, 1)]
    return next((message for message in messages if str(message.id) == job_id), None)


async def test_an_exception_is_another_attempt(stack: Stack) -> None:
    """Watchers see why, and when the next one is; the last one's result is the job's."""
    receipt = await stack.submit("flaky", delay_s=1)  # the watcher is there first
    seen = await history(stack, receipt["token"])
    retrying = [job for job in seen if job["status"] == "retrying"]
    assert [job["error"]["message"] for job in retrying] == ["attempt 1 failed", "attempt 2 failed"]
    for job in retrying:
        waits_ms = Timestamp.parse(job["due_at"]) - Timestamp.parse(job["updated_at"])
        assert 0 < waits_ms <= 1_500  # at most 0.2 s, but the queue counts in seconds
        assert job["lease_until"] is None
    end = seen[-1]
    assert (end["status"], end["attempt"], end["result"], end["error"]) == ("succeeded", 3, 3, None)


@pytest.mark.parametrize(("kind", "error"), [("hopeless", "ValueError"), ("nobody-knows", "UnknownKind")])
async def test_attempts_are_used_up(stack: Stack, kind: str, error: str) -> None:
    """Then the job has failed with the last one's error, and its message is kept on the poison queue."""
    receipt = await stack.submit(kind, max_attempts=2, delay_s=1)
    seen = await history(stack, receipt["token"])
    assert [(job["status"], job["attempt"]) for job in seen if job["error"]] == [("retrying", 1), ("failed", 2)]
    assert seen[-1]["error"]["type"] == error
    await wait_until(lambda: poisoned(stack, receipt["id"]))


async def test_a_handler_says_when_to_try_again(stack: Stack, tmp_path: Path) -> None:
    """The next attempt begins then, not sooner."""
    marks = tmp_path / "marks"
    receipt = await stack.submit("retry-once", [str(marks), 2])
    assert (await history(stack, receipt["token"]))[-1]["status"] == "succeeded"
    first, second = map(float, marks.read_text().splitlines())
    assert 1.5 < second - first < 6


async def test_a_slow_attempt_is_another_attempt(stack: Stack) -> None:
    """Its time is over, which is told; the next one has as much again."""
    receipt = await stack.submit("too-slow", delay_s=1)
    seen = await history(stack, receipt["token"])
    assert [job["error"]["type"] for job in seen if job["error"]] == ["Timeout"]
    assert (seen[-1]["status"], seen[-1]["result"]) == ("succeeded", "in time")


async def test_what_waits_for_its_next_attempt_is_cancelled_at_once(stack: Stack, tmp_path: Path) -> None:
    """Nothing starts any more."""
    marks = tmp_path / "marks"
    receipt = await stack.submit("retry-once", [str(marks), 2])
    await until(stack, receipt, "retrying")
    assert (await stack.cancel(receipt))["status"] == "cancelled"

    async def delivered_again() -> bool:
        return await stack.metric('jobs_finished_total{kind="retry-once",outcome="finished"}', "worker") == 1

    await wait_until(delivered_again)
    assert len(marks.read_text().splitlines()) == 1
    assert (await history(stack, receipt["token"]))[-1]["status"] == "cancelled"


async def test_a_thread_shows_progress_and_is_cancelled(stack: Stack, tmp_path: Path) -> None:
    """Its next progress tells it to stop, and why; the job ends when it has."""
    reason = tmp_path / "reason"
    receipt = await stack.submit("in-thread", str(reason))
    asked = False
    async for snapshot in stack.watch(receipt["token"]):
        if snapshot["progress"] and snapshot["progress"]["current"] and not asked:
            asked = True
            assert (await stack.cancel(receipt))["cancel_requested"]
    assert snapshot["status"] == "cancelled"
    assert reason.read_text() == "cancel cancel"


async def test_a_message_of_an_older_generation_goes_once_its_time_is_over(stack: Stack) -> None:
    """Until then it is left alone; nobody would ever take it off the queue otherwise."""
    receipt = await stack.submit(delay_s=3600)
    await stack.report(receipt, generation=1)
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", VERSION) as queue:
        before = (await queue.depth()).messages
        superseded = await stack.metric('jobs_finished_total{outcome="superseded"}', "worker")
        await queue.send(encode_message(JobMessage(id=UUID(receipt["id"]), expires_at=Timestamp.now().after(-1))))

        async def gone() -> bool:
            handled = await stack.metric('jobs_finished_total{outcome="superseded"}', "worker") > superseded
            return handled and (await queue.depth()).messages == before

        await wait_until(gone)
    assert (await stack.snapshot(receipt["id"], receipt["token"]))["status"] == "running"
