"""The handlers of Headway's worker: `WORKER_JOBS=bench.worker.jobs`."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from bench.worker.commands import SLEEP_S
from bench.worker.starts import record_start
from headway import JobContext, job


class Enqueued(Struct):
    """The time at which the job was enqueued: CLOCK_MONOTONIC, in nanoseconds."""

    at: int


@job("noop")
async def noop(_ctx: JobContext, payload: Enqueued) -> None:
    """Do nothing."""
    record_start(payload.at)


@job("nap")
async def nap(_ctx: JobContext, payload: Enqueued) -> None:
    """Stay in flight until the worker ends."""
    record_start(payload.at)
    await asyncio.sleep(SLEEP_S)
