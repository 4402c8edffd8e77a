"""The queue depth metrics, updated in the background so that a scrape does no I/O."""

from __future__ import annotations

import asyncio
import random

import structlog
from azure.core.exceptions import AzureError

from headway.azure.job_queue import JobQueue
from headway.contracts import Timestamp

from . import metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MEASURE_INTERVAL_S = 15.0


async def monitor_queue_depth(queue: JobQueue) -> None:
    """Update the metrics every 15 s, until cancelled; on an error they keep their last values."""
    while True:
        try:
            depth = await queue.depth()
        except AzureError as error:
            log.debug("queue_depth_unavailable", error=type(error).__name__)
        else:
            age_ms = 0 if depth.oldest_at is None else max(0, Timestamp.now() - depth.oldest_at)
            metrics.QUEUE_MESSAGES.labels(queue.name).set(depth.messages)
            metrics.QUEUE_AGE.labels(queue.name).set(age_ms / 1000)
            metrics.POISON_MESSAGES.labels(queue.name).set(depth.poison_messages)
        await asyncio.sleep(MEASURE_INTERVAL_S * random.uniform(0.9, 1.1))  # noqa: S311
