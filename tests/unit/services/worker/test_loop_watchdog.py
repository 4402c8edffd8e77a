"""The watchdog names the job whose code blocks the event loop."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
import structlog
from structlog.testing import capture_logs

from headway.context import Attempt
from services.worker import loop_watchdog, metrics
from services.worker.loop_watchdog import LoopWatchdog
from tests.waiting import PATIENCE_S, wait_until

ATTEMPT = Attempt(job_id=uuid4(), kind="blocking")
JOB = {"job_id": str(ATTEMPT.job_id), "kind": "blocking"}


@pytest.fixture
async def attempts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[asyncio.Task[Any], Attempt]]:
    """Run a watchdog that checks often, and return its attempts."""
    monkeypatch.setattr(loop_watchdog, "CHECK_INTERVAL_S", 0.01)
    monkeypatch.setattr(loop_watchdog, "BLOCKED_AFTER_S", 0.1)
    attempts: dict[asyncio.Task[Any], Attempt] = {}
    task = asyncio.create_task(LoopWatchdog(attempts, {"blocking"}).run())
    await asyncio.sleep(0)
    yield attempts
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def block_until_found(lines: list[Any]) -> None:
    """Block the loop until the watchdog has logged it."""
    deadline = time.monotonic() + PATIENCE_S
    while not found(lines):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def found(lines: list[Any]) -> list[Any]:
    """Return the lines with the place of `block_until_found`; a busy machine may block the loop, too."""
    return [line for line in lines if any("block_until_found" in place for place in line.get("where", []))]


async def unblocked(lines: list[Any]) -> dict[str, Any]:
    """Wait for the line that follows when the loop runs again, and return it."""
    await wait_until(lambda: lines[-1]["event"] == "event_loop_unblocked")
    return dict(lines[lines.index(found(lines)[0]) + 1])


def blocked_seconds(kind: str) -> float:
    """Return the value of the metric."""
    return float(metrics.LOOP_BLOCKED.labels(kind)._value.get())


async def test_blocking_handler_is_named(attempts: dict[asyncio.Task[Any], Attempt]) -> None:
    """The log has the job, its kind, the place and the seconds; the metric counts the seconds of its kind."""
    before = blocked_seconds("blocking")

    async def handler() -> None:
        block_until_found(lines)

    with capture_logs() as lines:
        task = asyncio.create_task(handler())
        attempts[task] = ATTEMPT
        await task
        after = await unblocked(lines)
    (blocked,) = found(lines)
    assert {name: blocked[name] for name in JOB} == {name: after[name] for name in JOB} == JOB
    assert after["seconds"] >= blocked["seconds"] > 0
    assert blocked_seconds("blocking") - before >= loop_watchdog.BLOCKED_AFTER_S


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks have no get_context before Python 3.12")
async def test_task_of_a_handler_is_named(attempts: dict[asyncio.Task[Any], Attempt]) -> None:
    """A task that a handler has started belongs to the handler's job."""
    assert attempts == {}

    async def started_by_handler() -> None:
        block_until_found(lines)

    with capture_logs() as lines, structlog.contextvars.bound_contextvars(**JOB):
        await asyncio.create_task(started_by_handler())
    (blocked,) = found(lines)
    assert {name: blocked[name] for name in JOB} == JOB


async def test_callback_has_a_place(attempts: dict[asyncio.Task[Any], Attempt]) -> None:
    """A callback belongs to no task; its place is logged, and its seconds count for the kind `unknown`."""
    assert attempts == {}
    before = blocked_seconds("unknown")
    with capture_logs() as lines:
        asyncio.get_running_loop().call_soon(block_until_found, lines)
        await wait_until(lambda: found(lines))
        await unblocked(lines)
    assert blocked_seconds("unknown") > before
