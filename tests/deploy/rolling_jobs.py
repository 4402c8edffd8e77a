"""Jobs for tests of rolling restarts, which version 0.1 also runs. Workers get this module as a mounted file."""

import asyncio
from pathlib import Path
from typing import Any

from headway import JobContext, job

STEP_S = 0.2
STEPS_PER_CHECKPOINT = 5


@job("walk")
async def walk(ctx: JobContext, payload: dict[str, str]) -> int:
    """Report a step five times a second until a file exists; go on from the checkpoint after a release."""
    step = ctx.checkpoint_value or 0
    while not Path(payload["finish"]).exists():
        await asyncio.sleep(STEP_S)
        step += 1
        ctx.progress(step, message="Walking")
        if step % STEPS_PER_CHECKPOINT == 0:
            await ctx.checkpoint(step)
    return step


@job("short")
async def short(_ctx: JobContext, _payload: Any) -> None:
    """Wait for the time of a step."""
    await asyncio.sleep(STEP_S)
