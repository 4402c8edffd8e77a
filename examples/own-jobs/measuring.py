"""A job that uses a package which Headway's image does not contain."""

import asyncio

import humanize
from msgspec import Struct

from headway import JobContext, job


class Sizes(Struct):
    """The payload: sizes in bytes."""

    sizes: list[int]


@job("measure")
async def measure(ctx: JobContext, payload: Sizes) -> list[str]:
    """Format each size for people, such as `2.5 MB`."""
    texts = []
    async for size in ctx.track(payload.sizes, message="Measuring"):
        await asyncio.sleep(0.1)
        texts.append(humanize.naturalsize(size))
    return texts
