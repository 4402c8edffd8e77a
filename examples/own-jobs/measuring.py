"""A job of one's own, with a package that Headway does not have."""

import asyncio

import humanize
from msgspec import Struct

from headway import JobContext, job


class Measure(Struct):
    """Sizes in bytes."""

    sizes: list[int]


@job("measure")
async def measure(ctx: JobContext, payload: Measure) -> list[str]:
    """Say each size as people do."""
    told = []
    async for size in ctx.track(payload.sizes, message="Measuring"):
        await asyncio.sleep(0.1)
        told.append(humanize.naturalsize(size))
    return told
