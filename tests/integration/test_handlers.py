"""What handlers can do, through the whole real system: processes, steps, checkpoints and logs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.test_attempts import poison_message, watch_until
from tests.integration.test_one_job import history
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    folder = tmp_path_factory.mktemp("handlers")
    async with running(folder, WORKER_JOBS=JOBS, GRACE_S="0", DRAIN_S="0", LOG_FORMAT="json") as stack:
        yield stack


def lives(pid: int) -> bool:
    """Tell whether a process is there."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def logged(stack: Stack) -> list[str]:
    """Return what the worker has logged."""
    return (stack.folder / "logs/worker.log").read_text().splitlines()


async def test_a_process_shows_its_steps(stack: Stack, tmp_path: Path) -> None:
    """Watchers see one bar move through all steps; what the handler logs names its job."""
    receipt = await stack.submit("in-process", {"mark": str(tmp_path / "seen")}, delay_s=1)
    seen = await history(stack, receipt["token"])
    progress = [job["progress"] for job in seen if job["progress"]]
    percents = [one["percent"] for one in progress]
    assert percents == sorted(percents)
    assert len([percent for percent in percents if 25 < percent < 100]) > 5
    assert (percents[-1], progress[-1]["message"]) == (100.0, "second: parts")
    assert seen[-1]["result"] not in (stack.pid("worker"), None)
    found = await wait_until(lambda: [line for line in logged(stack) if "first_step" in line and receipt["id"] in line])
    (line,) = found
    assert str(tmp_path / "seen") in line


async def test_a_cancelled_process_is_ended(stack: Stack, tmp_path: Path) -> None:
    """Within a heartbeat or so it works on nothing any more."""
    mark = tmp_path / "mark"
    receipt = await stack.submit("in-process", {"hang": True, "mark": str(mark)})
    pid = int(await wait_until(lambda: mark.exists() and mark.read_text()))
    await stack.cancel(receipt)
    await watch_until(stack, receipt, "cancelled")
    assert not lives(pid)


async def test_processes_end_with_a_killed_worker(stack: Stack, tmp_path: Path) -> None:
    """Nobody is left to tell them, and they notice."""
    mark = tmp_path / "mark"
    receipt = await stack.submit("in-process", {"hang": True, "mark": str(mark)})
    pid = int(await wait_until(lambda: mark.exists() and mark.read_text()))
    await stack.kill("worker")
    await wait_until(lambda: not lives(pid))
    await stack.cancel(receipt)


async def test_an_attempt_goes_on_from_the_checkpoint(stack: Stack) -> None:
    """The message keeps it through the failures."""
    receipt = await stack.submit("resume")
    end = (await history(stack, receipt["token"]))[-1]
    assert (end["status"], end["attempt"], end["result"]) == ("succeeded", 3, [1, 2])


async def test_a_poisoned_message_keeps_its_checkpoint(stack: Stack) -> None:
    """So that a job that is redriven goes on from it."""
    receipt = await stack.submit("resume", max_attempts=1)
    await asyncio.wait_for(watch_until(stack, receipt, "failed"), 20)
    message = await wait_until(lambda: poison_message(stack, receipt["id"]))
    assert bytes(message.checkpoint) == b"[1]"
