"""Handlers in the whole system: processes, steps, checkpoints, logs, and what a handler must not do to others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import nasty_jobs
from tests.integration.test_attempts import poison_message, watch_until
from tests.integration.test_one_job import history, history_from_start
from tests.integration.watchers import watch_jobs
from tests.leaks import MARKER
from tests.stack import JOBS, Stack, running
from tests.waiting import PATIENCE_S, is_running, wait_until


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    settings = {"WORKER_JOBS": f"{JOBS},{nasty_jobs.__name__}", "WORKER_CONCURRENCY": "64"}
    settings |= {
        "GRACE_S": "0",
        "DRAIN_S": "0",
        "LOG_FORMAT": "json",
        "LOG_TRACEBACKS": "false",
        "SHOW_ERRORS": "false",
    }
    async with running(tmp_path_factory.mktemp("handlers"), **settings) as stack:
        yield stack


def worker_log(stack: Stack) -> list[str]:
    """Return the lines of the worker's log."""
    return (stack.folder / "logs/worker.log").read_text().splitlines()


def test_start_names_the_kinds(stack: Stack) -> None:
    """The worker logs which kinds of jobs it runs."""
    (line,) = [json.loads(line) for line in worker_log(stack) if "service_started" in line][:1]
    assert {"countdown", "nasty", "innocent-in-process"} < set(line["kinds"])
    assert line["kind_count"] == len(line["kinds"])


async def test_steps_in_a_process_move_one_bar(stack: Stack, tmp_path: Path) -> None:
    """Watchers see one percentage rise through all steps, and the handler's log lines contain the job's id."""
    snapshots = await history_from_start(stack, "in-process", {"mark": str(tmp_path / "seen")})
    progress = [job["progress"] for job in snapshots if job["progress"]]
    percents = [update["percent"] for update in progress]
    assert percents == sorted(percents)
    assert len([percent for percent in percents if 25 < percent < 100]) > 1
    assert (percents[-1], progress[-1]["message"]) == (100.0, "second: parts")
    assert snapshots[-1]["result"] not in (stack.pid("worker"), None)
    (line,) = await wait_until(
        lambda: [line for line in worker_log(stack) if "first_step" in line and snapshots[-1]["id"] in line]
    )
    assert str(tmp_path / "seen") in line


async def test_process_exits_when_its_job_is_cancelled(stack: Stack, tmp_path: Path) -> None:
    """Watchers see the job as cancelled only after the handler's process has exited."""
    mark = tmp_path / "mark"
    receipt = await stack.submit("in-process", {"hang": True, "mark": str(mark)})
    pid = int(await wait_until(lambda: mark.exists() and mark.read_text()))
    await stack.cancel(receipt)
    await watch_until(stack, receipt, "cancelled")
    assert not is_running(pid)


async def test_process_exits_when_its_worker_is_killed(stack: Stack, tmp_path: Path) -> None:
    """A killed worker cannot stop its processes; they notice its death."""
    mark = tmp_path / "mark"
    receipt = await stack.submit("in-process", {"hang": True, "mark": str(mark)})
    pid = int(await wait_until(lambda: mark.exists() and mark.read_text()))
    await stack.kill("worker")
    await wait_until(lambda: not is_running(pid))
    await stack.cancel(receipt)


async def test_children_and_log_lines_of_handlers_leave_the_worker_alone(stack: Stack) -> None:
    """A handler that forks, terminates a child or logs oddly succeeds in its first attempt, and the worker runs on."""
    worker = stack.pid("worker")
    expected = {"fork": 0, "terminate": -15, "log": None}
    kinds = [f"starts-child{where}" for where in ("", "-in-thread", "-in-process")]
    receipts = {(kind, action): await stack.submit(kind, action) for kind in kinds for action in expected}
    for (kind, action), receipt in receipts.items():
        end = (await history(stack, receipt["token"]))[-1]
        assert (end["status"], end["attempt"], end["result"]) == ("succeeded", 1, expected[action]), (kind, action)
    assert (stack.pid("worker"), await stack.is_ready("worker")) == (worker, True)

    def has_logged_invalid_records() -> bool:
        invalid = [json.loads(line)["job_id"] for line in worker_log(stack) if "log_record_invalid" in line]
        return sorted(invalid) == sorted(receipts[kind, "log"]["id"] for kind in kinds)

    await wait_until(has_logged_invalid_records)
    assert "a-secret-argument" not in "".join(worker_log(stack))


async def test_attempt_continues_from_the_last_checkpoint(stack: Stack) -> None:
    """The queue message keeps the checkpoint when an attempt fails."""
    receipt = await stack.submit("resume")
    end = (await history(stack, receipt["token"]))[-1]
    assert (end["status"], end["attempt"], end["result"]) == ("succeeded", 3, [1, 2])


async def test_poison_message_contains_the_last_checkpoint(stack: Stack) -> None:
    """The message on the poison queue keeps the checkpoint, so a redriven job continues from it."""
    receipt = await stack.submit("resume", max_attempts=1)
    await asyncio.wait_for(watch_until(stack, receipt, "failed"), PATIENCE_S)
    message = await wait_until(lambda: poison_message(stack, receipt["id"]))
    assert bytes(message.checkpoint) == b"[1]"


