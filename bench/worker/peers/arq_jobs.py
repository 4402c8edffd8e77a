"""arq: with how many jobs at once its worker, without a number its client. Results are not kept."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import uvloop
from arq.connections import RedisSettings, create_pool
from arq.worker import Worker

from bench.worker.orders import NAP_S, serve
from bench.worker.starts import started

REDIS = RedisSettings.from_dsn(os.environ["BENCH_REDIS_URL"])


async def noop(_ctx: dict[str, Any], at: int) -> None:
    """Do nothing."""
    started(at)


async def nap(_ctx: dict[str, Any], at: int) -> None:
    """Be in flight for as long as it may."""
    started(at)
    await asyncio.sleep(NAP_S)


async def work(max_jobs: int) -> None:
    """Run jobs for ever."""
    await Worker(
        functions=[noop, nap],
        redis_settings=REDIS,
        max_jobs=max_jobs,
        keep_result=0,
        job_timeout=2 * NAP_S,
        handle_signals=False,
    ).main()


async def client() -> None:
    """Enqueue what is ordered."""
    pool = await create_pool(REDIS)
    await serve(lambda kind: pool.enqueue_job(kind, time.monotonic_ns()))


if __name__ == "__main__":
    uvloop.run(work(int(sys.argv[1])) if sys.argv[1:] else client())
