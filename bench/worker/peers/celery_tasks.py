"""Celery: `celery --app bench.worker.peers.celery_tasks worker`; as a module, its client.

At least once (`acks_late`), and nobody is told anything (no result backend); the rest is as it comes.
"""

from __future__ import annotations

import asyncio
import os
import time

from celery import Celery

from bench.worker.orders import NAP_S, serve
from bench.worker.starts import started

app = Celery("bench", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


def noop(at: int) -> None:
    """Do nothing."""
    started(at)


def nap(at: int) -> None:
    """Be in flight for as long as it may."""
    started(at)
    time.sleep(NAP_S)


TASKS = {handler.__name__: app.task(name=handler.__name__)(handler) for handler in (noop, nap)}


async def enqueue(kind: str) -> None:
    """Enqueue one job; Celery's client blocks."""
    TASKS[kind].delay(time.monotonic_ns())


if __name__ == "__main__":
    asyncio.run(serve(enqueue))
