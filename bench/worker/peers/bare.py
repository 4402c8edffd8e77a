"""The bare loop: only receives and deletes, with the SDK options, event loop and poll intervals of Headway's worker.

It decodes as much of a message as it needs to record the start. It sends no reports and renews no leases.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from typing import Any

import msgspec
import uvloop
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from bench.worker.starts import record_start
from headway.azure.job_queue import API_VERSION, MAX_PAGE

LEASE_S = 600
POLL_MIN_S, POLL_MAX_S = 0.1, 0.5
OPTIONS: dict[str, Any] = {
    "api_version": API_VERSION,
    "use_env_settings": False,
    "connection_timeout": 5,
    "read_timeout": 15,
    "retry_total": 2,
    "initial_backoff": 0.3,
    "increment_base": 0,
    "random_jitter_range": 0.2,
}


async def consume(queue: QueueClient, concurrency: int) -> None:
    """Receive as many messages as there are free slots, and handle each in its own task, until cancelled."""
    tasks: set[asyncio.Task[None]] = set()
    freed = asyncio.Event()

    def done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        freed.set()

    empty = 0
    while True:
        free = concurrency - len(tasks)
        if free <= 0:
            freed.clear()
            await freed.wait()
            continue
        page = await _page(queue, min(free, MAX_PAGE))
        for message in page:
            task = asyncio.create_task(_handle(queue, message))
            tasks.add(task)
            task.add_done_callback(done)
        empty = 0 if page else empty + 1
        if empty:
            await asyncio.sleep(min(POLL_MAX_S, POLL_MIN_S * 2 ** min(empty - 1, 8)))


async def _page(queue: QueueClient, count: int) -> list[Any]:
    async for page in queue.receive_messages(messages_per_page=count, visibility_timeout=LEASE_S).by_page():
        return [message async for message in page]
    return []


async def _handle(queue: QueueClient, message: Any) -> None:
    record_start(msgspec.json.decode(base64.b64decode(message.content))["payload"]["at"])
    await queue.delete_message(message.id, message.pop_receipt)


async def main(concurrency: int) -> None:
    """Consume the queue named by the environment."""
    async with QueueServiceClient.from_connection_string(os.environ["QUEUE_CONNECTION_STRING"], **OPTIONS) as service:
        await consume(service.get_queue_client(os.environ["QUEUE_NAME"]), concurrency)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
