"""The synchronizer over a store whose reads end when a test says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from headway.contracts import Timestamp
from headway.tokens import Grant
from services.notifier.records.keys import job_key
from services.notifier.records.record_read import RecordRead
from services.notifier.records.store import ReadResult
from services.notifier.watching import synchronizer as module
from services.notifier.watching.hub import Hub, Subscription
from services.notifier.watching.snapshot import PublishedSnapshot
from services.notifier.watching.synchronizer import MAX_RECORDS_PER_READ, SnapshotSynchronizer
from tests.waiting import wait_until

JOB = "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11"
WORKER = "host-1"
STALE_AFTER_S = 5.0


def snapshot_text(version: int, status: str = "running", job_id: str = JOB) -> bytes:
    """Return a snapshot with the fields that the notifier needs."""
    return b'{"id":"%s","status":"%s","version":%d}' % (job_id.encode(), status.encode(), version)


class FakeStore:
    """Records that a test sets. A read returns them as they were when it began, and ends when the test releases it."""

    def __init__(self) -> None:
        self.records: dict[str, bytes | RecordRead] = {}
        self.reads: list[list[str]] = []
        self.unavailable: set[str] = set()
        self.released = asyncio.Event()
        self.released.set()

    async def read_available(self, job_ids: Iterable[str]) -> dict[str, ReadResult]:
        self.reads.append(list(job_ids))
        error = RedisConnectionError()
        results: dict[str, ReadResult] = {
            job_id: error if job_id in self.unavailable else self._record(job_id) for job_id in self.reads[-1]
        }
        await self.released.wait()
        return results

    def _record(self, job_id: str) -> RecordRead | None:
        record = self.records.get(job_id)
        return RecordRead(record, b'"k"', None, WORKER.encode()) if isinstance(record, bytes) else record


class FakePubSub:
    """Channels that are confirmed when a test says so."""

    def __init__(self) -> None:
        self.channels: list[str] = []
        self.confirmed = False
        self.ready = True

    def subscribe(self, channel: str, _handler: object) -> bool:
        if channel not in self.channels:
            self.channels.append(channel)
        return self.confirmed

    def unsubscribe(self, channel: str) -> None:
        self.channels.remove(channel)


class FakeWatcher:
    """A connection that records what it is sent."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.is_writable = True

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        if self.is_writable:
            self.events.append(snapshot.version)
        return self.is_writable

    def send_error(self, job_id: str, code: str, message: str) -> None:
        self.events.append(code)

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:
        self.events.append("ended" if ended else "up to date")

    def on_failure(self, error: Exception) -> None:
        raise error


class RunningSynchronizer:
    """A synchronizer whose read loop runs, and its parts."""

    def __init__(self) -> None:
        self.hub, self.store, self.pubsub = Hub(), FakeStore(), FakePubSub()
        self.watched: list[tuple[str, str]] = []  # the workers and jobs of on_watched
        self.synchronizer = SnapshotSynchronizer(
            self.hub,
            cast(Any, self.store),
            cast(Any, self.pubsub),
            STALE_AFTER_S,
            lambda worker_id, job_id: self.watched.append((worker_id, job_id)),
        )

    def watch(self, version: int | None = None, job_id: str = JOB) -> FakeWatcher:
        """Subscribe a new watcher to a job."""
        watcher = FakeWatcher()
        self.subscribe(watcher, version, job_id)
        return watcher

    def subscribe(self, watcher: FakeWatcher, version: int | None = None, job_id: str = JOB) -> Subscription:
        """Subscribe a watcher to a job."""
        now = Timestamp.now()
        grant = Grant(job_id=UUID(job_id), kind="k", submitted_at=now, expires_at=now.after(60))
        subscription = Subscription(watcher, grant, version)
        self.synchronizer.subscribe(subscription)
        return subscription

    async def settle(self) -> None:
        """Run the event loop until the read loop has nothing more to do."""
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def running() -> AsyncIterator[RunningSynchronizer]:
    """Run the read loop of a synchronizer until the test ends."""
    running = RunningSynchronizer()
    task = asyncio.create_task(running.synchronizer.read_loop())
    yield running
    task.cancel()
    await asyncio.wait({task})


