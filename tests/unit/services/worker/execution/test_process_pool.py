"""Handlers in processes: their progress, checkpoints and logs arrive, and no process outlives its job's lease."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import uvloop

from headway import Job, JobContext, job
from headway.context import Attempt
from headway.contracts import JobError, Json, Progress, StepTimes
from headway.testing import Recorder
from services.worker.execution.process_pool import DEADLINE_INTERVAL_S, ProcessPool
from services.worker.execution.runner import Runner
from services.worker.outcomes import Finished, LeaseLost, RetryLater
from services.worker.registry import InvalidJobs, load_jobs
from tests.unit.services.worker.execution import process_jobs, state_jobs
from tests.unit.services.worker.fake_worker import PROCESS_MEMORY_BYTES
from tests.waiting import PATIENCE_S, wait_until

JOBS = load_jobs([process_jobs.__name__, state_jobs.__name__])
PATH_JOB = """
import sys
from headway import job
@job("path", process=True)
def path(ctx, payload): return sys.path
"""


class FakeHost(Recorder):
    """A recorder with a lease that does not end, unless a test sets `lease_deadline`."""

    lease_deadline = 1e12
    steps: tuple[StepTimes, ...] = ()

    def steps_started(self, collect: Callable[[], tuple[StepTimes, ...]]) -> None:
        """Called when steps arrive: record them."""
        self.steps = collect()


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    """Open a process pool."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        yield pool


async def run(
    pool: ProcessPool,
    kind: str,
    payload: Any = None,
    host: FakeHost | None = None,
    checkpoint: bytes = b"null",
    timeout_s: float | None = None,
) -> Finished | RetryLater:
    """Run one attempt of a job."""
    attempt = Attempt(job_id=uuid4(), kind=kind, checkpoint=Json(checkpoint))
    text = Json(msgspec.json.encode(payload))
    return await Runner(pool).run(JOBS[kind], attempt, text, host or FakeHost(), timeout_s)


def result(outcome: Finished | RetryLater) -> Any:
    """Return the decoded result of a successful attempt."""
    assert outcome.status == "succeeded", outcome
    return msgspec.json.decode(outcome.result)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def read_pids(file: Path) -> list[int]:
    """Wait for the process ids that the job `hangs` writes, and return them."""
    await wait_until(file.exists)
    return [int(word) for word in file.read_text().split()[:2]]


async def test_process_reports_progress_and_is_reused(pool: ProcessPool) -> None:
    """Two jobs in turn run in the same process; the last progress arrives, earlier progress is coalesced."""
    host = FakeHost()
    first = result(await run(pool, "pid", 20_000, host))
    assert first != os.getpid()
    assert host.progress[-1] == Progress(20_000, 20_000)
    assert len(host.progress) < 2_000
    assert result(await run(pool, "pid", 1)) == first
    assert host.steps == ()


async def test_process_reports_its_steps(pool: ProcessPool) -> None:
    """The worker gets the times of all steps before the outcome."""
    host = FakeHost()
    result(await run(pool, "runs-steps", ["fetch", "print"], host))
    assert [step.name for step in host.steps] == ["fetch", "fetch › half", "print", "print › half"]  # noqa: RUF001
    times = [time for step in host.steps for time in (step.started_at, step.ended_at)]
    assert None not in times
    assert times[0] <= times[2] <= times[3] <= times[1] <= times[4]  # type: ignore[operator]


async def test_process_imports_from_the_same_folders(
    pool: ProcessPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process has the worker's `sys.path`, whichever folder it starts in."""
    monkeypatch.syspath_prepend(tmp_path / "application")
    (tmp_path / "application").mkdir()
    (tmp_path / "application/path_jobs.py").write_text(PATH_JOB)
    monkeypatch.setitem(JOBS, "path", load_jobs(["path_jobs"])["path"])
    monkeypatch.chdir(tmp_path)
    assert result(await run(pool, "path")) == sys.path


async def test_idle_process_that_died_is_replaced(pool: ProcessPool) -> None:
    """The next job runs in a new process and does not fail."""
    idle = result(await run(pool, "pid", 1))
    os.kill(idle, signal.SIGKILL)
    await wait_until(lambda: not any(process.is_alive for process in pool._idle))
    assert result(await run(pool, "pid", 1)) != idle


async def test_concurrent_jobs_run_in_separate_processes(pool: ProcessPool) -> None:
    """A job does not wait for the process of another one."""
    outcomes = await asyncio.gather(run(pool, "pid", 1), run(pool, "pid", 1))
    assert len({result(outcome) for outcome in outcomes}) == 2


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        ("exits", 3, "The handler's process exited with code 3."),
        ("crashes", int(signal.SIGSEGV), "The handler's process was killed by SIGSEGV."),
        ("crashes", int(signal.SIGKILL), "The handler's process was killed by SIGKILL."),
    ],
)
async def test_crash_fails_only_its_attempt(pool: ProcessPool, kind: str, payload: int, message: str) -> None:
    """The attempt gets the error `Crashed`, and the next job runs in a new process."""
    before = result(await run(pool, "pid", 1))
    outcome = await run(pool, kind, payload)
    assert (outcome.status, outcome.failure and outcome.failure.error) == ("retrying", JobError("Crashed", message))
    assert result(await run(pool, "pid", 1)) != before


