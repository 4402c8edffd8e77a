"""`python -m bench.index`: measure what records and lists cost when there are many jobs.

The notifier is unmodified: it builds the index of the records, and answers requests for pages.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import aiohttp
from redis.asyncio import Redis

from bench import meter
from bench.index.records import JOB_TTL_S, KINDS, load
from bench.index.transitions import index_us_per_job
from bench.notifier.servers import Server, SharedSetup, running_servers, shared_setup
from bench.notifier.systems import HEADWAY, System
from dev.environment import LOCAL
from headway.contracts import Timestamp
from headway.grants import ListGrant
from headway.labels import JobFilter

STATE_KEY = "headway:ix:{state}"
POLL_S = 1.0
PAGES = 50
QUERIES = {
    "all": "",
    "of an owner": "?owner=user:7",
    "of a kind": f"?kind={KINDS[3]}",
    "failed": "?status=failed",
    "failed of a kind": f"?status=failed&kind={KINDS[3]}",
    "running": "?status=running",
}
NOTIFIER = System(HEADWAY, (sys.executable, "-m", "services.notifier"), protocol="headway")


class PageCost(NamedTuple):
    """What a page of 50 jobs costs, in milliseconds of CPU, and how many jobs it has."""

    name: str
    notifier_ms: float
    redis_ms: float
    jobs: int


async def memory_per_job(redis: Redis, before: int, count: int) -> float:
    """Return the bytes that Redis uses for each job more than before."""
    return (int((await redis.info("memory"))["used_memory"]) - before) / count


async def wait_for_index(redis: Redis) -> None:
    """Wait until the notifier has built the index."""
    while not await redis.hexists(STATE_KEY, "rebuilt_at"):  # noqa: ASYNC110 - another process sets no event
        await asyncio.sleep(POLL_S)


async def measure_pages(setup: SharedSetup, server: Server, session: aiohttp.ClientSession) -> list[PageCost]:
    """Request the first page of each query many times."""
    now = Timestamp(time.time_ns() // 1_000_000)
    grant = ListGrant(
        filter=JobFilter(), issued_at=now, expires_at=now.after(3_600), scope=frozenset({"list", "operate"})
    )
    headers = {"Authorization": f"Bearer {setup.signer.sign(grant)}"}
    costs = []
    for name, query in QUERIES.items():
        url = f"http://{LOCAL}:{server.watch_port}/live/jobs{query}"
        before = meter.cpu_s(server.process.pid), meter.cpu_s(setup.redis.pid)
        for _ in range(PAGES):
            async with session.get(url, headers=headers) as response:
                response.raise_for_status()
                page = await response.json()
        after = meter.cpu_s(server.process.pid), meter.cpu_s(setup.redis.pid)
        notifier_ms, redis_ms = (1000 * (end - start) / PAGES for start, end in zip(before, after, strict=True))
        costs.append(PageCost(name, notifier_ms, redis_ms, len(page["jobs"])))
    return costs


async def run(folder: Path, count: int, listpack: int) -> None:
    """Measure, and print the results."""
    async with shared_setup(folder) as setup, Redis.from_url(setup.redis_url) as redis:
        await redis.config_set("hash-max-listpack-value", listpack)
        before = int((await redis.info("memory"))["used_memory"])
        await asyncio.to_thread(load, setup.redis_url, count)
        print(f"hash-max-listpack-value {listpack}: {await memory_per_job(redis, before, count):.0f} bytes per record")
        before = int((await redis.info("memory"))["used_memory"])
        async with (
            running_servers(NOTIFIER, 0, 1, setup, folder / "server") as (server,),
            aiohttp.ClientSession() as session,
        ):
            started = time.monotonic()
            await wait_for_index(redis)
            print(f"index: {await memory_per_job(redis, before, count):.0f} bytes per job,", end=" ")
            print(f"built in {time.monotonic() - started:.0f} s")
            print(f"index: {await index_us_per_job(redis, setup, server, session):.1f} µs of Redis per job")
            print(
                "| page of 50 jobs | CPU of the notifier, ms | CPU of Redis, ms | jobs |\n| --- | ---: | ---: | ---: |"
            )
            for cost in await measure_pages(setup, server, session):
                print(f"| {cost.name} | {cost.notifier_ms:.1f} | {cost.redis_ms:.1f} | {cost.jobs} |")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.index", description=f"Jobs live {JOB_TTL_S / 86_400:.0f} days."
    )
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--listpack", type=int, default=64, help="hash-max-listpack-value of Redis; 64 is its default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        asyncio.run(run(Path(temporary), args.jobs, args.listpack))


main()
