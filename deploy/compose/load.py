"""Submit jobs and watch each of them to its end, so that the dashboards have something to show.

The profile `load` of compose.yaml runs it. It is configured with environment variables: LOAD_URL and LOAD_LIVE_URL, the
addresses of submitter and notifier, and LOAD_JOBS_PER_S, how many jobs it submits each second on average.
"""

from __future__ import annotations

import asyncio
import os
import random

from headway.client import Client

MAX_WATCHED = 200  # jobs; no more are submitted until one of them has ended
STEPS, STEP_S = (5, 50), 0.2  # the countdown of each job


async def run_job(client: Client, live_url: str, watched: asyncio.Semaphore) -> None:
    """Submit one job and watch it until it has ended."""
    async with watched:
        receipt = await client.submit("countdown", {"steps": random.randint(*STEPS), "delay_s": STEP_S}, name="Load")  # noqa: S311
        async for _snapshot in client.watch(f"{live_url}/live/jobs/{receipt.id}#{receipt.token}"):
            pass


async def main(url: str, live_url: str, jobs_per_s: float) -> None:
    """Start jobs at random times, until cancelled; end with an exception if the services stay unreachable."""
    watched = asyncio.Semaphore(MAX_WATCHED)
    async with Client(url) as client, asyncio.TaskGroup() as group:
        while True:
            if not watched.locked():
                group.create_task(run_job(client, live_url, watched))
            await asyncio.sleep(random.expovariate(jobs_per_s))


if __name__ == "__main__":
    asyncio.run(main(os.environ["LOAD_URL"], os.environ["LOAD_LIVE_URL"], float(os.environ["LOAD_JOBS_PER_S"])))
