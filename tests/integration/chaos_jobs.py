"""Jobs that log what they do, for tests that kill, freeze and disconnect their workers."""

import asyncio
import os
import signal
import time
from pathlib import Path

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
