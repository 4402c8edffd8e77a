"""Handler processes that fork, start programs and log: no job sees anything of another one, and none waits for ever."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headway.context import Attempt
from headway.contracts import JobError, Json, Progress
from services.worker.execution.handler_process import ParentChannel, run_attempt
from services.worker.execution.ipc import AttemptFinished, LogRecord, ProgressUpdate, RunAttempt, encode_frame
from services.worker.execution.process_pool import HandlerProcess, ProcessPool
from services.worker.outcomes import Finished
from services.worker.registry import load_jobs
from tests.unit.services.worker.execution import fork_jobs, process_jobs
from tests.unit.services.worker.execution.test_process_pool import JOBS, FakeHost, is_running, result, run
from tests.unit.services.worker.fake_worker import PROCESS_MEMORY_BYTES
from tests.waiting import PATIENCE_S, wait_until

JOBS.update(load_jobs([fork_jobs.__name__]))


@pytest.fixture(scope="module")
async def shared_pool() -> AsyncIterator[ProcessPool]:
    """Open a pool for the tests that leave its processes usable."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        yield pool


@pytest.mark.parametrize(
    ("child", "exit_code"),
    [
        ("returns", 0),
        ("raises", 1),
        ("exits", 3),
        ("fails-to-exec", 1),
        ("reports", 1),
        ("logs", 0),
        ("unnoticed returns", 0),
        ("unnoticed reports", 1),
    ],
)
async def test_forked_child_ends_where_the_handler_returns(
    shared_pool: ProcessPool, child: str, exit_code: int
) -> None:
    """It reports nothing: the job's result is its parent's, and the next job's is its own."""
    host = FakeHost()
    assert result(await asyncio.wait_for(run(shared_pool, "forks", child, host), PATIENCE_S)) == exit_code
    assert (host.checkpoints, host.progress) == ([], [])
    assert result(await run(shared_pool, "pid", 1)) == result(await run(shared_pool, "pid", 1))


async def test_children_have_default_signal_handling(shared_pool: ProcessPool) -> None:
    """A child that is terminated at once ends by the signal, whichever way it was started."""
    expected = dict.fromkeys(fork_jobs.TERMINATIONS, -15)
    assert result(await asyncio.wait_for(run(shared_pool, "terminates-children"), PATIENCE_S)) == expected


async def test_children_do_not_inherit_the_connection(shared_pool: ProcessPool) -> None:
    """Neither a program nor a forked child has the socket to the worker."""
    assert result(await run(shared_pool, "open-descriptors")) == []


async def test_crash_is_noticed_although_the_connection_stays_open(tmp_path: Path) -> None:
    """The attempt fails when the process ends, although a program that it has started keeps the connection open."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        outcome = await asyncio.wait_for(run(pool, "crashes-but-stays-connected", str(tmp_path / "pid")), PATIENCE_S)
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert outcome.failure
    assert outcome.failure.error == JobError("Crashed", "The handler's process exited with code 3.")


async def test_process_that_sends_anything_between_two_jobs_is_replaced() -> None:
    """A thread that a handler has left behind cannot write into the log of the next job."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        first = result(await run(pool, "talks-afterwards"))

        async def is_replaced() -> bool:
            return bool(result(await run(pool, "pid", 1)) != first)

        await wait_until(is_replaced)


