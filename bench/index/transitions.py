"""What the index costs Redis for each job that is submitted, started and ended."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import aiohttp
from redis.asyncio import Redis

from bench import meter
from bench.notifier.servers import Server, SharedSetup
from dev.environment import LOCAL
from headway.contracts import MAX_REPORTS_PER_REQUEST, Timestamp

JOBS = 10_000
COMMANDS = ("zadd", "zrem", "zremrangebyrank", "pexpire")  # which nothing but the index uses
FLUSH_S = 1.0
LABELS = {"owner": "user:7", "tags": ["customer:7"]}


async def index_us_per_job(redis: Redis, setup: SharedSetup, server: Server, session: aiohttp.ClientSession) -> float:
    """Submit, start and end jobs, 500 in each request, and return the µs of Redis's CPU for the index.

    Redis measures its commands by the wall clock, so that they count only as shares of its CPU time.
    """
    ids = [str(uuid.uuid4()) for _ in range(JOBS)]
    await redis.config_resetstat()
    cpu_s = meter.cpu_s(setup.redis.pid)
    base = f"http://{LOCAL}:{server.report_port}"
    headers = {"Authorization": f"Bearer {setup.key}"}
    for start in range(0, JOBS, MAX_REPORTS_PER_REQUEST):
        group = ids[start : start + MAX_REPORTS_PER_REQUEST]
        for path, bodies in (
            ("submissions", [_submission(job_id) for job_id in group]),
            ("reports", [_report(job_id, "running", 1) for job_id in group]),
            ("reports", [_report(job_id, "succeeded", 2) for job_id in group]),
        ):
            async with session.post(f"{base}/{path}", data=json.dumps(bodies), headers=headers) as response:
                response.raise_for_status()
            await asyncio.sleep(FLUSH_S / 4)  # as between the transitions of a job
    await asyncio.sleep(FLUSH_S)
    cpu_s = meter.cpu_s(setup.redis.pid) - cpu_s
    statistics = await redis.info("commandstats")
    reads, scripts = (statistics[f"cmdstat_{name}"] for name in ("hmget", "evalsha"))
    index_us = sum(statistics[f"cmdstat_{name}"]["usec"] for name in COMMANDS)
    index_us += (reads["calls"] - scripts["calls"]) * reads["usec_per_call"]  # each script reads the record, too
    return float(1e6 * cpu_s * index_us / (index_us + scripts["usec"]) / JOBS)


def _submission(job_id: str) -> dict[str, Any]:
    now = Timestamp(time.time_ns() // 1_000_000)
    times = {"submitted_at": str(now), "expires_at": str(now.after(7 * 86_400))}
    return {"id": job_id, "kind": "kind-3", "labels": LABELS, **times}


def _report(job_id: str, status: str, sequence: int) -> dict[str, Any]:
    fields = {"job_id": job_id, "message_id": "m", "delivery": 1, "sequence": sequence, "status": status}
    return {**_submission(job_id), **fields}
