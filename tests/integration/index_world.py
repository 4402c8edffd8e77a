"""Records in Redis, replicas that index them, and the pages that a scan of the records would give."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from msgspec.structs import asdict, replace

from headway.contracts import ENDED, JobError, JobSnapshot, JobStatus, Timestamp, encode
from headway.labels import JobFilter, Labels
from services.notifier.records.index.entries import ErrorType, IndexedRecord
from services.notifier.records.index.job_index import JobIndex
from services.notifier.records.index.keys import HOUR_MS, KEY_PREFIX, job_id_of
from services.notifier.records.index.query import JobQuery
from services.notifier.records.index.reader import IndexReader
from services.notifier.records.index.state import STATE_KEY
from services.notifier.records.keys import job_key
from services.notifier.records.store import JobStore
from services.notifier.redis_client.topology import RedisClient

JOB_TTL_S = 7 * 86_400.0
KINDS = ("letters", "letters:late", "import}{", "ü")
OWNERS = (None, "ann", "bob", "user:7")
TAGS = ("eu", "customer:7", "a.b/c@d-e")
STATUSES: tuple[JobStatus, ...] = ("queued", "running", "retrying", "succeeded", "failed", "cancelled")
Job = tuple[str, IndexedRecord]


class IndexWorld:
    """The records, and two replicas that index them. Everything random comes from one seed."""

    def __init__(self, redis: RedisClient, seed: int = 0) -> None:
        self.redis = redis
        self.store = JobStore(redis)
        self.random = random.Random(seed)
        self.now = Timestamp.now()
        self.records: dict[str, IndexedRecord] = {}
        self.crashes = 0
        self.replicas = [self.new_replica("one"), self.new_replica("two")]

    @property
    def reader(self) -> IndexReader:
        """A reader of the second replica."""
        return self.replicas[1].reader(self.store)

    def new_replica(self, name: str) -> JobIndex:
        """Return a replica that has just started."""
        return JobIndex(self.redis, name, JOB_TTL_S)

    def new_record(self) -> IndexedRecord:
        """Return a new record, which was submitted within the last two days; some have the same time."""
        age_ms = self.random.choice((0, 0, 1, self.random.randrange(48 * HOUR_MS)))
        labels = Labels(
            name="a name",
            owner=self.random.choice(OWNERS),
            tags=tuple(self.random.sample(TAGS, self.random.randrange(3))),
        )
        return self.moved(
            IndexedRecord(
                status="queued",
                kind=self.random.choice(KINDS),
                submitted_at=Timestamp(self.now - age_ms),
                attempt=1,
                labels=self.random.choice((labels, labels, labels, None)),
            )
        )

    def moved(self, record: IndexedRecord) -> IndexedRecord:
        """Return a record after a transition."""
        status = self.random.choice(STATUSES)
        finished_at = Timestamp(self.now - self.random.randrange(3 * HOUR_MS)) if status in ENDED else None
        error = ErrorType(self.random.choice(("ValueError", "Timeout"))) if status in ("failed", "retrying") else None
        hidden = self.random.choice((None, "Timeout")) if error else None
        attempt = record.attempt + self.random.randrange(2)
        fields = {"finished_at": finished_at, "error": error, "error_type": hidden, "attempt": attempt}
        return replace(record, status=status, **fields)

    async def write(self, jobs: dict[str, IndexedRecord]) -> None:
        """Write records as the record script does."""
        self.records |= jobs
        commands: list[tuple[str, Any]] = []
        for job_id, record in jobs.items():
            key = job_key(job_id)
            fields = [part for pair in _fields(job_id, record).items() for part in pair]
            commands += [(key, ("HSET", key, *fields)), (key, ("PEXPIRE", key, round(1000 * JOB_TTL_S)))]
        await self.execute(commands)

    async def execute(self, commands: list[tuple[str, Any]]) -> list[Any]:
        """Execute commands; none of them fails."""
        replies = await self.redis.execute(commands) if commands else []
        assert not [reply for reply in replies if isinstance(reply, Exception)]
        return replies

    async def index_keys(self) -> list[str]:
        """Return the keys of the index, sorted; the state is not one of them."""
        found = []
        for node in self.redis.nodes():
            (reply,) = await self.redis.execute_on(node, [("KEYS", f"{KEY_PREFIX}*")])
            found += [key.decode() for key in reply]
        return sorted(set(found) - {STATE_KEY})

    # Events

    async def change_jobs(self) -> None:
        """Create and change some jobs; a replica learns of each change."""
        known = sorted(self.records)
        jobs = {self.new_id(): self.new_record() for _ in range(self.random.randrange(1, 9))}
        for job_id in self.random.sample(known, min(len(known), 5)):
            jobs[job_id] = self.moved(self.records[job_id])
        await self.write(jobs)
        for job_id in jobs:
            self.random.choice(self.replicas).writer.add(job_id)

    async def flush(self) -> None:
        """Write what is pending on one replica."""
        await self.random.choice(self.replicas).writer.flush()

    async def crash(self) -> None:
        """Lose what is pending on a replica; another one takes its place."""
        self.crashes += 1
        await self.execute([(STATE_KEY, ("HSET", STATE_KEY, f"replica:crashed-{self.crashes}", 1))])  # has ended
        self.replicas = [self.new_replica("one"), self.replicas[1]]

    async def expire(self) -> None:
        """Remove the records of some jobs, of which no replica learns."""
        lost = self.random.sample(sorted(self.records), min(len(self.records), 3))
        for job_id in lost:
            await self.expire_job(job_id)

    async def expire_job(self, job_id: str) -> None:
        """Remove the record of a job."""
        del self.records[job_id]
        await self.execute([(job_key(job_id), ("DEL", job_key(job_id)))])

    async def expire_all(self) -> None:
        """Remove all records and the index, with which a history ends."""
        keys = [*map(job_key, self.records), *await self.index_keys(), STATE_KEY]
        await self.execute([(key, ("DEL", key)) for key in keys])

    async def lose_keys(self) -> None:
        """Delete some keys of the index."""
        await self.execute([(key, ("DEL", key)) for key in self.random_keys(await self.index_keys())])

    async def replace_keys(self) -> None:
        """Replace some keys of the index by keys of another type."""
        keys = self.random_keys(await self.index_keys())
        await self.execute([(key, ("SET", key, "foreign", "PX", 3_600_000)) for key in keys])

    async def add_foreign_members(self) -> None:
        """Add members to some sets that are no jobs, or jobs that do not belong there."""
        await self.repair_types()
        for key in self.random_keys(await self.index_keys()):
            members = (b"foreign", bytes(16), UUID(self.new_id()).bytes)
            pairs = [part for member in members for part in (int(self.now), member)]
            await self.execute([(key, ("ZADD", key, *pairs))])

    async def repair_types(self) -> None:
        """Delete the keys of another type."""
        for key in await self.index_keys():
            (kind,) = await self.execute([(key, ("TYPE", key))])
            if kind != "zset" and kind != b"zset":
                await self.execute([(key, ("DEL", key))])

    async def lose_state(self) -> None:
        """Delete the state of the index."""
        await self.execute([(STATE_KEY, ("DEL", STATE_KEY))])

    async def sweep(self) -> None:
        """Sweep once, or rebuild if that is due."""
        for replica in self.replicas:
            await replica.writer.flush()
            await replica.state.renew()  # writes whether entries were lost
            await replica.state.release()  # on a slow machine, it would end while the test runs
        sweeper = self.replicas[0].sweeper
        status = await self.replicas[0].state.read()
        await (sweeper.sweep() if status.complete else sweeper.rebuild(status))

    def random_keys(self, keys: list[str]) -> list[str]:
        """Return a few keys."""
        return self.random.sample(keys, min(len(keys), 3))

    def new_id(self) -> str:
        """Return a new job's id."""
        return job_id_of(self.random.randbytes(16))

    # Expectations

    def queries(self) -> Iterator[JobQuery]:
        """Yield queries of every form."""
        choose, times = self.random.choice, (None, None, Timestamp(self.now - self.random.randrange(24 * HOUR_MS)))
        for statuses in [(), *((status,) for status in STATUSES), ("queued", "running"), ("failed", "cancelled"),
                         ("running", "succeeded")]:  # fmt: skip
            for job_filter in (
                JobFilter(),
                JobFilter(owner=choice) if (choice := choose(OWNERS)) else JobFilter(tag=choose(TAGS)),
                JobFilter(kind=choose(KINDS)),
            ):
                yield JobQuery(
                    filter=job_filter,
                    tags=choose(((), (), TAGS[:1], TAGS[:2])),
                    statuses=frozenset(statuses),
                    since=choose(times),
                    until=choose(times),
                    attempts_min=choose((1, 1, 2)),
                    error_type=choose((None, None, None, "Timeout")),
                    limit=choose((1, 7, 200)),
                )

    def expected(self, query: JobQuery) -> list[str]:
        """Return the ids that a scan of the records gives."""
        return scan(self.records.items(), query)

    async def listed(self, query: JobQuery) -> list[str]:
        """Return the ids on all pages; their snapshots are those of the records."""
        ids: list[str] = []
        reader = self.reader
        while True:
            page = await reader.page(query)
            assert len(page.jobs) <= query.limit
            for listed in page.jobs:
                ids.append(listed.id)
                assert listed.error_type == self.records[listed.id].true_error_type
                assert listed.id.encode() in listed.record.snapshot
            if page.next is None:
                return ids
            query = replace(query, cursor=page.next)


def scan(jobs: Iterable[Job], query: JobQuery) -> list[str]:
    """Return the ids of the jobs that a query selects, in its order."""
    found = [(query.time_of(record), job_id) for job_id, record in jobs if query.matches(record)]
    return [job_id for _, job_id in sorted(found, reverse=True)]


def _fields(job_id: str, record: IndexedRecord) -> dict[str, bytes]:
    error = None if record.error is None else JobError(record.error.type, "It failed.")
    snapshot = JobSnapshot(
        id=UUID(job_id),
        kind=record.kind,
        status=record.status,
        version=1,
        attempt=record.attempt,
        error=error,
        submitted_at=record.submitted_at,
        finished_at=record.finished_at,
        expires_at=record.submitted_at.after(JOB_TTL_S),
    )
    fields = {name: encode(value) for name, value in asdict(snapshot).items()} | {
        "error_type": encode(record.error_type)
    }
    return fields | ({} if record.labels is None else {"labels": encode(record.labels)})
