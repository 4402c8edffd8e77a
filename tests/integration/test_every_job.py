"""Lists have every job: what was submitted, by every filter, although all parts of the system are restarted meanwhile.

Long form, of 10,000 jobs: LONG=1 make test ARGS=tests/integration/test_every_job.py
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from headway.client import Client, ListedJob, RequestFailed
from headway.contracts import JobStatus, Timestamp
from tests.integration.listed_jobs import KINDS
from tests.stack import Stack, running
from tests.waiting import wait_until

JOBS = 10_000 if os.environ.get("LONG") == "1" else 500
OWNERS = tuple(f"user:{number}" for number in range(50))
TAGS = tuple(f"batch/{number}" for number in range(10))
SEED = 18
SUBMITTERS = 20  # tasks
ENDED: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")
RESTARTS = (
    ("notifier", signal.SIGKILL),
    ("worker", signal.SIGTERM),
    ("submitter", signal.SIGTERM),
    ("valkey", signal.SIGKILL),
    ("notifier", signal.SIGTERM),
)


class Expected(NamedTuple):
    """A job as it was submitted, and how it must appear in lists."""

    kind: str
    owner: str
    tags: frozenset[str]
    status: str
    attempts: int
    error_type: str | None
    name: str


PLANS: Mapping[str, tuple[str, int, str | None]] = {  # status, attempts, error
    "succeed": ("succeeded", 1, None),
    "fail": ("failed", 1, "Fail"),
    "recover": ("succeeded", 2, None),
    "give-up": ("failed", 2, "OutOfInk"),
    "hold": ("cancelled", 1, None),
    "wait": ("queued", 1, None),
    "withdraw": ("cancelled", 1, None),
}
WEIGHTS = {"succeed": 50, "fail": 10, "recover": 10, "give-up": 10, "hold": 2, "wait": 10, "withdraw": 8}


class Population:
    """The jobs that were submitted, by id."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self.stack = stack
        self.random = random.Random(seed)
        self.jobs: dict[str, Expected] = {}

    async def submit_all(self, count: int) -> None:
        """Submit jobs from several tasks, and cancel those that must not end by themselves."""
        numbers = iter(range(count))
        await asyncio.gather(*(self._submit(numbers) for _ in range(SUBMITTERS)))

    async def _submit(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            (plan,) = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))
            status, attempts, error_type = PLANS[plan]
            tags = self.random.sample(TAGS, self.random.randrange(4))
            job = Expected(
                self.random.choice(KINDS),
                self.random.choice(OWNERS),
                frozenset(tags),
                status,
                attempts,
                error_type,
                f"Letter {number}",
            )
            delay = {"delay_s": 3600} if plan in ("wait", "withdraw") else {}
            receipt = await self.stack.submit_persistently(
                job.kind, plan, owner=job.owner, tags=tags, name=job.name, **delay
            )
            self.jobs[receipt["id"]] = job
            if status == "cancelled":
                await self._cancel(receipt, once_running=plan == "hold")

    async def _cancel(self, receipt: dict[str, Any], *, once_running: bool) -> None:
        async for snapshot in self.stack.watch(receipt["token"]):
            if snapshot["status"] == "running" or not once_running:
                break
        await self.stack.cancel_persistently(receipt)

    def has_submitted(self, count: float) -> bool:
        """Return whether so many jobs have been submitted."""
        return len(self.jobs) >= count

    def ids(self, **query: Any) -> set[str]:
        """Return the jobs that a query must select."""
        return {job_id for job_id, job in self.jobs.items() if _selects(job, **query)}


