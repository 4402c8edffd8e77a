"""The jobs that the pictures show. Each of them does what its name says, in a few seconds."""

from __future__ import annotations

import asyncio
import itertools
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from headway import JobContext, Retry, job

ROWS = 400
ODD_ROW = 211
CLIP_FRAMES = 200


class ReportPlan(Struct):
    """The payload of a report, from which the dashboard makes its form."""

    title: str
    regions: list[Literal["Europe", "America", "Asia"]]
    format: Literal["pdf", "csv", "html"] = "pdf"
    copies: Annotated[int, Meta(ge=1, le=20)] = 1
    recipient: str | None = None
    draft: bool = False


class InvalidRow(Exception):
    """A row of a file cannot be imported."""


def parse_amount(number: int, text: str) -> int:
    """Return an amount of a row.

    Raises:
        InvalidRow: the text is no number.
    """
    if not text.isdigit():
        raise InvalidRow(f"row {number}: {text!r} is not a number")
    return int(text)


@job("invoices")
async def invoices(ctx: JobContext, payload: dict[str, int]) -> None:
    """Write invoices from one on, and log each."""
    for number in range(payload["first"], ROWS):
        ctx.progress(number, ROWS, message=f"Writing invoice {2600 + number}", unit="invoices")
        ctx.log.info("invoice_written", extra={"number": 2600 + number, "customer": number * 7919 % 500})
        if number % 12 == 0:
            ctx.log.warning("\x1b[33mcustomer %d has no postcode\x1b[0m", number * 7919 % 500)
        await asyncio.sleep(1)


@job("crawl")
async def crawl(ctx: JobContext, payload: dict[str, int]) -> None:
    """Count pages, whose total is unknown."""
    for number in itertools.count(payload["first"]):
        ctx.progress(number, message=f"/catalogue/{number}", unit="pages")
        ctx.log.info("\x1b[32mGET\x1b[0m /catalogue/%d", number)
        await asyncio.sleep(0.7)


@job("transcode", max_attempts=3, backoff_s=1)
async def transcode(ctx: JobContext, _payload: Any) -> None:
    """Lose the encoder once; then encode some frames and stand still."""
    if ctx.attempt == 1:
        await asyncio.sleep(2)
        raise Retry("The encoder has been restarted.", after_s=1)
    for number in range(CLIP_FRAMES):
        ctx.progress(number, CLIP_FRAMES * 5 // 3, message="Encoding 1080p", unit="frames")
        await asyncio.sleep(0.02)
    await asyncio.Event().wait()


@job("import", max_attempts=3, backoff_s=2)
async def import_rows(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Read a file, and fail at an odd row of it."""
    ctx.steps(4)
    first = (ctx.checkpoint_value or {}).get("row", 0)
    with ctx.step("Read the file"):
        ctx.log.info("Reading %s, %d rows", payload["file"], ROWS)
        await asyncio.sleep(0.8)
    with ctx.step("Import the rows", weight=3):
        if first:
            ctx.log.info("Resumed after row %d from the checkpoint", first)
        for number in range(first, payload["odd_row"]):
            ctx.progress(number, ROWS, message=f"Importing row {number}", unit="rows")
            await asyncio.sleep(0.02)
        await ctx.checkpoint({"row": payload["odd_row"] // 100 * 100})
        ctx.log.info("%d rows imported", payload["odd_row"] - 1)
        ctx.log.error("row %d: 'twelve' is not a number", payload["odd_row"])
        parse_amount(payload["odd_row"], "twelve")


@job("sync")
async def sync(ctx: JobContext, _payload: Any) -> None:
    """Ask for another attempt."""
    ctx.progress(3, 10, message="Locking the ledger")
    await asyncio.sleep(1)
    raise Retry("The ledger is locked by another import.", after_s=240)


@job("export", keep="always")
async def export(ctx: JobContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Write a file and return its address."""
    async for _ in ctx.track(range(60), message="Writing", unit="orders"):
        await asyncio.sleep(0.05)
    file = {"name": f"{payload['year']}.zip", "bytes": 48_120_733}
    return {"archive": f"https://files.example.com/orders-{payload['year']}.zip", "file": file, "orders": 12_480}


@job("thumbnails")
async def thumbnails(ctx: JobContext, payload: dict[str, int]) -> dict[str, int]:
    """Resize photos."""
    async for _ in ctx.track(range(payload["photos"]), message="Resizing", unit="photos"):
        await asyncio.sleep(0.4)
    return {"resized": payload["photos"]}


@job("report")
async def report(ctx: JobContext, _plan: ReportPlan) -> None:
    """Render pages."""
    async for _ in ctx.track(range(24), message="Rendering", unit="pages"):
        await asyncio.sleep(0.1)
