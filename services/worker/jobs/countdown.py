"""The `countdown` demo job: it waits, and its progress bar fills in equal steps."""

import asyncio
from typing import Annotated

from msgspec import Meta, Struct

from headway import JobContext, job


class Countdown(Struct):
    """The payload: the number of steps, and the duration of each in seconds."""

    steps: Annotated[int, Meta(ge=1, le=10_000)] = 10
    delay_s: Annotated[float, Meta(ge=0, le=3600)] = 0.4


@job("countdown")
async def countdown(ctx: JobContext, payload: Countdown) -> str:
    """Report the percentage after each step, up to 100, and return a sentence with the number of steps."""
    for step in range(1, payload.steps + 1):
        await asyncio.sleep(payload.delay_s)
        ctx.progress(round(100 * step / payload.steps, 2), 100, f"Step {step} of {payload.steps}", unit="%")
    return f"Counted {payload.steps} steps"
