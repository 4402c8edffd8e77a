"""Eight kinds of jobs for the tests of lists: a payload says how a job of any of them ends."""

from __future__ import annotations

import asyncio
from typing import Literal

from headway import Fail, JobContext, job

KINDS = tuple(f"kind-{number}" for number in range(8))
Plan = Literal["succeed", "fail", "recover", "give-up", "hold"]


class OutOfInk(Exception):
    """The error of an attempt."""


async def run(ctx: JobContext, plan: Plan) -> str:
    """Follow the plan; with `hold`, run until the job is cancelled."""
    if plan == "fail":
        raise Fail("The address does not exist.")
    if plan == "give-up" or (plan == "recover" and ctx.attempt == 1):
        raise OutOfInk("There is no ink.")
    if plan == "hold":
        await asyncio.Event().wait()
    return plan


# A worker finds jobs that are attributes of the module.
kind_0, kind_1, kind_2, kind_3, kind_4, kind_5, kind_6, kind_7 = (
    job(kind, max_attempts=2, backoff_s=0.1)(run) for kind in KINDS
)
