"""Celery: `celery --app bench.worker.peers.celery_tasks worker` is the worker; as a program, the module is its client.

Delivery is at least once (`acks_late`), without a result backend; the rest is Celery's default.
"""

from __future__ import annotations

import asyncio
import os
import time

from celery import Celery

from bench.worker.commands import SLEEP_S, serve
from bench.worker.starts import record_start

app = Celery("bench", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


def noop(at: int) -> None:
    """Do nothing."""
    record_start(at)


def nap(at: int) -> None:
    """Stay in flight until the worker ends."""
    record_start(at)
    time.sleep(SLEEP_S)


TASKS = {handler.__name__: app.task(name=handler.__name__)(handler) for handler in (noop, nap)}


async def enqueue(kind: str) -> None:
    """Enqueue one job. Celery's client blocks the event loop meanwhile."""
    TASKS[kind].delay(time.monotonic_ns())


if __name__ == "__main__":
    asyncio.run(serve(enqueue))
