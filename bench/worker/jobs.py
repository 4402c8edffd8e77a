"""The jobs of Headway's worker: `WORKER_JOBS=bench.worker.jobs`."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from bench.worker.orders import NAP_S
from bench.worker.starts import started
from headway import JobContext, job


class Enqueued(Struct):
    """When the job was enqueued, by CLOCK_MONOTONIC in nanoseconds."""

    at: int


@job("noop")
async def noop(_ctx: JobContext, payload: Enqueued) -> None:
    """Do nothing."""
    started(payload.at)


@job("nap")
async def nap(_ctx: JobContext, payload: Enqueued) -> None:
    """Be in flight for as long as it may."""
    started(payload.at)
    await asyncio.sleep(NAP_S)
