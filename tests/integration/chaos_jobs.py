"""Jobs that write down what they do, for the tests that kill, freeze and cut off who runs them."""

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
    """How much a job does."""

    steps: int = 4
    step_s: float = 0.1
    retries: int = 0  # the attempts that are in vain


@job("steps", max_attempts=20)
async def steps(ctx: JobContext, payload: Steps) -> int:
    """Do some steps, in as many attempts as it takes."""
    with log_call(ctx) as write:
        for number in range(payload.steps):
            await asyncio.sleep(payload.step_s)
            write(f"step {number}")
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
    """Do some steps in a process."""
    return _do_steps(ctx, payload, os.getppid())


def _do_steps(ctx: JobContext, payload: Steps, worker: int) -> int:
    with log_call(ctx, worker) as write:
        for number in range(payload.steps):
            time.sleep(payload.step_s)
            ctx.progress(number + 1, payload.steps)
            write(f"step {number}")
        return payload.steps


@job("checkpoints", max_attempts=20)
async def checkpoints(ctx: JobContext, payload: Steps) -> int:
    """Do some steps, and none again that an earlier attempt has kept."""
    with log_call(ctx) as write:
        for number in range(ctx.checkpoint_value or 0, payload.steps):
            await asyncio.sleep(payload.step_s)
            write(f"step {number}")
            await ctx.checkpoint(number + 1)
            write(f"saved {number}")
        return payload.steps


@job("deadly-checkpoints", max_attempts=10)
async def deadly_checkpoints(ctx: JobContext, payload: Steps) -> int:
    """Do some steps, and kill the worker the moment that one is kept."""
    with log_call(ctx) as write:
        for number in range(ctx.checkpoint_value or 0, payload.steps):
            write(f"step {number}")
            await ctx.checkpoint(number + 1)
            write(f"saved {number}")
            os.kill(os.getpid(), signal.SIGKILL)
        return payload.steps


@job("fails", max_attempts=20)
async def fails(ctx: JobContext, payload: Steps) -> None:
    """Do a step, and fail for good."""
    with log_call(ctx) as write:
        await asyncio.sleep(payload.step_s)
        write("step 0")
        raise Fail("The album is empty.")


@job("hopeless", max_attempts=20)
async def hopeless(ctx: JobContext, payload: Steps) -> None:
    """Fail at every attempt."""
    with log_call(ctx):
        raise Retry("The album is locked.", after_s=0)


@job("hold", max_attempts=20)
async def hold(ctx: JobContext, finish: str) -> int:
    """Go on until there is a file of that name; return the attempt that saw it."""
    with log_call(ctx) as write:
        while not Path(finish).exists():
            write("step")
            ctx.progress(ctx.attempt)
            await asyncio.sleep(TICK_S)
        return ctx.attempt


@job("hold-in-thread", max_attempts=20)
def hold_in_thread(ctx: JobContext, finish: str) -> int:
    """Go on in a thread until there is a file of that name; return the attempt that saw it."""
    return _hold(ctx, finish, os.getpid())


@job("hold-in-process", max_attempts=20, process=True)
def hold_in_process(ctx: JobContext, finish: str) -> int:
    """Go on in a process until there is a file of that name; return the attempt that saw it."""
    return _hold(ctx, finish, os.getppid())


def _hold(ctx: JobContext, finish: str, worker: int) -> int:
    with log_call(ctx, worker) as write:
        while not Path(finish).exists():
            write("step")
            ctx.progress(ctx.attempt)
            time.sleep(TICK_S)
        return ctx.attempt


@job("nap", max_attempts=20)
async def nap(ctx: JobContext, seconds: float) -> int:
    """Sleep; return the attempt that did."""
    with log_call(ctx):
        await asyncio.sleep(seconds)
        return ctx.attempt
