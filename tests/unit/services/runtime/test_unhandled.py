"""Exceptions that no code handles are logged with their type and place, and without the text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[4]
PROGRAM = """
import asyncio, concurrent.futures, gc, logging, sys, threading
import structlog
from services.runtime import event_loop, logs

logs.configure("worker", "info", "json", tracebacks=sys.argv[1] == "true")

def fail(*_):
    raise ValueError("the-secret")

class Finalized:
    def __del__(self):
        fail()

async def left_behind():
    fail()

async def other_loop():
    task = asyncio.create_task(left_behind())
    await asyncio.sleep(0)
    del task
    gc.collect()

async def main():
    with structlog.contextvars.bound_contextvars(job_id="the-job"):
        asyncio.get_running_loop().call_soon(fail, "the-secret")
        task = asyncio.create_task(left_behind())
        await asyncio.sleep(0.01)
    with structlog.contextvars.bound_contextvars(job_id="another-job"):
        del task
        gc.collect()
        for target in (fail, lambda: asyncio.run(other_loop()), sys.exit):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        Finalized()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            executor.submit(print, end="").add_done_callback(fail)

event_loop.run(main())
"""


def run_program(tracebacks: str) -> str:
    """Leave exceptions behind in every way, and return the output."""
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM, tracebacks],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    return completed.stdout + completed.stderr


def test_only_type_and_place_are_logged() -> None:
    """The line of the code is in the log, and neither the message nor an argument of a callback."""
    lines = [json.loads(line) for line in run_program("false").splitlines()]
    assert "the-secret" not in str(lines)
    assert [line["source"] for line in lines] == [
        "callback",
        "task",
        "thread",
        "asyncio",
        "finalizer",
        "concurrent.futures",
    ]
    for line in lines:
        assert (line["event"], line["error"], line["service"]) == ("unhandled_exception", "ValueError", "worker")
        assert line["where"][-1].endswith(" fail")
    assert lines[0]["job_id"] == "the-job"
    assert lines[1].get("job_id") == ("the-job" if sys.version_info >= (3, 12) else None)
    assert "job_id" not in lines[2]


def test_tracebacks_can_be_shown() -> None:
    """With LOG_TRACEBACKS each line has the complete traceback, with the message of the exception."""
    assert run_program("true").count("ValueError: the-secret") == 6
