"""Jobs in processes that print and log, for the tests of what arrives in their logs."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import Any

from headway import JobContext, job


@job("outputs", process=True)
def outputs(ctx: JobContext, name: str) -> None:
    """Print and log in turns, from threads, too, and leave a line incomplete."""
    for number in range(20):
        print(f"{name} printed {number}")
        ctx.log.warning("%s logged %d", name, number)
    thread = threading.Thread(target=print, args=(f"{name} from a thread",))
    thread.start()
    thread.join()
    logging.getLogger("other").warning("%s other", name)
    print(f"{name} \ud800 incomplete", end="", file=sys.stderr)


@job("prints-and-dies", process=True)
def prints_and_dies(_ctx: JobContext, _payload: Any) -> None:
    """Print a line and be killed at once."""
    print("the last words")
    os.kill(os.getpid(), signal.SIGKILL)


_next_job = threading.Event()
_has_written = threading.Event()


@job("leaves-a-printer", process=True)
def leaves_a_printer(ctx: JobContext, _payload: Any) -> int:
    """Leave a thread that prints and logs while the next job runs; return the process id."""

    def write() -> None:
        _next_job.wait()
        print("printed by the first job")
        ctx.log.warning("logged by the first job")
        _has_written.set()

    threading.Thread(target=write, daemon=True).start()
    return os.getpid()


@job("waits-for-the-printer", process=True)
def waits_for_the_printer(_ctx: JobContext, _payload: Any) -> int:
    """Wait until the thread of an earlier job has written, and print a line; return the process id."""
    _next_job.set()
    assert _has_written.wait(240)
    print("printed by the second job")
    return os.getpid()


@job("floods", process=True)
def floods(_ctx: JobContext, lines: int) -> None:
    """Print as fast as possible."""
    for number in range(lines):
        print(f"{number:099}")


@job("forks-a-printer", process=True)
def forks_a_printer(_ctx: JobContext, _payload: Any) -> int:
    """Print in a forked child."""
    if (pid := os.fork()) == 0:
        print("from a child", flush=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
