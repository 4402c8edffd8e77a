"""`python -m bench.worker.silent`: the cost of a thousand silent running jobs, and how fast they are cancelled.

`HEARTBEAT_S` and the other settings come from the environment, so that two of them, or two versions, can take turns.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from uuid import UUID

import aiohttp
from redis.asyncio import Redis

from bench.figures import percentile
from bench.worker.stores import Stores, stores
from bench.worker.subject import WARMUP_JOBS, Subject
from bench.worker.systems import IN_FLIGHT, systems
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner

SETTLE_S = 15.0  # more than a heartbeat: by then the jobs share their requests
MEASURE_S = 30.0
CANCELS = 50
WATCHED_AFTER_S = 0.5


class Canceller:
    """A client that cancels running jobs and watches them end."""

    def __init__(self, env: dict[str, str], folder: Path, session: aiohttp.ClientSession) -> None:
        self._url = env["NOTIFIER_URL"]
        self._signer = TokenSigner((folder / "keys/token.pem").read_text())
        self._session = session

    async def latency_ms(self, job_id: str) -> float:
        """Cancel a job; return the time until its handler has stopped and the client knows that."""
        now = Timestamp.now()
        token = self._signer.sign(Grant(job_id=UUID(job_id), kind="nap", submitted_at=now, expires_at=now.after(600)))
        async with self._session.ws_connect(f"{self._url}/live") as socket:
            await socket.send_json({"watch": token})
            await asyncio.sleep(WATCHED_AFTER_S)
            sent_at = time.monotonic()
            await socket.send_json({"cancel": job_id})
            while (await socket.receive_json()).get("job", {}).get("status") != "cancelled":
                pass
            return (time.monotonic() - sent_at) * 1000


async def running_jobs(redis_url: str) -> list[str]:
    """Return the ids of the running jobs."""
    async with Redis.from_url(redis_url) as redis, redis.pipeline(transaction=False) as pipeline:
        keys = [key.decode() async for key in redis.scan_iter("headway:job:*")]
        for key in keys:
            pipeline.hget(key, "status")
        statuses = await pipeline.execute()
    running = [key for key, status in zip(keys, statuses, strict=True) if status == b'"running"']
    return [key.partition("{")[2].rstrip("}") for key in running]


async def measure(subject: Subject, stores: Stores, folder: Path) -> dict[str, float]:
    """Measure the CPU time of the running jobs in percent of a core, and the latency of cancellations."""
    async with subject.client() as client:
        await client.enqueue("nap", IN_FLIGHT)
    await subject.wait_started(WARMUP_JOBS + IN_FLIGHT)
    await asyncio.sleep(SETTLE_S)
    before = subject.cpu_s(), stores.cpu_s("notifier"), stores.cpu_s("valkey")
    await asyncio.sleep(MEASURE_S)
    after = subject.cpu_s(), stores.cpu_s("notifier"), stores.cpu_s("valkey")
    names = ("worker, %", "notifier, %", "Redis, %")
    used = {name: (end - start) / MEASURE_S * 100 for name, start, end in zip(names, before, after, strict=True)}
    async with aiohttp.ClientSession() as session:
        canceller = Canceller(stores.env, folder, session)
        job_ids = await running_jobs(stores.env["REDIS_URL"])
        latencies = [await canceller.latency_ms(job_id) for job_id in job_ids[:CANCELS]]
    return used | {f"cancel p{percent}, ms": percentile(latencies, percent) for percent in (50, 95)}


async def main() -> None:
    """Run the stores, the services and a worker; print the figures."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        async with stores(folder) as running:
            await running.clear()
            system = systems()[0]._replace(concurrency=IN_FLIGHT)
            async with Subject.running(system, running, folder / "worker") as subject:
                figures = await measure(subject, running, folder)
    print(", ".join(f"{name}: {value:.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    asyncio.run(main())
