"""Attempts: a job is retried with a delay until its attempts are exhausted, and has a log of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage, Timestamp
from headway.details import MAX_LOG_BYTES
from headway.message_codec import decode_message, encode_message
from tests.integration import logging_jobs
from tests.integration.test_one_job import API_VERSION, history, history_from_start
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until

LOGGING = ("logs", "logs-in-thread", "logs-in-process")


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    settings = {"WORKER_JOBS": f"{JOBS},{logging_jobs.__name__}", "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("attempts"), **settings) as stack:
        yield stack


async def watch_until(stack: Stack, receipt: dict[str, Any], status: str) -> dict[str, Any]:
    """Watch a job until it has a status; return that snapshot."""
    async for snapshot in stack.watch(receipt["token"]):
        if snapshot["status"] == status:
            return snapshot
    raise AssertionError(f"the job was never {status}")


async def poison_message(stack: Stack, job_id: str) -> JobMessage | None:
    """Return a job's message from the poison queue, None if it has none there."""
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs-poison", API_VERSION) as poison:
        messages = [decode_message(received.text) for received in await poison.receive(32, 1)]
    return next((message for message in messages if str(message.id) == job_id), None)


async def test_exception_causes_another_attempt(stack: Stack) -> None:
    """Watchers see the error and the time of the next attempt; the last attempt's result is the job's result."""
    snapshots = await history_from_start(stack, "flaky")
    retrying = [job for job in snapshots if job["status"] == "retrying"]
    assert [job["error"]["message"] for job in retrying] == ["attempt 1 failed", "attempt 2 failed"]
    for job in retrying:
        delay_ms = Timestamp.parse(job["due_at"]) - Timestamp.parse(job["updated_at"])
        assert 0 < delay_ms <= 1_500  # at most 0.2 s, but the queue counts in whole seconds
        assert job["lease_until"] is None
    end = snapshots[-1]
    assert (end["status"], end["attempt"], end["result"], end["error"]) == ("succeeded", 3, 3, None)


@pytest.mark.parametrize(("kind", "error"), [("hopeless", "ValueError"), ("unknown-kind", "UnknownKind")])
async def test_job_fails_when_attempts_are_exhausted(stack: Stack, kind: str, error: str) -> None:
    """The job fails with the error of its last attempt, and its message goes to the poison queue."""
    snapshots = await history_from_start(stack, kind, max_attempts=2)
    assert [(job["status"], job["attempt"]) for job in snapshots if job["error"]] == [("retrying", 1), ("failed", 2)]
    assert snapshots[-1]["error"]["type"] == error
    await wait_until(lambda: poison_message(stack, snapshots[-1]["id"]))


async def test_handler_chooses_the_retry_delay(stack: Stack, tmp_path: Path) -> None:
    """The next attempt starts after the delay of the handler's `Retry`, not earlier."""
    marks = tmp_path / "marks"
    receipt = await stack.submit("retry-once", [str(marks), 2])
    assert (await history(stack, receipt["token"]))[-1]["status"] == "succeeded"
    first, second = map(float, marks.read_text().splitlines())
    assert 1.5 < second - first < 6


async def test_attempt_that_times_out_is_retried(stack: Stack) -> None:
    """Watchers see the error `Timeout`; the next attempt has the full time limit again."""
    snapshots = await history_from_start(stack, "too-slow")
    assert [job["error"]["type"] for job in snapshots if job["error"]] == ["Timeout"]
    assert (snapshots[-1]["status"], snapshots[-1]["result"]) == ("succeeded", "in time")


async def test_retrying_job_is_cancelled_at_once(stack: Stack, tmp_path: Path) -> None:
    """A job that waits for its next attempt is cancelled immediately, and that attempt does not start."""
    marks = tmp_path / "marks"
    receipt = await stack.submit("retry-once", [str(marks), 2])
    await watch_until(stack, receipt, "retrying")
    assert (await stack.cancel(receipt))["status"] == "cancelled"

    async def delivered_again() -> bool:
        return await stack.metric('jobs_finished_total{kind="retry-once",outcome="finished"}', "worker") == 1

    await wait_until(delivered_again)
    assert len(marks.read_text().splitlines()) == 1
    assert (await history(stack, receipt["token"]))[-1]["status"] == "cancelled"


async def test_handler_in_a_thread_is_cancelled(stack: Stack, tmp_path: Path) -> None:
    """The next call of `progress` raises in the thread, with the reason; the job ends when the handler has stopped."""
    reason = tmp_path / "reason"
    receipt = await stack.submit("in-thread", str(reason))
    requested = False
    async for snapshot in stack.watch(receipt["token"]):
        if snapshot["progress"] and snapshot["progress"]["current"] and not requested:
            requested = True
            assert (await stack.cancel(receipt))["cancel_requested"]
    assert snapshot["status"] == "cancelled"
    assert reason.read_text() == "cancel cancel"


