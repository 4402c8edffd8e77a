"""The client of Headway and of the bare loop: sends to the queue directly, or submits jobs over HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from uuid import uuid4

import aiohttp
from azure.core.exceptions import AzureError

from bench.worker.commands import serve
from headway.azure.job_queue import JobQueue
from headway.contracts import JobMessage, Json, Timestamp
from headway.message_codec import encode_message

TTL_S = 3600.0
CONCURRENCY = 8  # sends at the same time, so that filling the queue does not take longer than emptying it


async def fill() -> None:
    """Send messages to the queue and then a wake-up to the workers, as the submitter does."""
    async with (
        JobQueue.connect(os.environ["QUEUE_CONNECTION_STRING"], os.environ["QUEUE_NAME"]) as queue,
        aiohttp.ClientSession() as session,
    ):

        async def wake_worker() -> None:
            async with session.post(f"{os.environ['NOTIFIER_INTERNAL_URL']}/wake") as response:
                await response.read()

        async def enqueue(kind: str) -> None:
            now, payload = Timestamp.now(), Json(b'{"at": %d}' % time.monotonic_ns())
            message = JobMessage(id=uuid4(), kind=kind, payload=payload, submitted_at=now, expires_at=now.after(TTL_S))
            while True:
                try:
                    return await queue.send(encode_message(message))
                except AzureError:  # a busy machine resets connections
                    await asyncio.sleep(0.5)

        await serve(enqueue, CONCURRENCY, wake_worker)


async def submit() -> None:
    """Post jobs to the submitter, one at a time."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:

        async def enqueue(kind: str) -> None:
            body = {"kind": kind, "payload": {"at": time.monotonic_ns()}}
            async with session.post(f"{os.environ['SUBMITTER_URL']}/jobs", json=body) as response:
                await response.read()

        await serve(enqueue)


if __name__ == "__main__":
    asyncio.run({"queue": fill, "submitter": submit}[sys.argv[1]]())