def _selects(
    job: Expected,
    *,
    owner: str | None = None,
    tag: str | Collection[str] = (),
    kind: str | None = None,
    status: Collection[str] = (),
    attempts_min: int = 1,
    error_type: str | None = None,
) -> bool:
    return (
        owner in (None, job.owner)
        and ({tag} if isinstance(tag, str) else set(tag)) <= job.tags
        and kind in (None, job.kind)
        and (not status or job.status in status)
        and job.attempts >= attempts_min
        and error_type in (None, job.error_type)
    )


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the whole system with the kinds of these tests."""
    folder: Path = tmp_path_factory.mktemp("every-job")
    env = {"WORKER_JOBS": "tests.integration.listed_jobs", "LEASE_S": "4", "SUBMIT_RATE": "10000"}
    async with running(folder, **env) as stack:
        yield stack


@pytest.fixture(scope="module")
async def population(stack: Stack) -> Population:
    """Submit all jobs while each part of the system is restarted, and wait until they have ended and are listed."""
    population = Population(stack, SEED)
    submitting = asyncio.create_task(population.submit_all(JOBS))
    for step, (name, signal_number) in enumerate(RESTARTS, 1):
        share = step / (len(RESTARTS) + 2)
        await wait_until(partial(population.has_submitted, share * JOBS))
        await stack.kill(name, signal_number)
    await submitting
    async with Client(stack.url) as client:
        await wait_until(partial(_has_ended, client, population), poll_s=0.5)
    return population


async def _has_ended(client: Client, population: Population) -> bool:
    """Return whether the lists have all jobs that end, and claim to be complete."""
    try:
        page = await client.jobs_page(limit=1)
        ids = {str(job.id) async for job in client.jobs(status=ENDED)}
    except RequestFailed:  # a part of the system is still starting
        return False
    return page.complete and ids == population.ids(status=ENDED)


QUERIES: list[dict[str, Any]] = [
    {},
    *[{"kind": kind} for kind in KINDS],
    *[{"tag": tag} for tag in TAGS[:3]],
    {"tag": TAGS[:2]},
    *[{"status": [status]} for status in ("queued", "running", "retrying", *ENDED)],
    {"status": ["queued", "failed"]},
    {"status": ENDED, "kind": KINDS[3]},
    {"attempts_min": 2},
    {"status": ["failed"], "error_type": "OutOfInk"},
    {"error_type": "Fail", "tag": TAGS[4]},
    {"owner": OWNERS[7], "status": ["succeeded"]},
    {"owner": OWNERS[8], "kind": KINDS[1], "tag": TAGS[1]},
]


@pytest.mark.parametrize("limit", [23, 200])
async def test_pages_have_what_was_submitted(stack: Stack, population: Population, limit: int) -> None:
    """The pages of each filter have exactly its jobs, each once, the newest first."""
    async with Client(stack.url) as client:
        for query in QUERIES:
            if limit == 23 and len(population.ids(**query)) > 1_000:
                continue
            listed: list[ListedJob] = []
            cursor = None
            while True:
                page = await client.jobs_page(limit=limit, cursor=cursor, **query)
                assert page.complete
                listed += page.jobs
                if (cursor := page.next) is None:
                    break
            ids = [str(job.id) for job in listed]
            assert len(ids) == len(set(ids)), query
            assert set(ids) == population.ids(**query), query
            by_end = bool(query.get("status")) and set(query["status"]) <= set(ENDED)
            times = [job.finished_at if by_end else job.submitted_at for job in listed]
            assert times == sorted(times, reverse=True, key=lambda time: time or Timestamp(0)), query
            for job in listed:
                expected = population.jobs[str(job.id)]
                assert (job.name, job.kind, job.status) == (expected.name, expected.kind, expected.status)


async def test_a_time_range_splits_a_list(stack: Stack, population: Population) -> None:
    """`since` and `until` select by the time of the order, without a gap and without a job twice."""
    async with Client(stack.url) as client:
        statuses: list[list[JobStatus]] = [[], ["failed"]]
        for status in statuses:
            jobs = [job async for job in client.jobs(status=status)]
            middle = jobs[len(jobs) // 2]
            time = middle.finished_at if status else middle.submitted_at
            newer = {str(job.id) async for job in client.jobs(status=status, since=time)}
            older = {str(job.id) async for job in client.jobs(status=status, until=time)}
            assert newer
            assert older
            assert not newer & older
            assert newer | older == population.ids(status=status)


async def test_an_owner_sees_only_own_jobs(stack: Stack, population: Population) -> None:
    """The token of an owner lists all of the owner's jobs, and opens no other."""
    async with Client(stack.url) as client:
        foreign = itertools.cycle(population.jobs)
        for owner in OWNERS:
            token = (await client.list_token(owner=owner)).token
            ids = {str(job.id) async for job in client.jobs(token)}
            assert ids == population.ids(owner=owner)
            other = next(job_id for job_id in foreign if population.jobs[job_id].owner != owner)
            async with stack.session.get(
                f"{stack.env['LIVE_URL']}/live/jobs/{other}", headers={"Authorization": f"Bearer {token}"}
            ) as response:
                assert (response.status, (await response.json())["code"]) == (403, "forbidden")


async def test_counts(stack: Stack, population: Population) -> None:
    """The numbers of waiting and failed jobs are right after a sweep."""
    expected = (len(population.ids(status=["queued"])), 0, len(population.ids(status=["failed"])))

    async def are_right() -> bool:
        about = (await client.jobs_page(limit=1)).about
        assert about is not None
        return (about.waiting, about.running, about.failed_24h) == expected

    async with Client(stack.url) as client:
        await wait_until(are_right, poll_s=0.5)
