"""Jobs that the tests submit."""

import asyncio
import logging
import multiprocessing
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


@job("copy", keep="always")
async def copy(_ctx: JobContext, payload: Any) -> Any:
    """Return the payload, which is kept for another run."""
    return payload


@job("steps-on-demand")
async def steps_on_demand(ctx: JobContext, path: str) -> str:
    """Report ten steps; before each of them and at the end, wait until a file has one character more."""
    for step in range(1, 12):
        while len(Path(path).read_text()) < step:
            await asyncio.sleep(0.01)
        if step <= 10:
            ctx.progress(step, 10)
    return "ten steps"


@job("talkative", log="watchers")
async def talkative(ctx: JobContext, lines: int) -> None:
    """Print and log lines."""
    for number in range(lines):
        print(f"line {number}: \x1b[1mü\x1b[0m")  # noqa: T201 - into the log of the job
        await asyncio.sleep(0.05)
    ctx.log.info("all_lines_written")


@job("count-calls")
async def count_calls(_ctx: JobContext, _payload: Any) -> int:
    """Return the number of calls of this handler in this worker."""
    global calls
    calls += 1
    return calls


@job("append-id")
async def append_id(ctx: JobContext, path: str) -> None:
    """Append the job's id to a file, so that a test can count the starts."""
    with Path(path).open("a") as file:
        file.write(f"{ctx.job_id}\n")


@job("flaky", max_attempts=3, backoff_s=0.1)
async def flaky(ctx: JobContext, _payload: Any) -> int:
    """Raise at every attempt but the last."""
    if ctx.attempt < ctx.max_attempts:
        raise ValueError(f"attempt {ctx.attempt} failed")
    return ctx.attempt


@job("hopeless", max_attempts=2, backoff_s=0.1)
async def hopeless(_ctx: JobContext, _payload: Any) -> None:
    """Raise at every attempt."""
    raise ValueError("the cable is loose")


@job("until-file-exists", max_attempts=2, backoff_s=0.1)
async def until_file_exists(ctx: JobContext, path: str) -> int:
    """Raise until a file exists, then append the job's id to it."""
    if not Path(path).exists():
        raise ValueError("the cable is loose")
    with Path(path).open("a") as file:
        file.write(f"{ctx.job_id}\n")
    return ctx.attempt


@job("wait-for-file")
async def wait_for_file(_ctx: JobContext, path: str) -> None:
    """Run until a file exists."""
    while not Path(path).exists():
        await asyncio.sleep(0.02)


@job("retry-once", max_attempts=2)
async def retry_once(ctx: JobContext, payload: tuple[str, float]) -> None:
    """Append the time of each start to a file; ask for one more attempt after `after_s`."""
    path, after_s = payload
    with Path(path).open("a") as file:
        file.write(f"{time.time()}\n")
    if ctx.attempt == 1:
        raise Retry("The album is locked.", after_s=after_s)


@job("too-slow", max_attempts=2, timeout_s=0.1, backoff_s=0.1)
async def too_slow(ctx: JobContext, _payload: Any) -> str:
    """Exceed the time limit at the first attempt."""
    if ctx.attempt == 1:
        await asyncio.Event().wait()
    return "in time"


@job("in-thread")
def in_thread(ctx: JobContext, path: str) -> None:
    """Report progress from a thread until cancelled, then write the reason to a file."""
    try:
        for number in range(100_000):
            ctx.progress(number, 100_000)
            time.sleep(0.01)
    except asyncio.CancelledError as error:
        Path(path).write_text(f"{error.args[0]} {ctx.cancelled}")
        raise


@job("in-process", process=True)
def in_process(ctx: JobContext, payload: dict[str, Any]) -> int:
    """Work through two steps in a separate process and return its id; with `hang`, run until killed."""
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


@job("resume", max_attempts=3, backoff_s=0.1)
async def resume(ctx: JobContext, _payload: Any) -> list[int]:
    """Ask for a retry after each of two checkpoints, and continue from them."""
    done: list[int] = ctx.checkpoint_value or []
    if len(done) < 2:
        await ctx.checkpoint([*done, ctx.attempt])
        raise Retry("one more", after_s=0)
    return done


@job("starts-child")
async def starts_child(_ctx: JobContext, payload: str) -> Any:
    """Fork a child that returns, terminate a child, or log what cannot be formatted."""
    return start_child(payload)


@job("starts-child-in-thread")
def starts_child_in_thread(_ctx: JobContext, payload: str) -> Any:
    """Do the same in a thread."""
    return start_child(payload)


@job("starts-child-in-process", process=True)
def starts_child_in_process(_ctx: JobContext, payload: str) -> Any:
    """Do the same in a process."""
    return start_child(payload)


def start_child(action: str) -> Any:
    """Return the exit code of a child, or -15 after logging."""
    if action == "fork":
        child = os.fork()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else "of the child"
    if action == "terminate":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        process.start()
        process.terminate()
        process.join()
        return process.exitcode
    logging.getLogger("odd").warning("%d", "a-secret-argument")
    logging.getLogger("odd").warning(os.fsdecode(b"caf\xe9"), extra={"odd": [os.fsdecode(b"caf\xe9")]})
    return None
