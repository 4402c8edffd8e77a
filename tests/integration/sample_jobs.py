"""Jobs that the tests run."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from headway import JobContext, Retry, job

calls = 0


@job("echo")
async def echo(_ctx: JobContext, payload: Any) -> Any:
    """Return the payload."""
    return payload


@job("broken", max_attempts=1)
async def broken(_ctx: JobContext, _payload: Any) -> None:
    """Raise."""
    raise ValueError("the cable is loose")


@job("count-calls")
async def count_calls(_ctx: JobContext, _payload: Any) -> int:
    """Return how often this ran in this worker."""
    global calls
    calls += 1
    return calls


@job("leave-mark")
async def leave_mark(ctx: JobContext, path: str) -> None:
    """Append the job's id to a file: a start that is counted outside Headway."""
    with Path(path).open("a") as file:
        file.write(f"{ctx.job_id}\n")


@job("flaky", max_attempts=3, backoff_s=0.1)
async def flaky(ctx: JobContext, _payload: Any) -> int:
    """Fail until the last attempt."""
    if ctx.attempt < ctx.max_attempts:
        raise ValueError(f"attempt {ctx.attempt} was in vain")
    return ctx.attempt


@job("hopeless", max_attempts=2, backoff_s=0.1)
async def hopeless(_ctx: JobContext, _payload: Any) -> None:
    """Fail at every attempt."""
    raise ValueError("the cable is loose")


@job("until-mended", max_attempts=2, backoff_s=0.1)
async def until_mended(ctx: JobContext, path: str) -> int:
    """Fail until a file exists; then leave the job's id in it."""
    if not Path(path).exists():
        raise ValueError("the cable is loose")
    with Path(path).open("a") as file:
        file.write(f"{ctx.job_id}\n")
    return ctx.attempt


@job("ask-again", max_attempts=2)
async def ask_again(ctx: JobContext, payload: tuple[str, float]) -> None:
    """Leave a mark at each start, and ask for another attempt after a while."""
    path, after_s = payload
    with Path(path).open("a") as file:
        file.write(f"{time.time()}\n")
    if ctx.attempt == 1:
        raise Retry("The album is locked.", after_s=after_s)


@job("too-slow", max_attempts=2, timeout_s=0.1, backoff_s=0.1)
async def too_slow(ctx: JobContext, _payload: Any) -> str:
    """Take too long at the first attempt."""
    if ctx.attempt == 1:
        await asyncio.Event().wait()
    return "in time"


@job("in-thread")
def in_thread(ctx: JobContext, path: str) -> None:
    """Show progress from a thread until it is told to stop, and leave the reason in a file."""
    try:
        for number in range(100_000):
            ctx.progress(number, 100_000)
            time.sleep(0.01)
    except asyncio.CancelledError as error:
        Path(path).write_text(f"{error.args[0]} {ctx.cancelled}")
        raise


@job("in-process", process=True)
def in_process(ctx: JobContext, payload: dict[str, Any]) -> int:
    """Do steps in a process, and say which it is; without an end when asked to."""
    ctx.steps(4)
    with ctx.step("first"):
        ctx.log.info("first_step", extra={"seen": payload["mark"]})
    with ctx.step("second", weight=3):
        for _ in ctx.track(range(100), message="parts"):
            time.sleep(0.005)
        while payload.get("hang"):
            time.sleep(0.05)
            Path(payload["mark"]).write_text(str(os.getpid()))
    return os.getpid()


@job("go-on", max_attempts=3, backoff_s=0.1)
async def go_on(ctx: JobContext, _payload: Any) -> list[int]:
    """Fail after each checkpoint, and go on from it."""
    done: list[int] = ctx.checkpoint_value or []
    if len(done) < 2:
        await ctx.checkpoint([*done, ctx.attempt])
        raise Retry("one more", after_s=0)
    return done