INNOCENT = ("innocent", "innocent-in-thread", "innocent-in-process")
NASTY = [
    *[("nasty", way, name) for way in nasty_jobs.WAYS for name in nasty_jobs.ERRORS],
    *[("nasty-in-thread", "", name) for name in nasty_jobs.ERRORS],
    *[("nasty-in-process", "", name) for name in ("interrupt", "exit", "fail")],
]
ERROR_TYPES = {
    "interrupt": "KeyboardInterrupt",
    "exit": "SystemExit",
    "generator-exit": "GeneratorExit",
    "panic": "Panic",
    "group": "BaseExceptionGroup",
    "fail": "Fail",
    "retry": "Retry",
}
PUBLIC_TYPES = {"Fail", "Retry", "CancelledError", None}  # written for users
BLOCKED_S = 2.0
OWNER = {"owner": f"user:{MARKER}", "tags": [MARKER]}


async def watch_events(stack: Stack, receipts: list[dict[str, Any]]) -> str:
    """Return all that an event stream sends until the jobs have ended."""
    body = {"watch": [receipt["token"] for receipt in receipts]}
    async with stack.session.post(f"{stack.env['LIVE_URL']}/live/events", json=body) as response:
        assert response.status == 200
        return await response.text()


async def listed_jobs(stack: Stack, scope: str) -> list[dict[str, Any]]:
    """Return the first page of the owner's jobs."""
    token = {"filter": {"owner": OWNER["owner"]}, "scope": scope}
    async with stack.session.post(f"{stack.url}/tokens", json=token) as response:
        headers = {"Authorization": f"Bearer {(await response.json())['token']}"}
    async with stack.session.get(f"{stack.env['LIVE_URL']}/live/jobs?limit=100", headers=headers) as response:
        jobs: list[dict[str, Any]] = (await response.json())["jobs"]
        return jobs


async def polled_jobs(stack: Stack, receipts: list[dict[str, Any]]) -> str:
    """Return the answer of a long poll for all jobs."""
    body = {"watch": [receipt["token"] for receipt in receipts]}
    async with stack.session.post(f"{stack.env['LIVE_URL']}/live/jobs", json=body) as response:
        assert response.status == 200
        return await response.text()


async def true_errors(stack: Stack, count: int) -> dict[str, str | None]:
    """Wait until operators can list that many jobs of the owner; return the true types of their errors."""

    async def are_listed() -> list[dict[str, Any]] | None:
        jobs = await listed_jobs(stack, "list details")
        return jobs if [job["job"]["status"] for job in jobs].count("failed") >= count else None

    return {job["job"]["id"]: job["error_type"] for job in await wait_until(are_listed)}


async def test_no_job_harms_another(stack: Stack) -> None:
    """Each nasty job ends with its own error, and the jobs beside it succeed at their first attempt, in one worker.

    The log has the type and place of what the jobs leave behind, but not the text, and it says which job blocked the
    event loop. Users see neither the errors that were not written for them, nor owners, tags, payloads and log lines.
    """
    worker, lines_before = stack.pid("worker"), len(worker_log(stack))
    async with watch_jobs(stack) as watcher:
        innocent = [await stack.submit(kind, 4) for kind in INNOCENT * 2]
        for receipt in innocent:
            await watcher.watch(receipt)
        await watcher.wait_for_status({receipt["id"] for receipt in innocent}, "running")
        nasty = [await stack.submit(kind, [way, name, MARKER], **OWNER) for kind, way, name in NASTY]
        events = asyncio.create_task(watch_events(stack, nasty))
        blocks = await stack.submit("blocks", BLOCKED_S)
        mischief = {name: await stack.submit("mischief", name) for name in nasty_jobs.MISCHIEF}
        for receipt in (*nasty, blocks, *mischief.values()):
            await watcher.watch(receipt)
        everyone = {receipt["id"] for receipt in (*innocent, *nasty, blocks, *mischief.values())}
        await watcher.wait_for_status(everyone, "succeeded", "failed")
        for receipt in innocent:
            assert (watcher.last(receipt["id"])["status"], watcher.last(receipt["id"])["result"]) == ("succeeded", 1)
        expected = [
            {"leave_behind": None, "cancel_own_task": "CancelledError"}.get(way, ERROR_TYPES[name])
            for _, way, name in NASTY
        ]
        true_types = await true_errors(stack, len(expected) - expected.count(None))
        for receipt, error_type in zip(nasty, expected, strict=True):
            error = watcher.last(receipt["id"])["error"]
            assert true_types[receipt["id"]] == error_type
            assert (error and error["type"]) == (error_type if error_type in PUBLIC_TYPES else "InternalError")
            assert error_type != "Fail" or error["message"] == "No such photo: 2"
        errors = {name: watcher.last(receipt["id"])["error"] for name, receipt in mischief.items()}
        assert {name for name, error in errors.items() if error} == {"handle_signals", "stop_loop"}
        shown = [await events, await polled_jobs(stack, nasty), str(await listed_jobs(stack, "list watch"))]
        for text in (*shown, str(dict(watcher.snapshots))):
            assert all(receipt["id"] in text for receipt in nasty)
            assert MARKER not in text
            assert nasty_jobs.LOG_LINE not in text
    assert stack.pid("worker") == worker
    text = "\n".join(worker_log(stack)[lines_before:])
    assert MARKER not in text
    lines = [json.loads(line) for line in text.splitlines()]
    left_behind = {line["error"] for line in lines if line["event"] == "unhandled_exception"}
    assert {*ERROR_TYPES.values()} - {"Fail", "Retry"} <= left_behind
    blocked = [line for line in lines if line["event"] == "event_loop_blocked" and line.get("job_id") == blocks["id"]]
    assert [line["kind"] for line in blocked] == ["blocks"]
    assert any("nasty_jobs.py" in place for place in blocked[0]["where"])
    assert await stack.metric('worker_loop_blocked_seconds_total{kind="blocks"}', "worker") > 1
