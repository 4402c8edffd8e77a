"""Jobs that log and print, each line with the name of its job, so that a test sees whose lines a log has."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

from headway import Fail, JobContext, Retry, job

LINES = 20
LINE_BYTES, FLOOD_LINES = 100, 100_000
FLOOD_BYTES = LINE_BYTES * FLOOD_LINES
PAUSE_S = 0.05


def write(ctx: JobContext, name: str, number: int) -> None:
    """Write two lines in two ways."""
    print(f"{name} printed {number}")  # noqa: T201
    logging.getLogger("shop").warning("%s logged %d of attempt %d", name, number, ctx.attempt)


def expected_lines(name: str) -> list[str]:
    """Return the lines of a job, without times and levels."""
    return [line for n in range(LINES) for line in (f"{name} printed {n}", f"{name} logged {n} of attempt 1")]


@job("logs", log="watchers")
async def logs(ctx: JobContext, name: str) -> None:
    """Log in the event loop, slowly, so that such jobs run side by side."""
    for number in range(LINES):
        write(ctx, name, number)
        await asyncio.sleep(PAUSE_S)


@job("logs-in-thread", log="watchers")
def logs_in_thread(ctx: JobContext, name: str) -> None:
    """Log in a thread."""
    for number in range(LINES):
        write(ctx, name, number)
        time.sleep(PAUSE_S)


@job("logs-in-process", process=True, log="watchers")
def logs_in_process(ctx: JobContext, name: str) -> None:
    """Log in a process."""
    for number in range(LINES):
        write(ctx, name, number)
        time.sleep(PAUSE_S)


@job("logs-and-crashes", process=True, max_attempts=1)
def logs_and_crashes(_ctx: JobContext, name: str) -> None:
    """Print a line and crash at once."""
    print(f"{name} before the crash")  # noqa: T201
    os.abort()


@job("logs-and-retries", log="watchers", max_attempts=2)
async def logs_and_retries(ctx: JobContext, signal: str) -> None:
    """Print, wait for a file, print again, and ask for another attempt at once."""
    print(f"attempt {ctx.attempt} begins")  # noqa: T201
    while not Path(signal).exists():
        await asyncio.sleep(0.01)
    print(f"attempt {ctx.attempt} ends")  # noqa: T201
    if ctx.attempt == 1:
        raise Retry(after_s=0)


@job("floods-its-log", log="watchers", max_attempts=1)
def floods_its_log(_ctx: JobContext, name: str) -> None:
    """Print ten megabytes as fast as possible, and fail, because the log of a failed job is kept whole."""
    for number in range(FLOOD_LINES):
        print(f"{name} {number:0{LINE_BYTES - len(name) - 2}}")  # noqa: T201
    raise Fail("the end")