async def test_message_of_an_older_generation_is_deleted(stack: Stack) -> None:
    """The worker deletes such a message at once; otherwise it would return after every lease until it expires."""
    receipt = await stack.submit(delay_s=3600)
    await stack.report(receipt, generation=1)
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
        before = (await queue.depth()).messages
        finished_series = 'jobs_finished_total{kind="countdown",outcome="finished"}'
        finished = await stack.metric(finished_series, "worker")
        await queue.send(encode_message(JobMessage(id=UUID(receipt["id"]))))

        async def deleted() -> bool:
            handled = await stack.metric(finished_series, "worker") > finished
            return handled and (await queue.depth()).messages == before

        await wait_until(deleted)
    assert (await stack.snapshot(receipt["id"], receipt["token"]))["status"] == "running"


async def read_log(stack: Stack, job_id: str, token: str) -> str:
    """Read the log of a job; if the token does not open it, return the code of the error."""
    url = f"{stack.env['LIVE_URL']}/live/jobs/{job_id}/log"
    async with stack.session.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
        if response.status == 200:
            return await response.text()
        code: str = (await response.json())["code"]
        return code


async def wait_for_log(stack: Stack, receipt: dict[str, Any], end: str, token: str | None = None) -> str:
    """Return the log of a job once it has this end."""

    async def log_with_end() -> str | None:
        text = await read_log(stack, receipt["id"], token or receipt["token"])
        return text if text.endswith(end) else None

    text: str = await wait_until(log_with_end)
    return text


async def test_logs_of_jobs_do_not_mix(stack: Stack) -> None:
    """Each log has all lines of its job and no other, although a job floods its log and the notifier is restarted."""
    jobs = {f"{kind} {n}": await stack.submit(kind, f"{kind} {n}") for kind in LOGGING for n in range(2)}
    flood = await stack.submit("floods-its-log", "flood")
    for receipt in jobs.values():
        await wait_for_log(stack, receipt, "\n")
    notifier = stack.pid("notifier")
    await stack.kill("notifier")
    await stack.wait_for_restart("notifier", notifier or 0)
    for name, receipt in jobs.items():
        end = (await history(stack, receipt["token"]))[-1]
        assert (end["status"], end["attempt"]) == ("succeeded", 1)
        lines = logging_jobs.expected_lines(name)
        text = await wait_for_log(stack, receipt, f"{lines[-1]}\n")
        assert [re.sub(r"^[\d:.]{12} WARNING ", "", line) for line in text.splitlines()] == lines
    assert (await history(stack, flood["token"]))[-1]["error"] == {"type": "Fail", "message": "the end"}
    text = await wait_for_log(stack, flood, f"{logging_jobs.FLOOD_LINES - 1}\n")
    assert len(text.encode()) <= MAX_LOG_BYTES
    assert re.search(r"^… [\d,]+ lines left out$", text, re.MULTILINE)
    assert {line.split()[0] for line in text.splitlines()} == {"flood", "…"}
    assert await stack.metric("worker_log_bytes_left_out_total", "worker") > logging_jobs.FLOOD_BYTES / 2


async def test_log_of_a_failed_attempt_has_its_end(stack: Stack, tmp_path: Path) -> None:
    """Though the next attempt starts at once. Should the end come too late after all, a mark is in its place."""
    signal = tmp_path / "signal"
    receipt = await stack.submit("logs-and-retries", str(signal))
    await wait_for_log(stack, receipt, "attempt 1 begins\n")
    signal.touch()
    text = await wait_for_log(stack, receipt, "attempt 2 ends\n")
    assert re.fullmatch("attempt 1 begins\n(attempt 1 ends|…)\nattempt 2 begins\nattempt 2 ends\n", text)


async def test_last_words_of_a_process_are_for_operators(stack: Stack) -> None:
    """The line before a crash is in the log, which the job's token does not open, but one with the scope `details`."""
    receipt = await stack.submit("logs-and-crashes", "process")
    await history(stack, receipt["token"])
    body = {"job": receipt["id"], "scope": "watch details"}
    async with stack.session.post(f"{stack.url}/tokens", json=body) as response:
        assert response.status == 200, await response.text()
        token = (await response.json())["token"]
    text = await wait_for_log(stack, receipt, "crash\n", token)
    assert text == "process before the crash\n"
    assert await read_log(stack, receipt["id"], receipt["token"]) == "forbidden"
