"""Handlers in processes of their own: what they say arrives, and nothing of them outlives their job."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from headway import JobContext, job
from headway.context import Attempt
from headway.contracts import JobError, Json, Progress
from headway.testing import Recorder
from services.worker.execution.process_pool import ProcessPool
from services.worker.execution.runner import Runner
from services.worker.outcomes import Finished, RetryLater
from services.worker.registry import InvalidJobs, load_jobs
from tests.unit.services.worker.execution import process_jobs
from tests.waiting import wait_until

JOBS = load_jobs([process_jobs.__name__])


class Keeper(Recorder):
    """Keeps a job until it is told otherwise."""

    lease_deadline = 1e12


@pytest.fixture
async def processes() -> AsyncIterator[ProcessPool]:
    """Open a pool, which is left empty."""
    async with ProcessPool.open() as processes:
        yield processes


async def run(
    processes: ProcessPool,
    kind: str,
    payload: Any = None,
    host: Keeper | None = None,
    checkpoint: bytes = b"null",
    timeout_s: float | None = None,
) -> Finished | RetryLater:
    """Run a job once."""
    attempt = Attempt(job_id=uuid4(), kind=kind, checkpoint=Json(checkpoint))
    text = Json(msgspec.json.encode(payload))
    return await Runner(processes).run(JOBS[kind], attempt, text, host or Keeper(), timeout_s)


def result(ending: Finished | RetryLater) -> Any:
    """Return what a job has returned."""
    assert ending.status == "succeeded", ending
    return msgspec.json.decode(ending.result)


def lives(pid: int) -> bool:
    """Tell whether a process is there and is no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def pids(file: Path) -> list[int]:
    """Wait for the process ids that the `hangs` job writes."""
    await wait_until(file.exists)
    return [int(word) for word in file.read_text().split()[:2]]


async def test_a_process_shows_its_progress_and_is_kept_for_the_next_job(processes: ProcessPool) -> None:
    """It is another process than this one, the same for two jobs; the last progress arrives, most does not."""
    host = Keeper()
    first = result(await run(processes, "pid", 20_000, host))
    assert first != os.getpid()
    assert host.progress[-1] == Progress(20_000, 20_000)
    assert len(host.progress) < 2_000
    assert result(await run(processes, "pid", 1)) == first


async def test_a_process_that_has_died_meanwhile_is_no_job_s_failure(processes: ProcessPool) -> None:
    """The next job gets another one."""
    idle = result(await run(processes, "pid", 1))
    os.kill(idle, signal.SIGKILL)
    await wait_until(lambda: not any(process.is_alive for process in processes._idle))
    assert result(await run(processes, "pid", 1)) != idle


async def test_two_jobs_at_once_have_two_processes(processes: ProcessPool) -> None:
    """Nobody waits for another job's process."""
    endings = await asyncio.gather(run(processes, "pid", 1), run(processes, "pid", 1))
    assert len({result(ending) for ending in endings}) == 2


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        ("exits", 3, "The handler's process ended with 3."),
        ("crashes", int(signal.SIGSEGV), "The handler's process was ended by SIGSEGV."),
        ("crashes", int(signal.SIGKILL), "The handler's process was ended by SIGKILL."),
    ],
)
async def test_a_crash_is_a_failed_attempt_and_the_pool_lives_on(
    processes: ProcessPool, kind: str, payload: int, message: str
) -> None:
    """The next job runs in another process."""
    before = result(await run(processes, "pid", 1))
    ending = await run(processes, kind, payload)
    assert (ending.status, ending.error) == ("retrying", JobError("Crashed", message))
    assert result(await run(processes, "pid", 1)) != before


@pytest.mark.parametrize(
    ("payload", "status", "error"),
    [("fail", "failed", "Fail"), ("exit", "retrying", "SystemExit"), ("other", "retrying", "ValueError")],
)
async def test_what_a_handler_raises_is_its_attempt_s_error(
    processes: ProcessPool, payload: str, status: str, error: str
) -> None:
    """As it is for handlers elsewhere, and the process is kept."""
    before = result(await run(processes, "pid", 1))
    ending = await run(processes, "fails", payload)
    assert (ending.status, ending.error and ending.error.type) == (status, error)
    assert result(await run(processes, "pid", 1)) == before


