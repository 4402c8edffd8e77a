"""Jobs that log what they do, for tests that kill, freeze and disconnect their workers, and jobs that harm theirs."""

import asyncio
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Literal

from msgspec import Struct

from headway import Fail, JobContext, Retry, job
from tests.integration.handler_log import log_call

TICK_S = 0.1


class Steps(Struct, frozen=True):
    """The amount of work of a job."""

    steps: int = 4
    step_s: float = 0.1
    retries: int = 0  # the number of attempts that fail first


@job("steps", max_attempts=20)
async def steps(ctx: JobContext, payload: Steps) -> int:
    """Do some steps; retry after the first step as often as the payload says."""
    with log_call(ctx) as log:
        for number in range(payload.steps):
            await asyncio.sleep(payload.step_s)
            log(f"step {number}")
            ctx.progress(number + 1, payload.steps)
            if ctx.attempt <= payload.retries:
                raise Retry(after_s=0)
        return payload.steps


@job("steps-in-thread", max_attempts=20)
def steps_in_thread(ctx: JobContext, payload: Steps) -> int:
    """Do some steps in a thread."""
    return _do_steps(ctx, payload, os.getpid())


@job("steps-in-process", max_attempts=20, process=True)
def steps_in_process(ctx: JobContext, payload: Steps) -> int:
    """Do some steps in a separate process."""
    return _do_steps(ctx, payload, os.getppid())


def _do_steps(ctx: JobContext, payload: Steps, worker: int) -> int:
    with log_call(ctx, worker) as log:
        for number in range(payload.steps):
            time.sleep(payload.step_s)
            ctx.progress(number + 1, payload.steps)
            log(f"step {number}")
        return payload.steps


@job("checkpoints", max_attempts=20)
async def checkpoints(ctx: JobContext, payload: Steps) -> int:
    """Do some steps with a checkpoint after each, and continue after the last checkpoint."""
    with log_call(ctx) as log:
        for number in range(ctx.checkpoint_value or 0, payload.steps):
            await asyncio.sleep(payload.step_s)
            log(f"step {number}")
            await ctx.checkpoint(number + 1)
            log(f"saved {number}")
        return payload.steps


@job("deadly-checkpoints", max_attempts=10)
async def deadly_checkpoints(ctx: JobContext, payload: Steps) -> int:
    """Do some steps, and kill the worker right after each checkpoint."""
    with log_call(ctx) as log:
        for number in range(ctx.checkpoint_value or 0, payload.steps):
            log(f"step {number}")
            await ctx.checkpoint(number + 1)
            log(f"saved {number}")
            os.kill(os.getpid(), signal.SIGKILL)
        return payload.steps


@job("fails", max_attempts=20)
async def fails(ctx: JobContext, payload: Steps) -> None:
    """Do a step, then fail without retry."""
    with log_call(ctx) as log:
        await asyncio.sleep(payload.step_s)
        log("step 0")
        raise Fail("The album is empty.")


@job("hopeless", max_attempts=20)
async def hopeless(ctx: JobContext, payload: Steps) -> None:
    """Ask for a retry at every attempt."""
    with log_call(ctx):
        raise Retry("The album is locked.", after_s=0)


@job("hold", max_attempts=20)
async def hold(ctx: JobContext, finish: str) -> int:
    """Run until the file `finish` exists; return the number of the attempt."""
    with log_call(ctx) as log:
        while not Path(finish).exists():
            log("step")
            ctx.progress(ctx.attempt)
            await asyncio.sleep(TICK_S)
        return ctx.attempt


@job("hold-in-thread", max_attempts=20)
def hold_in_thread(ctx: JobContext, finish: str) -> int:
    """Run in a thread until the file `finish` exists; return the number of the attempt."""
    return _hold(ctx, finish, os.getpid())


@job("hold-in-process", max_attempts=20, process=True)
def hold_in_process(ctx: JobContext, finish: str) -> int:
    """Run in a separate process until the file `finish` exists; return the number of the attempt."""
    return _hold(ctx, finish, os.getppid())


def _hold(ctx: JobContext, finish: str, worker: int) -> int:
    with log_call(ctx, worker) as log:
        while not Path(finish).exists():
            log("step")
            ctx.progress(ctx.attempt)
            time.sleep(TICK_S)
        return ctx.attempt


@job("nap", max_attempts=20)
async def nap(ctx: JobContext, seconds: float) -> int:
    """Sleep; return the number of the attempt."""
    with log_call(ctx):
        await asyncio.sleep(seconds)
        return ctx.attempt


class LibraryExit(BaseException):
    """An exception of a library that `except Exception` does not catch."""


ERRORS = {error.__name__: error for error in (KeyboardInterrupt, SystemExit, GeneratorExit, LibraryExit)}


class Harm(Struct, frozen=True):
    """An exception, and where it is raised first; the handler raises it in the end."""

    error: str
    place: Literal["handler", "awaited task", "background task", "callback"] = "handler"


@job("harms", max_attempts=2, backoff_s=0.1)
async def harms(ctx: JobContext, payload: Harm) -> None:
    """Raise an exception that is not an `Exception` at every attempt."""
    loop, error = asyncio.get_running_loop(), ERRORS[payload.error]("the cable is loose")
    with log_call(ctx):
        await asyncio.sleep(TICK_S)
        if payload.place == "callback":
            loop.call_soon(_raise, error)
        elif payload.place != "handler":
            task = asyncio.create_task(_raise_in_task(error))
            await (task if payload.place == "awaited task" else asyncio.sleep(TICK_S))
        await asyncio.sleep(TICK_S)
        _raise(error)


@job("harms-in-thread", max_attempts=2, backoff_s=0.1)
def harms_in_thread(ctx: JobContext, payload: Harm) -> None:
    """Raise such an exception in a thread."""
    with log_call(ctx):
        _raise(ERRORS[payload.error]("the cable is loose"))


@job("harms-in-process", max_attempts=2, backoff_s=0.1, process=True)
def harms_in_process(ctx: JobContext, payload: Harm) -> None:
    """Raise such an exception in a separate process."""
    with log_call(ctx, os.getppid()):
        _raise(ERRORS[payload.error]("the cable is loose"))


def _raise(error: BaseException) -> None:
    raise error


async def _raise_in_task(error: BaseException) -> None:
    raise error


@job("signals-child", max_attempts=20)
async def signals_child(ctx: JobContext, _payload: None) -> int | None:
    """Start a process, terminate it, and return its exit code."""
    with log_call(ctx):
        return _terminate_child()


@job("signals-child-in-thread", max_attempts=20)
def signals_child_in_thread(ctx: JobContext, _payload: None) -> int | None:
    """Terminate a process in a thread."""
    with log_call(ctx):
        return _terminate_child()


@job("signals-child-in-process", max_attempts=20, process=True)
def signals_child_in_process(ctx: JobContext, _payload: None) -> int | None:
    """Terminate a process in a separate process."""
    with log_call(ctx, os.getppid()):
        return _terminate_child()


def _terminate_child() -> int | None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    return process.exitcode
