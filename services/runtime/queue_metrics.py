"""The metrics of the queue. Both submitter and worker measure it, so that a system without workers has them, too.

They are updated in the background, so that a scrape does no I/O.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog
from prometheus_client import Gauge

from headway.azure.job_queue import JobQueue, QueueError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MEASURE_INTERVAL_S = 15.0

QUEUE_MESSAGES = Gauge(
    "jobs_queue_messages", "About how many messages are on the queue, including leased and delayed ones?", ["queue"]
)
QUEUE_AGE = Gauge(
    "jobs_queue_oldest_message_age_seconds",
    "How old is the next visible message (0 if no message is visible)?",
    ["queue"],
)
POISON_MESSAGES = Gauge("jobs_poison_messages", "About how many messages are on the poison queue?", ["queue"])


async def monitor_queue_depth(queue: JobQueue, on_measured: Callable[[int | None], None] = lambda _count: None) -> None:
    """Update the metrics every 15 s, until cancelled; on an error they keep their last values.

    Args:
        queue: the queue.
        on_measured: called with about how many messages the queue has, None if that is unknown.
    """
    available = True
    while True:
        try:
            depth = await queue.depth()
        except QueueError as error:
            if available:  # the queue is unavailable, or the client's role does not include reading it
                log.warning("queue_depth_unavailable", error=type(error).__name__)
            available = False
            on_measured(None)
        else:
            available = True
            on_measured(depth.messages)
            QUEUE_MESSAGES.labels(queue.name).set(depth.messages)
            QUEUE_AGE.labels(queue.name).set(depth.oldest_age_s)
            POISON_MESSAGES.labels(queue.name).set(depth.poison_messages)
        await asyncio.sleep(MEASURE_INTERVAL_S * random.uniform(0.9, 1.1))  # noqa: S311