async def test_a_payload_that_does_not_fit_fails_at_once(processes: ProcessPool) -> None:
    """The error names what was expected."""
    ending = await run(processes, "pid", "many")
    assert (ending.status, ending.error and ending.error.type) == ("failed", "InvalidPayload")


@pytest.mark.parametrize("way", ["cancel", "timeout"])
async def test_a_cancelled_process_ends_with_all_that_it_has_started(
    processes: ProcessPool, tmp_path: Path, way: str
) -> None:
    """Whether somebody asks for it or its time is over."""
    file = tmp_path / "pids"
    running = asyncio.create_task(run(processes, "hangs", str(file), timeout_s=2 if way == "timeout" else None))
    started = await pids(file)
    assert all(map(lives, started))
    if way == "cancel":
        running.cancel("cancel")
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        ending = await running
        assert (ending.status, ending.error and ending.error.type) == ("retrying", "Timeout")
    await wait_until(lambda: not any(map(lives, started)))
    assert file.read_text().split()[2] == way  # it was told


async def test_a_process_that_goes_on_all_the_same_is_killed(processes: ProcessPool, tmp_path: Path) -> None:
    """Nobody waits for it for long."""
    file = tmp_path / "pid"
    running = asyncio.create_task(run(processes, "stubborn", str(file)))
    pid = int(await wait_until(lambda: file.exists() and file.read_text()))
    running.cancel("stop")
    with pytest.raises(asyncio.CancelledError):
        await running
    await wait_until(lambda: not lives(pid))


async def test_a_process_ends_itself_when_its_job_may_be_another_worker_s(
    processes: ProcessPool, tmp_path: Path
) -> None:
    """A worker that is frozen cannot end it."""
    host = Keeper()
    host.lease_deadline = time.monotonic() + 2
    file = tmp_path / "pids"
    ending = await run(processes, "hangs", str(file), host)
    assert (ending.status, ending.error and ending.error.type) == ("retrying", "Crashed")
    assert time.monotonic() >= host.lease_deadline
    started = await pids(file)
    await wait_until(lambda: not any(map(lives, started)))


async def test_a_process_lives_on_while_its_job_is_held(processes: ProcessPool, tmp_path: Path) -> None:
    """Each renewal is told in time."""
    host = Keeper()
    host.lease_deadline = time.monotonic() + 4
    file = tmp_path / "pids"
    running = asyncio.create_task(run(processes, "hangs", str(file), host))
    started = await pids(file)
    over = host.lease_deadline + 0.3
    host.lease_deadline = time.monotonic() + 60
    await wait_until(lambda: time.monotonic() > over)
    assert all(map(lives, started))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_nothing_outlives_the_pool(tmp_path: Path) -> None:
    """Idle processes end with it."""
    async with ProcessPool.open() as processes:
        idle = result(await run(processes, "pid", 1))
        assert lives(idle)
    await wait_until(lambda: not lives(idle))


async def test_checkpoints_and_logs_arrive(processes: ProcessPool, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint is kept before the handler goes on, and what it logs is logged here."""
    host = Keeper()
    with caplog.at_level(logging.INFO):
        found = result(await run(processes, "keeps", host=host, checkpoint=b'{"step":0}'))
    assert found == {"step": 0}
    assert host.checkpoints == [{"step": 1}, {"step": 2}]
    (record,) = [record for record in caplog.records if record.name == "headway.jobs.keeps"]
    assert (record.getMessage(), vars(record)["step"]) == ("kept 2", "2")


async def test_what_a_job_leaves_behind_does_not_speak_for_the_next(processes: ProcessPool) -> None:
    """A thread that goes on is not heard any more."""
    left = result(await run(processes, "leaves", 999))
    host = Keeper()
    assert result(await run(processes, "pid", 100, host)) == left
    assert {one.total for one in host.progress} == {100}


def test_an_async_handler_runs_in_no_process() -> None:
    """Whoever writes it is told."""

    async def handler(_ctx: JobContext, _payload: Any) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        job("x", process=True)(handler)


def test_a_process_job_must_be_found_where_its_handler_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process imports the handler's module and nothing else."""
    borrowed = job("borrowed", process=True)(os.path.join)
    monkeypatch.setattr(process_jobs, "borrowed", borrowed, raising=False)
    with pytest.raises(InvalidJobs, match="must be an attribute of"):
        load_jobs([process_jobs.__name__])