async def test_a_record_is_read_after_the_confirmation(running: RunningSynchronizer) -> None:
    """A change between an earlier read and the subscription would be lost. Later watchers need no confirmation."""
    running.store.records[JOB] = snapshot_text(3)
    first = running.watch()
    await running.settle()
    assert (running.pubsub.channels, running.store.reads) == ([job_key(JOB)], [])
    running.synchronizer.on_subscribed(job_key(JOB))
    await running.settle()
    assert (first.events, running.store.reads) == ([3, "up to date"], [[JOB]])
    running.pubsub.confirmed = True
    second = running.watch()
    await running.settle()
    assert (first.events, second.events, running.store.reads) == ([3, "up to date"], [3, "up to date"], [[JOB]] * 2)


@pytest.mark.parametrize(
    ("version", "before", "after", "events"),
    [
        (None, None, 3, [3, "up to date"]),
        (2, None, 3, [3, "up to date"]),
        (2, 2, 3, [3, "up to date"]),
        (3, None, 3, ["up to date"]),
    ],
)
async def test_a_read_does_not_answer_a_later_subscription(
    running: RunningSynchronizer, version: int | None, before: int | None, after: int, events: list[Any]
) -> None:
    """A watcher that joins during a read gets no placeholder, error or confirmation from the outdated record."""
    running.pubsub.confirmed = True
    if before is not None:
        running.store.records[JOB] = snapshot_text(before)
    running.store.released.clear()
    running.watch()
    await running.settle()
    assert running.store.reads == [[JOB]]
    running.store.records[JOB] = snapshot_text(after)
    late = running.watch(version)
    running.store.released.set()
    await running.settle()
    assert running.store.reads == [[JOB]] * 2
    assert late.events == events


@pytest.mark.parametrize(("read", "published"), [("running", "succeeded"), ("failed", "queued")])
async def test_a_publication_overtakes_a_read(running: RunningSynchronizer, read: str, published: str) -> None:
    """A watcher that got a newer version during its first read is not told whether the job had ended before it."""
    running.pubsub.confirmed = True
    running.store.records[JOB] = snapshot_text(3, read)
    running.store.released.clear()
    watchers = [running.watch(version) for version in (None, 2, 3)]
    await running.settle()
    running.synchronizer.on_publication(job_key(JOB), snapshot_text(4, published))
    running.store.released.set()
    await running.settle()
    assert running.store.reads == [[JOB]]
    assert [watcher.events for watcher in watchers] == [[4]] * 3


async def test_watchers_are_answered_once(running: RunningSynchronizer) -> None:
    """Each watcher gets what it lacks from its first read, and only newer versions from later ones."""
    running.pubsub.confirmed = True
    new, old, current, other = running.watch(), running.watch(2), running.watch(3), str(UUID(int=1, version=4))
    unknown, placeholder = running.watch(7, other), running.watch(None, other)
    running.store.records[JOB] = snapshot_text(3, "succeeded")
    await running.settle()
    answers = [watcher.events for watcher in (new, old, current, unknown, placeholder)]
    assert answers == [[3, "ended"], [3, "ended"], ["ended"], ["unknown"], [0]]
    for job_id in (JOB, other):
        running.synchronizer.on_subscribed(job_key(job_id))
    await running.settle()
    assert [watcher.events for watcher in (new, old, current, unknown, placeholder)] == answers


async def test_the_worker_learns_that_its_job_is_watched(running: RunningSynchronizer) -> None:
    """It does so with the first watcher, and after each lost subscription, during which it may have seen none."""
    running.store.records[JOB] = snapshot_text(3)
    running.watch()
    await running.settle()
    assert running.watched == []
    for count in (1, 2):
        running.synchronizer.on_subscribed(job_key(JOB))
        await running.settle()
        assert running.watched == [(WORKER, JOB)] * count
    running.pubsub.confirmed = True
    running.watch()
    running.synchronizer.sweep(time.monotonic() + STALE_AFTER_S)
    await running.settle()
    assert len(running.watched) == 2
    running.store.records[JOB] = snapshot_text(4, "succeeded")
    running.synchronizer.on_subscribed(job_key(JOB))
    await running.settle()
    assert len(running.watched) == 2


