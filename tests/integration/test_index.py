"""The index of all jobs equals a scan of the records, whatever happens to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from structlog.testing import capture_logs

from headway.contracts import ENDED, JobStatus, Timestamp
from headway.labels import JobFilter, Labels
from services.notifier.records.index import sweeper
from services.notifier.records.index.entries import IndexedRecord, shard_of
from services.notifier.records.index.keys import HOUR_MS, WAITING, hour_of, index_key, member_of
from services.notifier.records.index.oldest import read_oldest
from services.notifier.records.index.query import JobQuery
from services.notifier.records.index.reader import IndexReader, JobCounts, Page
from services.notifier.records.index.state import STATE_KEY
from services.notifier.records.keys import job_key
from services.notifier.records.record_read import RecordRead
from services.notifier.redis_client.topology import RedisClient
from services.notifier.redis_client.url import redis_from_url
from tests.integration.index_world import IndexWorld
from tests.integration.redis_servers import RedisCluster
from tests.waiting import PATIENCE_S, wait_until

LONG = bool(os.environ.get("LONG"))
EVENTS = (
    [IndexWorld.change_jobs] * 8
    + [IndexWorld.flush] * 4
    + [
        IndexWorld.crash,
        IndexWorld.expire,
        IndexWorld.lose_keys,
        IndexWorld.replace_keys,
        IndexWorld.add_foreign_members,
        IndexWorld.lose_state,
        IndexWorld.sweep,
    ]
)


@pytest.fixture
async def client(redis: Redis, stores: dict[str, str]) -> AsyncIterator[RedisClient]:
    """Yield a client of the emptied Valkey."""
    async with redis_from_url(stores["REDIS_URL"]) as client:
        yield client


async def check_random_histories(client: RedisClient, seeds: range) -> None:
    """After any events and a sweep, the pages of every query are those of a scan of the records."""
    for seed in seeds:
        world = IndexWorld(client, seed)
        await world.change_jobs()
        history = [world.random.choice(EVENTS) for _ in range(world.random.randrange(5, 30))]
        for event in history:
            await event(world)
        await world.sweep()
        for query in world.queries():
            names = [event.__name__ for event in history]
            assert await world.listed(query) == world.expected(query), (seed, query, names)
        await world.sweep()  # a page may have found a key of another type, as the sign of a loss
        assert (await world.replicas[0].state.read()).complete
        await world.expire_all()


async def test_lists_equal_the_records(client: RedisClient) -> None:
    """On one server."""
    await check_random_histories(client, range(200 if LONG else 10))


async def test_lists_equal_the_records_in_a_cluster(tmp_path: Path) -> None:
    """On a cluster, where the sets are on several nodes."""
    async with RedisCluster.running(tmp_path) as cluster, redis_from_url(cluster.url) as client:
        await client.refresh_slots()
        await check_random_histories(client, range(60 if LONG else 3))


@pytest.fixture
def world(client: RedisClient) -> IndexWorld:
    """Return an empty world."""
    return IndexWorld(client)


async def pages(world: IndexWorld, query: JobQuery) -> list[Page]:
    """Return all pages of a query."""
    found = [await world.reader.page(query)]
    while found[-1].next is not None:
        found.append(await world.reader.page(replace(query, cursor=found[-1].next)))
    return found


def record(world: IndexWorld, age_ms: int, status: JobStatus = "queued", **labels: Any) -> IndexedRecord:
    """Return a record of a job that was submitted `age_ms` ago, and has ended at that time if its status is final."""
    submitted_at = Timestamp(world.now - age_ms)
    finished_at = submitted_at if status in ENDED else None
    return IndexedRecord(status, "letters", submitted_at, 1, finished_at, None, Labels(**labels))


@pytest.fixture
def short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the list of an owner to 60 jobs, and 10 to spare."""
    for module in ("changes", "page_read"):
        monkeypatch.setattr(f"services.notifier.records.index.{module}.MAX_LISTED", 60)
    monkeypatch.setattr("services.notifier.records.index.changes.SPARE_LISTED", 10)


