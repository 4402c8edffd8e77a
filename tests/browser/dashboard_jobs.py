"""The jobs that the dashboard of the tests shows. Each kind has something of its own to show."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from headway import Fail, JobContext, Retry, job


class ReportPlan(Struct):
    """The payload of a report: a form has a field for each of these."""

    title: str
    format: Literal["pdf", "csv", "html"] = "pdf"
    copies: Annotated[int, Meta(ge=1, le=20)] = 1
    regions: list[Literal["eu", "us", "asia"]] = []
    recipient: str | None = None
    draft: bool = False


class InvalidRow(Exception):
    """A row of a file cannot be imported."""


async def wait_for_file(path: str) -> None:
    """Wait until a test creates a file."""
    while not Path(path).exists():
        await asyncio.sleep(0.05)


@job("report")
async def report(_ctx: JobContext, plan: ReportPlan) -> ReportPlan:
    """Return the plan of the report."""
    return plan


@job("export", keep="always")
async def export(_ctx: JobContext, payload: dict[str, Any]) -> Any:
    """Return the result that the payload names."""
    return payload["result"]


@job("invoices")
async def invoices(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Show progress and run on until a file exists."""
    ctx.progress(payload["done"], payload["total"], message=payload.get("message"))
    await wait_for_file(payload["until"])


@job("import", max_attempts=3, backoff_s=0.1)
async def import_rows(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Read a file in a step, and fail in a row of the next step, at each attempt."""
    ctx.steps(4)
    with ctx.step("Read the file"):
        ctx.log.info("Reading %s, 400 rows", payload["file"])
        await ctx.checkpoint({"row": 200})
    with ctx.step("Import the rows", weight=3):
        ctx.progress(210, 400, message="Importing row 211")
        ctx.log.warning("\x1b[33mrow 211\x1b[0m is odd: <script>window.hacked = 1</script>")
        raise InvalidRow(f"{payload['file']}, row 211: 'twelve' is not a number")


@job("deliver", max_attempts=1)
async def deliver(_ctx: JobContext, payload: dict[str, str]) -> None:
    """Fail with a message for the user."""
    raise Fail(f"The address of {payload['to']} does not exist.")


@job("secret", max_attempts=1, keep="never")
async def secret(_ctx: JobContext, _payload: Any) -> None:
    """Fail, and keep no payload."""
    raise ValueError("the payload is not kept")


@job("sync")
async def sync(ctx: JobContext, _payload: Any) -> None:
    """Ask for another attempt in an hour."""
    ctx.progress(3, 10, message="Locking the ledger")
    raise Retry("The ledger is locked by another import.", after_s=3600)


@job("crawl")
async def crawl(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Count pages without a total and log them; with `until`, run on until a file exists, and log that it does."""
    for number in range(1, payload["pages"] + 1):
        ctx.progress(number, unit="pages")
        ctx.log.info("\x1b[32mGET\x1b[0m https://example.org/page-%d", number)
    if path := payload.get("until"):
        await wait_for_file(path)
        ctx.log.info("The catalogue is complete")


@job("flood", max_attempts=1)
async def flood(_ctx: JobContext, lines: int) -> None:
    """Fill the log of the job, and fail: the log of a failed job is kept whole."""
    for number in range(lines):
        print(f"{number:06} {'x' * 90}")  # noqa: T201 - into the log of the job
    raise Fail("The disk is full.")


@job("outage", max_attempts=1)
async def outage(_ctx: JobContext, _payload: Any) -> None:
    """Fail as many jobs do at once."""
    raise ConnectionError("The mail server does not answer.")
