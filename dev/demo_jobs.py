"""The jobs of `make demo`, which show each kind of progress and each outcome."""

import asyncio
import itertools
from typing import Any

from headway import Fail, JobContext, job


@job("thumbnails")
async def thumbnails(ctx: JobContext, payload: dict[str, int]) -> dict[str, int]:
    """Report each photo, with the number of photos that are finished."""
    async for number in ctx.track(range(payload["photos"]), message="Resizing", unit="photos"):
        ctx.progress(number, payload["photos"], f"Resizing photo-{number:03}.jpg", unit="photos")
        await asyncio.sleep(0.1)
    return {"resized": payload["photos"]}


@job("crawl")
async def crawl(ctx: JobContext, payload: dict[str, int]) -> str:
    """Report progress whose total is unknown."""
    for pages in itertools.count(1):
        ctx.progress(pages, message=f"https://example.com/{pages}", unit="pages")
        await asyncio.sleep(0.15)
        if pages == payload["pages"]:
            break
    return f"Found {payload['pages']} pages"


@job("import")
async def import_rows(ctx: JobContext, payload: dict[str, int]) -> None:
    """Fail after two thirds of the rows."""
    async for row in ctx.track(range(payload["rows"]), message="Importing", unit="rows"):
        await asyncio.sleep(0.05)
        if row == payload["rows"] * 2 // 3:
            raise Fail(f"row {row}: 'twelve' is not a number")


@job("video")
async def video(ctx: JobContext, _payload: Any) -> None:
    """Run until it is cancelled."""
    async for _ in ctx.track(range(10_000), message="Encoding", unit="frames"):
        await asyncio.sleep(0.005)
