"""Jobs that end in all ways, and the job that follows them."""

from __future__ import annotations

import asyncio
from typing import Literal

from msgspec import Struct

from headway import Fail, JobContext, job
from headway.contracts import JobSnapshot
from tests.integration.handler_log import log_call

Plan = Literal["succeed", "fail", "crash", "wait"]


@job("note")
async def note(ctx: JobContext, ended: JobSnapshot) -> None:
    """Log which job has ended, and how."""
    with log_call(ctx) as log:
        log(f"of {ended.id} {ended.generation} {ended.status}")


class Followed(Struct):
    """How a job ends, and after how many seconds."""

    plan: Plan
    seconds: float


@job("followed", on_end=note, max_attempts=10, backoff_s=0.1)
async def followed(_ctx: JobContext, payload: Followed) -> None:
    """Follow the plan; with `wait`, run until the job is cancelled."""
    await asyncio.sleep(payload.seconds)
    if payload.plan == "fail":
        raise Fail("as planned")
    if payload.plan == "crash":
        raise ValueError("as planned")
    if payload.plan == "wait":
        await asyncio.Event().wait()
