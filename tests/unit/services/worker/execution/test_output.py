"""What handlers in processes print and log arrives in the logs of their jobs, and nowhere else."""

from __future__ import annotations

import asyncio
import io
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headway.details import MAX_APPEND_BYTES
from services.worker.execution.handler_process import ParentChannel, ProcessHost
from services.worker.execution.process_pool import ProcessPool
from services.worker.logs.capture import capture_into, capture_output
from services.worker.metrics import LOG_BYTES_LEFT_OUT
from services.worker.outcomes import Finished, RetryLater
from services.worker.registry import load_jobs
from tests.unit.services.worker.execution import output_jobs
from tests.unit.services.worker.execution.test_process_pool import JOBS, result, run
from tests.unit.services.worker.fake_worker import PROCESS_MEMORY_BYTES
from tests.waiting import PATIENCE_S

JOBS.update(load_jobs([output_jobs.__name__]))


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    """Open a process pool."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        yield pool


async def logged(pool: ProcessPool, kind: str, payload: Any = None) -> tuple[str, Finished | RetryLater]:
    """Run a job and return its log and its outcome."""
    text = io.StringIO()
    with capture_into(text):
        outcome = await asyncio.wait_for(run(pool, kind, payload), PATIENCE_S)
    return text.getvalue(), outcome


async def test_output_of_processes_does_not_mix(pool: ProcessPool) -> None:
    """Lines that are printed and logged come in their order, from all threads, and the rest at the end."""
    with capture_output():
        logs = await asyncio.gather(*(logged(pool, "outputs", name) for name in "abc"))
    for name, (text, outcome) in zip("abc", logs, strict=True):
        result(outcome)
        expected = [line for n in range(20) for line in (f"{name} printed {n}", f"WARNING {name} logged {n}")]
        expected += [f"{name} from a thread", f"WARNING {name} other", f"{name} ? incomplete"]
        assert [re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", line) for line in text.splitlines()] == expected


async def test_line_before_a_crash_arrives(pool: ProcessPool) -> None:
    """A line is sent before the next statement of the handler runs."""
    text, outcome = await logged(pool, "prints-and-dies")
    assert (text, outcome.status) == ("the last words\n", "retrying")


async def test_thread_of_an_earlier_job_writes_into_no_log() -> None:
    """What a thread writes that an earlier job has left in the process is not in the log of the next job."""
    async with ProcessPool.open(PROCESS_MEMORY_BYTES) as pool:
        with capture_output():
            _, first = await logged(pool, "leaves-a-printer")
            text, second = await logged(pool, "waits-for-the-printer")
    assert result(first) == result(second)
    assert text == "printed by the second job\n"


async def test_flood_is_left_out_in_the_process(pool: ProcessPool) -> None:
    """The worker gets the first and the last lines of ten megabytes, and the process can be used again."""
    left_out = LOG_BYTES_LEFT_OUT._value.get()
    text, outcome = await logged(pool, "floods", 100_000)
    result(outcome)
    assert text.startswith("0" * 99 + "\n")
    assert text.endswith(f"{99_999:099}\n")
    assert " lines left out\n" in text
    kept = len(re.findall(r"^\d{99}$", text, re.MULTILINE)) * 100
    assert kept < 10 * MAX_APPEND_BYTES
    assert LOG_BYTES_LEFT_OUT._value.get() - left_out == 10_000_000 - kept
    assert await pool._idle[-1].is_silent()


def test_print_does_not_wait_for_a_frame_that_is_sent() -> None:
    """A signal handler may print while its thread sends a frame; the line is sent afterwards."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = ParentChannel(theirs)
        host = ProcessHost(channel, run=1)
        with channel._lock:
            channel.on_output("one\n")
        channel.on_output("two\n")
        host.close()
        ours.settimeout(PATIENCE_S)
        received = ours.recv(1000)
    assert b'"text":"one\\n' in received
    assert b"two\\n" in received


async def test_forked_child_prints_to_the_output_alone(pool: ProcessPool) -> None:
    """It cannot report for the job, and its print does not fail."""
    text, outcome = await logged(pool, "forks-a-printer")
    assert (text, result(outcome)) == ("", 0)