@pytest.mark.usefixtures("short_lists")
async def test_an_owner_has_more_jobs_than_a_list(world: IndexWorld) -> None:
    """Older ones are found by their kind, in the same order, also when some jobs of the list have expired."""
    statuses: tuple[JobStatus, ...] = ("queued", "failed")
    await world.write({world.new_id(): record(world, 20 * age, statuses[age % 2], owner="ann") for age in range(90)})
    await world.write({world.new_id(): record(world, 20 * age, owner="bob") for age in range(100)})
    await world.sweep()
    (size,) = await world.execute([("headway:ix:{o:ann}", ("ZCARD", "headway:ix:{o:ann}"))])
    assert size == 70
    for chosen in ((), statuses[:1], statuses[1:]):
        query = JobQuery(filter=JobFilter(owner="ann"), statuses=frozenset(chosen), limit=40)
        await world.expire_job(next(iter(world.expected(query))))
        for _ in range(2):  # the first page that finds an expired job removes it from the list
            assert await world.listed(query) == world.expected(query)


@pytest.mark.usefixtures("short_lists")
async def test_a_page_by_end_is_full_though_others_have_more_jobs(
    world: IndexWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is filled from the owner's list, and does not say that it is complete: a job that is older may have ended."""
    monkeypatch.setattr("services.notifier.records.index.page_read.MAX_CANDIDATES", 100)
    await world.write({world.new_id(): record(world, age, "failed", owner="bob") for age in range(250)})
    await world.write({world.new_id(): record(world, 40 + 10 * age, "failed", owner="ann") for age in range(90)})
    await world.sweep()
    query = JobQuery(filter=JobFilter(owner="ann"), statuses=frozenset({"failed"}), limit=25)
    first, *others = await pages(world, query)
    assert (len(first.jobs), first.complete) == (25, False)
    assert [job.id for page in (first, *others) for job in page.jobs] == world.expected(query)
    (page,) = await pages(world, replace(query, since=Timestamp(world.now - 80)))
    assert (len(page.jobs), page.complete) == (5, True)


@pytest.mark.usefixtures("short_lists")
async def test_an_exhaustive_query_skips_no_job_though_others_have_more_jobs(
    world: IndexWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages may be short; they also have the jobs that ended lately and are too old for the owner's list."""
    monkeypatch.setattr("services.notifier.records.index.page_read.MAX_CANDIDATES", 100)
    await world.write({world.new_id(): record(world, age, "failed", owner="bob") for age in range(250)})
    await world.write({world.new_id(): record(world, 40 + 10 * age, "failed", owner="ann") for age in range(90)})
    old = replace(record(world, 10_000, "failed", owner="ann"), finished_at=Timestamp(world.now - 150))
    await world.write({world.new_id(): old})
    await world.sweep()
    query = JobQuery(filter=JobFilter(owner="ann"), statuses=frozenset({"failed"}), limit=25, exhaustive=True)
    found = await pages(world, query)
    assert [job.id for page in found for job in page.jobs] == world.expected(query)
    assert all(page.complete for page in found)


async def test_a_job_that_changes_while_a_page_is_read_is_not_shown(
    world: IndexWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of failed jobs has none that is queued again."""
    jobs = {world.new_id(): record(world, age, "failed") for age in range(2)}
    await world.write(jobs)
    await world.sweep()
    redriven, failed = jobs
    read = world.store.read

    async def read_later(job_ids: Iterable[str]) -> list[RecordRead | None]:
        await world.write({redriven: record(world, 0, "queued")})
        return await read(job_ids)

    monkeypatch.setattr(world.store, "read", read_later)
    assert await world.listed(JobQuery(statuses=frozenset({"failed"}))) == [failed]


async def test_many_jobs_were_submitted_in_one_millisecond(world: IndexWorld) -> None:
    """The pages between them are as complete as others."""
    await world.write({world.new_id(): record(world, 5, owner="ann") for _ in range(300)})
    await world.sweep()
    for query in (JobQuery(limit=7), JobQuery(filter=JobFilter(owner="ann"), limit=90)):
        assert await world.listed(query) == world.expected(query)


async def test_a_page_reads_a_limited_number_of_records(world: IndexWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that selects few of many jobs gets pages without a job, and then its jobs."""
    monkeypatch.setattr("services.notifier.records.index.page_read.MAX_CANDIDATES", 100)
    await world.write({world.new_id(): record(world, age) for age in range(140)})
    await world.write({(rare := world.new_id()): replace(record(world, 9_999), attempt=2)})
    await world.sweep()
    sizes = [[job.id for job in page.jobs] for page in await pages(world, JobQuery(attempts_min=2))]
    assert sizes == [[], [rare]]


async def test_wrong_entries_are_removed_when_they_are_read(world: IndexWorld) -> None:
    """An expired job, and one that has moved without a word, are not shown, and cost the next page nothing."""
    jobs = {world.new_id(): record(world, age, "failed", owner="ann") for age in range(3)}
    await world.write(jobs)
    await world.sweep()
    expired, moved, failed = jobs
    await world.execute([(job_key(expired), ("DEL", job_key(expired)))])
    await world.write({moved: record(world, 1, "running", owner="ann")})
    for query in (JobQuery(statuses=frozenset({"failed"})), JobQuery(filter=JobFilter(owner="ann", kind="letters"))):
        ids = {job.id for page in await pages(world, query) for job in page.jobs}
        assert ids == ({failed} if query.statuses else {moved, failed})
    ended = f"headway:ix:{{end:failed:letters:{hour_of(world.now)}}}"
    sizes = [await world.execute([(key, ("ZCARD", key))]) for key in (ended, "headway:ix:{o:ann}")]
    assert sizes == [[1], [2]]


async def test_a_key_of_another_type_is_replaced(world: IndexWorld) -> None:
    """A list is not complete until the index has been rebuilt, because nothing shows what the key had."""
    await world.write({(job_id := world.new_id()): record(world, 0, owner="ann")})
    await world.sweep()
    query = JobQuery(filter=JobFilter(owner="ann"))
    await world.execute([("headway:ix:{o:ann}", ("SET", "headway:ix:{o:ann}", "foreign", "PX", HOUR_MS))])
    with capture_logs() as lines:
        await world.reader.page(query)
    assert [line["set"] for line in lines if line["event"] == "index_key_replaced"] == ["o"]  # without the owner
    assert not (await world.reader.page(query)).complete
    await world.sweep()
    (page,) = await pages(world, query)
    assert ([job.id for job in page.jobs], page.complete) == ([job_id], True)


async def test_a_job_that_ends_again_is_listed_once(world: IndexWorld) -> None:
    """At its last end: the entry of the first one is wrong since the job was redriven."""
    first, again = world.new_id(), world.new_id()
    await world.write({again: record(world, 9, "failed"), first: record(world, 5, "failed")})
    await world.sweep()
    await world.write({again: record(world, 1, "failed")})
    world.replicas[1].writer.add(again)
    query = JobQuery(statuses=frozenset({"failed"}))
    assert await world.listed(query) == [again, first]


async def test_nothing_is_written_while_redis_is_full(world: IndexWorld, redis: Redis) -> None:
    """The records come first. Lists say that they are not complete, until the index has been rebuilt."""
    await world.sweep()
    replica, other = world.replicas
    before = await redis.config_get("maxmemory")
    try:
        await redis.config_set("maxmemory", round((await redis.info("memory"))["used_memory"] * 1.1))
        await replica.memory.read()
        await other.memory.read()
        await world.write({(job_id := world.new_id()): record(world, 0)})
        replica.writer.add(job_id)
        await replica.writer.flush()
        assert await world.index_keys() == []
        assert await pages(world, JobQuery()) == [Page([], None, complete=False)]
    finally:
        await redis.config_set("maxmemory", before["maxmemory"] or 0)
    await replica.memory.read()
    await other.memory.read()
    await replica.state.renew()
    assert not (await world.reader.page(JobQuery())).complete
    await world.sweep()
    (page,) = await pages(world, JobQuery())
    assert ([job.id for job in page.jobs], page.complete) == ([job_id], True)


async def test_all_keys_have_another_type(world: IndexWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that finds one does not say that it is complete. The state and the leases are repaired, too."""
    monkeypatch.setattr(sweeper, "CHECK_INTERVAL_S", 0.02)
    monkeypatch.setattr(sweeper, "REBUILD_LEASE_MS", 100)
    await world.write({(job_id := world.new_id()): record(world, 0, owner="ann")})
    await world.sweep()
    owned = JobQuery(filter=JobFilter(owner="ann"))
    await world.execute([("headway:ix:{o:ann}", ("SET", "headway:ix:{o:ann}", "foreign"))])
    assert await pages(world, owned) == [Page([], None, complete=False)]
    foreign = {*await world.index_keys(), STATE_KEY, sweeper.SWEEP_KEY, sweeper.REBUILD_KEY}
    await world.execute([(key, ("SET", key, "foreign")) for key in foreign])
    sweeping = asyncio.create_task(world.replicas[0].sweeper.run())
    try:
        await wait_until(lambda: _is_complete(world, owned, job_id))
        await wait_until(lambda: _have_expiries(world))
    finally:
        sweeping.cancel()


async def _is_complete(world: IndexWorld, query: JobQuery, job_id: str) -> bool:
    await world.replicas[1].state.renew()  # the reader's
    (page,) = await pages(world, query)
    return page.complete and [job.id for job in page.jobs] == [job_id]


async def _have_expiries(world: IndexWorld) -> bool:
    return -1 not in await world.execute([(key, ("PTTL", key)) for key in await world.index_keys()])


async def test_a_replica_that_restarts_without_its_stop_has_crashed(world: IndexWorld) -> None:
    """It may have lost entries, so the index is rebuilt. One that has stopped in order has written all of them."""
    await world.sweep()
    async with world.new_replica("three") as stopped:
        await world.write({(job_id := world.new_id()): record(world, 0)})
        stopped.writer.add(job_id)
        await stopped.state.renew()
    reader = world.reader
    page = await reader.page(JobQuery())
    assert ([job.id for job in page.jobs], page.complete) == ([job_id], True)
    crashed, restarted = world.new_replica("three"), world.new_replica("three")
    await crashed.state.renew()
    running = asyncio.create_task(restarted.state.run())
    await wait_until(lambda: _is_incomplete(restarted.reader(world.store)))
    running.cancel()


async def _is_incomplete(reader: IndexReader) -> bool:
    return not (await reader.page(JobQuery())).complete


async def test_too_many_changes_are_dropped_and_found_by_a_rebuild(
    world: IndexWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis does not answer, a replica keeps a limited number of them."""
    monkeypatch.setattr("services.notifier.records.index.writer.MAX_PENDING", 10)
    await world.sweep()
    jobs = {world.new_id(): record(world, age) for age in range(11)}
    await world.write(jobs)
    for job_id in jobs:
        world.replicas[1].writer.add(job_id)
    assert await pages(world, JobQuery()) == [Page([], None, complete=False)]
    await world.sweep()
    (page,) = await pages(world, JobQuery())
    assert ([job.id for job in page.jobs], page.complete) == (list(jobs), True)


async def test_lists_of_owners_and_tags_are_announced(world: IndexWorld, redis: Redis) -> None:
    """After the entries have been written, with the ids of the jobs."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe("headway:list:{o:ann}", "headway:list:{t:eu}")
        jobs = {world.new_id(): record(world, 0, owner="ann", tags=tags) for tags in (("eu",), ())}
        await world.write(jobs)
        for job_id in jobs:
            world.replicas[0].writer.add(job_id)
        await world.replicas[0].writer.flush()
        received = [await pubsub.get_message(timeout=PATIENCE_S) for _ in range(4)][2:]
    assert [(one["channel"], one["data"].decode().split()) for one in received] == [
        (b"headway:list:{o:ann}", list(jobs)),
        (b"headway:list:{t:eu}", list(jobs)[:1]),
    ]


async def test_counts_and_positions(world: IndexWorld) -> None:
    """They are about the jobs that wait, run, and have failed within a day."""
    jobs = [record(world, age, "queued") for age in range(20)] + [record(world, 60, "retrying")]
    jobs += [record(world, 0, "running")] * 3 + [record(world, age, "failed") for age in (0, HOUR_MS, 25 * HOUR_MS)]
    await world.write({world.new_id(): job for job in jobs})
    await world.sweep()
    reader = world.reader
    counts, other = await asyncio.gather(reader.about(), reader.about())
    assert counts == JobCounts(waiting=21, retrying=1, running=3, failed_24h=2, oldest=Timestamp(world.now - 60))
    assert counts is other  # concurrent requests share one count
    assert await reader.position(Timestamp(world.now - 5)) == (15, True)
    assert await reader.position(Timestamp(world.now - 60), Timestamp(world.now - 5)) == (14, True)  # without itself
    for job_id, job in list(world.records.items())[:20]:
        await world.write({job_id: replace(job, status="running")})
        world.replicas[1].writer.add(job_id)
    await world.replicas[1].writer.flush()
    assert await world.reader.about() == JobCounts(1, retrying=1, running=23, failed_24h=2, oldest=counts.oldest)


async def test_sweeps_correct_the_number_of_retries(world: IndexWorld) -> None:
    """An older replica, which knows no set of them, adds no job to it and removes none."""
    started, failed = world.new_id(), world.new_id()
    jobs = {started: record(world, 0, "retrying"), failed: record(world, 0, "running")}
    await world.write(jobs)
    await world.sweep()
    assert await retries(world) == (1, [started])
    await world.write({started: jobs[failed], failed: jobs[started]})
    await world.sweep()
    assert await retries(world) == (1, [failed])
    key = index_key(WAITING[shard_of(member_of(failed))])
    await world.execute([(key, ("ZREM", key, member_of(failed)))])  # by an older replica when the job has started
    await world.expire_job(failed)
    await world.sweep()
    assert await retries(world) == (0, [])


async def retries(world: IndexWorld) -> tuple[int, list[str]]:
    """Return how many jobs wait for another attempt, and the ids of those that are listed."""
    counts = await world.reader.about()
    (page,) = await pages(world, JobQuery(statuses=frozenset({"retrying"})))
    return counts.retrying, [job.id for job in page.jobs]


async def test_the_oldest_job_is_one_that_waits_for_a_worker(world: IndexWorld) -> None:
    """Jobs that are not due, that have started meanwhile, or whose records are damaged or gone, do not count."""
    assert await read_oldest(world.redis, world.store) is None
    jobs = {world.new_id(): record(world, age, "queued") for age in range(1_000, 6_000, 1_000)}
    await world.write(jobs)
    await world.sweep()
    oldest = sorted(jobs, key=lambda job_id: jobs[job_id].submitted_at)
    later = Timestamp(world.now + HOUR_MS).to_json()
    for age_s, change in ((5, {"status": b'"running"'}), (4, {"due_at": later}), (3, {"progress": b"?"})):
        assert await read_oldest(world.redis, world.store) == Timestamp(world.now - 1_000 * age_s)
        fields = [part for pair in change.items() for part in pair]
        await world.execute([(job_key(oldest[5 - age_s]), ("HSET", job_key(oldest[5 - age_s]), *fields))])
    await world.execute([(job_key(oldest[3]), ("DEL", job_key(oldest[3])))])
    assert await read_oldest(world.redis, world.store) == Timestamp(world.now - 1_000)
    again = Timestamp(world.now - 500)
    await world.execute([(job_key(oldest[4]), ("HSET", job_key(oldest[4]), "redriven_at", again.to_json()))])
    assert await read_oldest(world.redis, world.store) == again


async def test_the_oldest_job_is_behind_many_that_were_run_again(world: IndexWorld) -> None:
    """They come first in the order of submissions, but have not waited as long."""
    ages = range(10_000, 0, -1_000)
    jobs = {f"{world.new_id()[:-1]}0": record(world, age, "queued") for age in ages}  # of one shard
    await world.write(jobs)
    await world.sweep()
    again = Timestamp(world.now - 500).to_json()
    await world.execute([(job_key(one), ("HSET", job_key(one), "redriven_at", again)) for one in list(jobs)[:8]])
    assert await read_oldest(world.redis, world.store) == Timestamp(world.now - 2_000)


async def test_sets_that_have_expired_leave_their_directory(world: IndexWorld) -> None:
    """Or it would grow for ever."""
    await world.write({(job_id := world.new_id()): record(world, 5 * HOUR_MS)})
    await world.sweep()
    assert "headway:ix:{hours:k}" in await world.index_keys()
    name = f"headway:ix:{{k:letters:{hour_of(world.now - 5 * HOUR_MS)}}}"
    await world.execute([(key, ("DEL", key)) for key in (name, job_key(job_id))])
    await world.sweep()
    assert "headway:ix:{hours:k}" not in await world.index_keys()


async def test_a_sweep_continues_where_the_last_one_ended(world: IndexWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it takes a bounded time, and finds each record in turn, whichever replica sweeps."""
    for name, value in (("KEYS_PER_SCAN", 20), ("SCAN_TIME_S", 0)):
        monkeypatch.setattr(f"services.notifier.records.index.sweeper.{name}", value)
    await world.sweep()
    await world.write({world.new_id(): record(world, age) for age in range(100)})
    found = [0]
    while found[-1] < 100:
        world.replicas[0] = world.new_replica("one")
        await world.sweep()
        found.append(sum(len(page.jobs) for page in await pages(world, JobQuery())))
        assert found[-1] < 100 or len(found) > 2
        assert len(found) < 20


async def test_sweeps_check_all_jobs_that_have_not_ended(world: IndexWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first: those that have no record any more are not waiting."""
    monkeypatch.setattr(sweeper, "JOBS_PER_SHARD", 2)
    jobs = {world.new_id()[:-1] + "0": record(world, age) for age in range(9)}  # of one shard
    await world.write(jobs)
    await world.sweep()
    newest = next(iter(jobs))
    await world.expire_job(newest)
    counts = []
    for _ in range(5):
        world.replicas.reverse()
        await world.sweep()
        counts.append((await world.reader.about()).waiting)
    assert counts == [9, 9, 9, 9, 8]


async def test_replicas_repair_the_index_in_the_background(world: IndexWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """At their start, and when it was lost; one of them each time."""
    monkeypatch.setattr("services.notifier.records.index.sweeper.CHECK_INTERVAL_S", 0.01)
    await world.write({(job_id := world.new_id()): record(world, 0)})
    tasks = [asyncio.ensure_future(task()) for replica in world.replicas for task in replica.tasks().values()]

    async def is_listed() -> bool:
        page = await world.reader.page(JobQuery())
        return page.complete and [job.id for job in page.jobs] == [job_id]

    with capture_logs() as lines:
        await wait_until(is_listed)
        for key in (*await world.index_keys(), STATE_KEY):
            await world.execute([(key, ("DEL", key))])
        await wait_until(is_listed)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [line["jobs"] for line in lines if line["event"] == "index_rebuilt"] == [1, 1]
