"""arq: a worker if the argument is its concurrency, or else a client. Results are not kept."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import uvloop
from arq.connections import RedisSettings, create_pool
from arq.worker import Worker

from bench.worker.commands import SLEEP_S, serve
from bench.worker.starts import record_start

REDIS = RedisSettings.from_dsn(os.environ["BENCH_REDIS_URL"])


async def noop(_ctx: dict[str, Any], at: int) -> None:
    """Do nothing."""
    record_start(at)


async def nap(_ctx: dict[str, Any], at: int) -> None:
    """Stay in flight until the worker ends."""
    record_start(at)
    await asyncio.sleep(SLEEP_S)


async def work(max_jobs: int) -> None:
    """Run jobs until the process ends."""
    await Worker(
        functions=[noop, nap],
        redis_settings=REDIS,
        max_jobs=max_jobs,
        keep_result=0,
        job_timeout=2 * SLEEP_S,
        handle_signals=False,
    ).main()


async def client() -> None:
    """Enqueue jobs on command."""
    pool = await create_pool(REDIS)
    await serve(lambda kind: pool.enqueue_job(kind, time.monotonic_ns()))


if __name__ == "__main__":
    uvloop.run(work(int(sys.argv[1])) if sys.argv[1:] else client())