async def test_the_worker_learns_it_after_a_failed_read(
    running: RunningSynchronizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record names the worker, so that the notice waits for the read that succeeds."""
    monkeypatch.setattr(module, "READ_RETRY_DELAY_S", 0)
    running.store.records[JOB] = snapshot_text(3)
    running.store.unavailable.add(JOB)
    running.watch()
    running.synchronizer.on_subscribed(job_key(JOB))
    await wait_until(lambda: len(running.store.reads) > 1)
    assert running.watched == []
    running.store.unavailable.clear()
    await wait_until(lambda: running.watched)
    assert running.watched == [(WORKER, JOB)]


async def test_a_failed_read_is_repeated(running: RunningSynchronizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchers get nothing until the node of their job's record answers; those of other nodes need not wait for it."""
    monkeypatch.setattr(module, "READ_RETRY_DELAY_S", 0)
    running.store.records[JOB] = snapshot_text(3)
    running.store.unavailable.add(JOB)
    running.pubsub.confirmed = True
    watcher, other = running.watch(), running.watch(job_id=str(UUID(int=1, version=4)))
    await wait_until(lambda: len(running.store.reads) > 2)
    assert (watcher.events, other.events) == ([], [0])
    running.store.unavailable.clear()
    await wait_until(lambda: watcher.events)
    assert watcher.events[0] == 3


async def test_many_records_are_read_in_groups(running: RunningSynchronizer) -> None:
    """A lost subscription to Redis leads to one read for each group of jobs, and not for a job without watchers."""
    job_ids = [str(UUID(int=number, version=4)) for number in range(MAX_RECORDS_PER_READ + 1)]
    for job_id in job_ids:
        running.watch(job_id=job_id)
    for job_id in (*job_ids, *job_ids, JOB):
        running.synchronizer.on_subscribed(job_key(job_id))
    await running.settle()
    assert running.store.reads == [job_ids[:-1], job_ids[-1:]]


async def test_publications_reach_the_watchers(running: RunningSynchronizer) -> None:
    """Only valid and newer ones do. A backpressured watcher gets the newest one later."""
    watcher = FakeWatcher()
    subscription = running.subscribe(watcher)
    running.synchronizer.on_publication(job_key(JOB), snapshot_text(1))
    running.synchronizer.on_publication(job_key(JOB), b"garbage")
    watcher.is_writable = False
    for version in (2, 3):
        running.synchronizer.on_publication(job_key(JOB), snapshot_text(version))
    assert watcher.events == [1]
    watcher.is_writable = True
    running.synchronizer.flush(subscription)
    running.synchronizer.flush(subscription)
    assert watcher.events == [1, 3]


async def test_the_last_watcher_ends_the_subscription(running: RunningSynchronizer) -> None:
    """A channel stays subscribed while one of its watchers is left."""
    first, second = (running.subscribe(FakeWatcher()) for _ in range(2))
    running.synchronizer.unsubscribe(first)
    assert running.pubsub.channels == [job_key(JOB)]
    running.synchronizer.unsubscribe(second)
    running.synchronizer.unsubscribe(second)
    assert running.pubsub.channels == []


async def test_silent_jobs_are_read_again(running: RunningSynchronizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval grows only while the subscriptions are healthy; an update and a reconnect restart it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    watcher = running.watch()

    async def reads_until(end: float) -> list[float]:
        times = []
        while clock.now < end:
            clock.now += STALE_AFTER_S
            running.synchronizer.sweep(clock.now)
            await running.settle()
            if running.store.reads:
                times.append(clock.now)
                running.store.reads.clear()
        return times

    assert await reads_until(210) == [5, 10, 20, 40, 80, 140, 200]
    running.store.records[JOB] = snapshot_text(1)
    assert await reads_until(260) == [260]
    assert watcher.events == [0, 1]
    assert await reads_until(300) == [265, 270, 280, 300]
    running.synchronizer.on_subscribed(job_key(JOB))
    await running.settle()
    running.store.reads.clear()
    assert await reads_until(320) == [305, 310, 320]
    running.pubsub.ready = False
    assert await reads_until(340) == [325, 330, 335, 340]
    running.synchronizer.on_publication(job_key(JOB), snapshot_text(2, "succeeded"))
    assert await reads_until(500) == []