async def test_process_is_replaced_after_max_jobs() -> None:
    """A process runs that many attempts, and then a new one follows."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        pids = [result(await run(pool, "twice")) for _ in range(5)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 1]


async def test_process_that_holds_too_much_memory_is_replaced() -> None:
    """A process that has grown beyond the limit after an attempt does not run another one."""
    async with ProcessPool.open(max_memory_bytes=200 << 20) as pool:
        pids = [result(await run(pool, "allocates", 60 << 20)) for _ in range(6)]
        assert 2 <= len(set(pids)) <= 5
        await wait_until(lambda: not any(map(is_running, set(pids) - {pids[-1]})))


async def test_no_log_record_fails_a_job(shared_pool: ProcessPool, caplog: pytest.LogCaptureFixture) -> None:
    """Records that cannot be formatted are logged with their place, huge ones are cut, and no argument is shown."""
    assert result(await run(shared_pool, "logs-unusual-records")) == "done"
    records = [record for record in caplog.records if record.name == "unusual"]
    texts = [record.getMessage() for record in records]
    assert texts[0] == "surrogate: caf?"
    assert texts.count("log_record_invalid") == 6
    assert texts[-1] == "last"
    assert "a-secret-argument" not in caplog.text
    assert max(map(len, texts)) <= 16_384
    (extra,) = [vars(record) for record in records if record.getMessage() == "extra"]
    assert (extra["broken"], extra["surrogate"], len(extra["huge"])) == ("<Unprintable: ValueError>", "?", 16_384)
    (invalid, *_) = [vars(record) for record in records if record.getMessage() == "log_record_invalid"]
    assert (Path(invalid["where"]).name.split(":")[0], invalid["error"]) == ("unusual_records.py", "TypeError")
    assert len(texts) == 12


async def test_message_that_cannot_be_encoded_is_the_error_of_the_attempt(shared_pool: ProcessPool) -> None:
    """The process does not crash over a lone surrogate in the message of an exception."""
    outcome = await run(shared_pool, "raises-surrogate")
    assert outcome.failure
    assert outcome.failure.error == JobError("ValueError", "caf?")


async def test_log_record_of_an_application_factory_arrives(
    shared_pool: ProcessPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An attribute that a record factory adds in the worker, too, is no conflict."""

    def factory(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = logging.LogRecord(*arguments, **options)
        record.step = "of the worker"
        return record

    default = logging.getLogRecordFactory()
    logging.setLogRecordFactory(factory)
    try:
        with caplog.at_level(logging.INFO):
            await run(shared_pool, "saves-checkpoints")
    finally:
        logging.setLogRecordFactory(default)
    assert [vars(record)["step"] for record in caplog.records if record.getMessage() == "saved 2"] == ["2"]


@contextmanager
def open_descriptors_unchanged() -> Iterator[None]:
    """Check that a block leaves as many descriptors open as before."""
    before = len([*fork_jobs.DESCRIPTORS.iterdir()])
    yield
    assert len([*fork_jobs.DESCRIPTORS.iterdir()]) <= before


async def test_failed_start_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot be started leaves no socket open."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with open_descriptors_unchanged():
        for _ in range(5):
            with pytest.raises(FileNotFoundError):
                await HandlerProcess.start("")
        await asyncio.sleep(0)  # the event loop closes descriptors in its next iteration


async def test_ended_processes_leak_no_descriptor() -> None:
    """A process that has ended, crashed or been replaced leaves no descriptor open."""
    with open_descriptors_unchanged():
        async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
            await run(pool, "exits", 3)
            await run(pool, "pid", 1)
        await asyncio.sleep(0)


async def test_frames_of_other_runs_are_dropped() -> None:
    """A result, progress or log record counts only if it has the number of the current run."""
    ours, theirs = socket.socketpair()
    program = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    process = HandlerProcess(program, ours, *await asyncio.open_unix_connection(sock=ours))
    process.runs, attempt = 6, Attempt(job_id=uuid4(), kind="kind")
    host = FakeHost()
    for number in (6, 8, 0, 7):
        frames = (
            ProgressUpdate(Progress(number, 10)),
            LogRecord("other", logging.INFO, "text", {}),
            AttemptFinished(Finished("succeeded", Json(b"%d" % number))),
        )
        theirs.sendall(b"".join(encode_frame(number, frame) for frame in frames))
    finished = await process.run(RunAttempt("module", attempt, Json(b"{}"), 1e12), host)
    assert finished is not None
    assert (bytes(finished.result), [progress.current for progress in host.progress]) == (b"7", [7])
    theirs.close()
    await process.end()


class Killed(BaseException):
    """Raised where the process would kill itself."""


def test_handler_does_not_start_when_its_lease_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process kills itself after decoding the payload, which may have taken longer than the lease."""

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(os, "killpg", kill)
    request = RunAttempt(process_jobs.__name__, Attempt(job_id=uuid4(), kind="fails"), Json(b'"called"'), 0.0)
    parent_end, child_end = socket.socketpair()
    with parent_end, child_end:
        channel = ParentChannel(child_end)
        failure = run_attempt(1, request, channel).failure
        assert failure
        assert failure.error == JobError("ValueError", "called")
        channel._lease_deadline = 0.0
        failure = run_attempt(1, request, channel).failure
        assert failure
        assert failure.error == JobError("Killed", "Killed")