def test_crash_is_noticed_although_the_exit_code_is_taken(tmp_path: Path) -> None:
    """The attempt gets the error `Crashed`, although a handler ignores SIGCHLD or has waited for any child.

    Each crash is that of a new event loop, in a process of its own: uvloop never closes without the exit code.
    """
    program = [sys.executable, "-c", f"from {take_exit_codes.__module__} import *; take_exit_codes({str(tmp_path)!r})"]
    completed = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S)
    crash = "Crashed: The handler's process ended, and a handler has taken its exit code."
    assert completed.stdout.splitlines() == [crash, crash], completed.stderr


def take_exit_codes(folder: str) -> None:
    """Kill the process of a handler and take its exit code, in each way; print the errors of the attempts."""

    async def crash(file: Path, *, ignore: bool) -> Finished | RetryLater:
        async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
            running = asyncio.create_task(run(pool, "hangs", str(file)))
            (pid, child) = await read_pids(file)
            if ignore:
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            os.kill(child, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            if not ignore:
                os.waitpid(pid, 0)
            return await running

    for ignore in (False, True):
        outcome = uvloop.new_event_loop().run_until_complete(crash(Path(folder, str(ignore)), ignore=ignore))
        error = outcome.failure and outcome.failure.error
        print(f"{error.type}: {error.message}" if error else outcome, flush=True)
    os._exit(0)


@pytest.mark.parametrize(
    ("payload", "status", "error"),
    [
        ("fail", "failed", "Fail"),
        ("exit", "retrying", "SystemExit"),
        ("interrupt", "retrying", "KeyboardInterrupt"),
        ("group", "failed", "Fail"),
        ("other", "retrying", "ValueError"),
    ],
)
async def test_exception_is_the_error_of_the_attempt(pool: ProcessPool, payload: str, status: str, error: str) -> None:
    """The process is reused after an exception."""
    before = result(await run(pool, "pid", 1))
    outcome = await run(pool, "fails", payload)
    assert (outcome.status, outcome.failure and outcome.failure.error.type) == (status, error)
    assert result(await run(pool, "pid", 1)) == before


async def test_invalid_payload_fails_the_job(pool: ProcessPool) -> None:
    """The job fails with `InvalidPayload` and is not retried."""
    outcome = await run(pool, "pid", "many")
    assert (outcome.status, outcome.failure and outcome.failure.error.type) == ("failed", "InvalidPayload")


@pytest.mark.parametrize("reason", ["cancel", "timeout"])
async def test_interrupted_process_ends_with_its_children(pool: ProcessPool, tmp_path: Path, reason: str) -> None:
    """After a cancel or a timeout the handler gets the reason, and its process and all child processes end."""
    file = tmp_path / "pids"
    await run(pool, "pid", 1)  # the time limit includes the start of the process, which a busy machine may delay
    running = asyncio.create_task(run(pool, "hangs", str(file), timeout_s=2 if reason == "timeout" else None))
    started = await read_pids(file)
    assert all(map(is_running, started))
    if reason == "cancel":
        running.cancel("cancel")
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        outcome = await running
        assert (outcome.status, outcome.failure and outcome.failure.error.type) == ("retrying", "Timeout")
    await wait_until(lambda: not any(map(is_running, started)))
    assert file.read_text().split()[2] == reason


async def test_process_that_ignores_a_cancel_is_killed(pool: ProcessPool, tmp_path: Path) -> None:
    """The pool kills the process after a short wait."""
    file = tmp_path / "pid"
    running = asyncio.create_task(run(pool, "ignores-cancel", str(file)))
    pid = int(await wait_until(lambda: file.exists() and file.read_text()))
    running.cancel("stop")
    with pytest.raises(asyncio.CancelledError):
        await running
    await wait_until(lambda: not is_running(pid))


async def test_process_exits_when_the_lease_ends(pool: ProcessPool, tmp_path: Path) -> None:
    """The process exits by itself, because a frozen worker could not kill it."""
    host, file = FakeHost(), tmp_path / "pids"
    running = asyncio.create_task(run(pool, "hangs", str(file), host))
    started = await read_pids(file)
    host.lease_deadline = time.monotonic() + 2
    with pytest.raises(LeaseLost):
        await running
    assert time.monotonic() >= host.lease_deadline
    await wait_until(lambda: not any(map(is_running, started)))


async def test_handler_does_not_start_when_the_lease_is_over(pool: ProcessPool, tmp_path: Path) -> None:
    """The start of the process may have taken longer than the lease."""
    host = FakeHost()
    host.lease_deadline = time.monotonic()
    with pytest.raises(LeaseLost):
        await run(pool, "hangs", str(tmp_path / "pids"), host)
    assert not (tmp_path / "pids").exists()


async def test_process_runs_while_the_lease_is_renewed(pool: ProcessPool, tmp_path: Path) -> None:
    """The process receives the new deadline before the old one passes."""
    host, file = FakeHost(), tmp_path / "pids"
    running = asyncio.create_task(run(pool, "hangs", str(file), host))
    started = await read_pids(file)
    received_at = time.monotonic() + 2 * DEADLINE_INTERVAL_S
    host.lease_deadline = received_at + 3
    after_old_deadline = host.lease_deadline + 0.3
    await wait_until(lambda: time.monotonic() > received_at)
    host.lease_deadline = time.monotonic() + 60
    await wait_until(lambda: time.monotonic() > after_old_deadline)
    assert all(map(is_running, started))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_idle_processes_end_with_the_pool(tmp_path: Path) -> None:
    """Closing the pool ends its idle processes."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        idle = result(await run(pool, "pid", 1))
        assert is_running(idle)
    await wait_until(lambda: not is_running(idle))


async def test_checkpoints_and_logs_arrive(pool: ProcessPool, caplog: pytest.LogCaptureFixture) -> None:
    """The worker saves the checkpoints of a process in order, and its log records with their extra fields."""
    host = FakeHost()
    with caplog.at_level(logging.INFO):
        initial = result(await run(pool, "saves-checkpoints", host=host, checkpoint=b'{"step":0}'))
    assert initial == {"step": 0}
    assert host.checkpoints == [{"step": 1}, {"step": 2}]
    (record,) = [record for record in caplog.records if record.name == "headway.jobs.saves-checkpoints"]
    assert (record.getMessage(), vars(record)["step"]) == ("saved 2", "2")


async def test_checkpoint_without_room_is_refused(pool: ProcessPool) -> None:
    """The handler gets a ValueError and can go on; its process does not end."""

    class FullHost(FakeHost):
        async def save_checkpoint(self, checkpoint: Json) -> None:
            if b"large" in bytes(checkpoint):
                raise ValueError("no room")
            self.checkpoints.append(msgspec.json.decode(checkpoint))

    host = FullHost()
    assert result(await run(pool, "checkpoint-too-large", host=host)) == "no room"
    assert host.checkpoints == ["small"]


async def test_changes_of_an_earlier_job_are_undone(
    pool: ProcessPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a job changes in its process, the next one finds it as the first one did, and can be cancelled."""
    with caplog.at_level(logging.INFO):
        before = result(await run(pool, "shows-state"))
        for change in state_jobs.CHANGES:
            for end in ("returns", "raises"):
                await run(pool, "changes-state", [change, end])
                caplog.clear()
                assert result(await run(pool, "shows-state")) == before, (change, end)
                assert "shown" in caplog.messages, (change, end)
    file = tmp_path / "pids"
    running = asyncio.create_task(run(pool, "hangs", str(file)))
    assert (await read_pids(file))[0] == before["pid"]
    running.cancel("cancel")
    await asyncio.wait({running})
    assert file.read_text().split()[2] == "cancel"


async def test_process_starts_as_the_pool_was_opened(
    pool: ProcessPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job in the worker may change the folder, and the default timeout of sockets."""
    folder = str(Path.cwd())
    monkeypatch.chdir(tmp_path)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    try:
        with caplog.at_level(logging.INFO):
            assert result(await run(pool, "shows-state"))["folder"] == folder
            caplog.clear()
            assert result(await run(pool, "logs-much", 50)) is None
    finally:
        socket.setdefaulttimeout(before)
    assert len(caplog.messages) == 50


async def test_thread_of_an_earlier_job_is_ignored(pool: ProcessPool) -> None:
    """Progress that a left-over thread reports is not attributed to the next job in the process."""
    reused_pid = result(await run(pool, "leaves-thread", 999))
    host = FakeHost()
    assert result(await run(pool, "pid", 100, host)) == reused_pid
    assert {progress.total for progress in host.progress} == {100}


def test_async_handler_with_process_is_rejected() -> None:
    """`@job(..., process=True)` raises a TypeError for an `async def`."""

    async def handler(_ctx: JobContext, _payload: Any) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        job("x", process=True)(handler)


def test_process_job_must_be_in_the_module_of_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process imports only the handler's module and looks for the job there."""
    borrowed: Job[Any, Any] = job("borrowed", process=True)(os.path.join)  # type: ignore[arg-type]
    monkeypatch.setattr(process_jobs, "borrowed", borrowed, raising=False)
    with pytest.raises(InvalidJobs, match="must be an attribute of"):
        load_jobs([process_jobs.__name__])
