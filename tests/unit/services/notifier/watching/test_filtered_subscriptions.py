"""Filtered subscriptions, in every order of reads and publications: each gets only what its record's labels allow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from uuid import UUID

import pytest

from headway.contracts import Timestamp, encode
from headway.grants import Grant, ListGrant
from headway.labels import JobFilter
from services.notifier.records.keys import job_key
from services.notifier.records.record_read import RecordRead
from services.notifier.watching import synchronizer
from services.notifier.watching.hub import Subscription
from tests.unit.services.notifier.watching.test_synchronizer import (
    JOB,
    FakeWatcher,
    RunningSynchronizer,
    snapshot_text,
)
from tests.waiting import wait_until

NOW = Timestamp.now()
ANNAS = ListGrant(filter=JobFilter(owner="anna"), issued_at=NOW, expires_at=NOW.after(86_400))


def record_of(owner: str, version: int, status: str = "running") -> RecordRead:
    """Return a record with an owner."""
    return RecordRead(snapshot_text(version, status), b'"k"', encode({"owner": owner}), None)


class Filtered(RunningSynchronizer):
    """A running synchronizer, and the subscriptions that ended because their filter did not match."""

    def __init__(self) -> None:
        super().__init__()
        self.pubsub.confirmed = True
        self.ended: list[Subscription] = []
        self.synchronizer.on_mismatch = self._on_mismatch

    def _on_mismatch(self, subscription: Subscription) -> None:
        self.ended.append(subscription)
        self.synchronizer.unsubscribe(subscription)

    def open(self, grant: Grant | None = None, version: int | None = None) -> FakeWatcher:
        """Subscribe a watcher with a token for Anna's jobs, or with another grant."""
        watcher = FakeWatcher()
        self.synchronizer.subscribe(Subscription(watcher, grant or ANNAS.for_job(UUID(JOB)), version))
        return watcher

    def publish(self, version: int) -> None:
        """Publish a version of the job."""
        self.synchronizer.on_publication(job_key(JOB), snapshot_text(version))


@asynccontextmanager
async def running() -> AsyncIterator[Filtered]:
    """Run the read loop of a synchronizer until the block ends."""
    filtered = Filtered()
    task = asyncio.create_task(filtered.synchronizer.read_loop())
    yield filtered
    task.cancel()
    await asyncio.wait({task})


@pytest.fixture
async def filtered() -> AsyncIterator[Filtered]:
    """Run the read loop of a synchronizer until the test ends."""
    async with running() as filtered:
        yield filtered


async def test_a_matching_record_opens_the_job(filtered: Filtered) -> None:
    """The watcher gets the snapshot of the first read, and then a newer one for each publication, from a read."""
    filtered.store.records[JOB] = record_of("anna", 3)
    watcher = filtered.open()
    await filtered.settle()
    filtered.store.records[JOB] = record_of("anna", 4, "succeeded")
    filtered.publish(4)
    assert watcher.events == [3, "up to date"]
    await filtered.settle()
    assert watcher.events == [3, "up to date", 4]
    assert filtered.ended == []


async def test_another_owners_job_stays_closed(filtered: Filtered) -> None:
    """No snapshot passes, and no news about it, even if the client names its version."""
    filtered.store.records[JOB] = record_of("bert", 3, "succeeded")
    watchers = [filtered.open(version=version) for version in (None, 0, 2, 3, 9)]
    filtered.publish(4)
    await filtered.settle()
    filtered.publish(5)
    await filtered.settle()
    assert [watcher.events for watcher in watchers] == [[]] * 5
    assert [subscription.watcher for subscription in filtered.ended] == watchers
    assert len(filtered.hub) == 0
    assert filtered.pubsub.channels == []


async def test_a_publication_before_the_first_read_reaches_only_others(filtered: Filtered) -> None:
    """It does not show whose job it is; the token of the job itself gets it at once."""
    filtered.store.released.clear()
    filtered.store.records[JOB] = record_of("bert", 3)
    token_of_job = filtered.watch()
    watcher = filtered.open()
    await filtered.settle()
    filtered.publish(4)
    assert (token_of_job.events, watcher.events) == ([4], [])
    filtered.store.released.set()
    await filtered.settle()
    assert watcher.events == []
    assert [subscription.watcher for subscription in filtered.ended] == [watcher]


async def test_a_record_that_is_rebuilt_with_another_owner_closes_the_job(filtered: Filtered) -> None:
    """What the new record publishes is not forwarded; the next read ends the subscription."""
    filtered.store.records[JOB] = record_of("anna", 3)
    watcher = filtered.open()
    await filtered.settle()
    filtered.store.records[JOB] = record_of("bert", 7)
    filtered.publish(7)
    await filtered.settle()
    filtered.publish(8)
    assert watcher.events == [3, "up to date"]
    assert [subscription.watcher for subscription in filtered.ended] == [watcher]


async def test_a_slow_consumer_gets_only_what_is_read_when_it_drains(
    filtered: Filtered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot that waits for other slow consumers may be that of another owner's record."""
    monkeypatch.setattr(synchronizer, "READ_RETRY_DELAY_S", 0)
    filtered.store.records[JOB] = record_of("anna", 3)
    watcher, other = filtered.open(), filtered.watch()
    await filtered.settle()
    (subscription,) = (one for one in filtered.hub._topics[JOB].all() if one.watcher is watcher)
    watcher.is_writable = other.is_writable = False
    filtered.store.records[JOB] = record_of("anna", 4)
    filtered.publish(4)
    await filtered.settle()
    filtered.store.records[JOB] = record_of("bert", 5)
    filtered.store.unavailable.add(JOB)
    filtered.publish(5)
    watcher.is_writable = True
    filtered.synchronizer.flush(subscription)
    assert watcher.events == [3, "up to date"]
    filtered.store.unavailable.clear()
    filtered.store.records[JOB] = record_of("anna", 6)
    filtered.synchronizer.flush(subscription)
    await wait_until(lambda: watcher.events == [3, "up to date", 6])


async def test_a_slow_consumer_gets_the_last_version_when_it_drains(filtered: Filtered) -> None:
    """Nothing else happens to the job that would lead to a read."""
    filtered.store.records[JOB] = record_of("anna", 3)
    watcher = filtered.open()
    await filtered.settle()
    (subscription,) = filtered.hub._topics[JOB].all()
    watcher.is_writable = False
    filtered.store.records[JOB] = record_of("anna", 4)
    filtered.publish(4)
    await filtered.settle()
    watcher.is_writable = True
    for _ in range(2):
        filtered.synchronizer.flush(subscription)
        await filtered.settle()
    assert watcher.events == [3, "up to date", 4]
    assert len(filtered.store.reads) == 3


@pytest.mark.parametrize("version", [None, 0, 3])
async def test_a_job_without_a_record_is_unknown(filtered: Filtered, version: int | None) -> None:
    """There is no placeholder; the subscription stays open, since the record may follow."""
    grant = Grant(job_id=UUID(JOB), kind="k", submitted_at=NOW, expires_at=NOW.after(86_400), requires_record=True)
    watchers = [filtered.open(grant, version), filtered.open(version=version)]
    await filtered.settle()
    assert [watcher.events for watcher in watchers] == [["unknown"]] * 2
    filtered.store.records[JOB] = record_of("anna", 5)
    filtered.publish(5)
    await filtered.settle()
    assert [watcher.events for watcher in watchers] == [["unknown", 5]] * 2


@pytest.mark.parametrize("labels", [None, b"null", b"[]", b'{"owner":7}', b'{"owner":"bert","tags":["anna"]}'])
async def test_damaged_or_missing_labels_open_nothing(filtered: Filtered, labels: bytes | None) -> None:
    """A record that another program changed, or that version 0.1 wrote, has no owner."""
    filtered.store.records[JOB] = RecordRead(snapshot_text(3), b'"k"', labels, None)
    watcher = filtered.open()
    await filtered.settle()
    assert watcher.events == []
    assert len(filtered.ended) == 1


class History:
    """A random history of a job whose record is lost, rebuilt with either owner, published late, and read slowly."""

    def __init__(self, filtered: Filtered, seed: int) -> None:
        self._filtered = filtered
        self._random = random.Random(seed)
        self._owners: dict[int, str] = {}  # by version
        self._subscriptions: list[Subscription] = []

    async def step(self) -> None:
        """Do one of the things that may happen."""
        await self._random.choice(
            [self._write, self._write, self._publish, self._lose, self._hold, self._open, self._block, self._read]
        )()

    async def _write(self) -> None:
        version = len(self._owners) + 1
        self._owners[version] = self._random.choice(["anna", "bert"])
        self._filtered.store.records[JOB] = record_of(self._owners[version], version)
        if self._random.random() < 0.7:
            self._filtered.publish(version)

    async def _publish(self) -> None:
        if self._owners:
            self._filtered.publish(self._random.randint(1, len(self._owners)))

    async def _lose(self) -> None:
        self._filtered.store.records.pop(JOB, None)

    async def _hold(self) -> None:
        released = self._filtered.store.released
        released.clear() if released.is_set() else released.set()

    async def _open(self) -> None:
        version = self._random.choice([None, 0, len(self._owners)])
        subscription = Subscription(FakeWatcher(), ANNAS.for_job(UUID(JOB)), version)
        self._filtered.synchronizer.subscribe(subscription)
        self._subscriptions.append(subscription)
        self._filtered.watch()  # with the token of the job, which publications reach at once

    async def _block(self) -> None:
        for subscription in self._subscriptions:
            watcher = cast(FakeWatcher, subscription.watcher)
            watcher.is_writable = self._random.random() < 0.5
            if watcher.is_writable and self._filtered.hub.has(subscription):
                self._filtered.synchronizer.flush(subscription)

    async def _read(self) -> None:
        for _ in range(self._random.randint(1, 5)):
            await asyncio.sleep(0)

    async def check(self) -> None:
        """Assert that no watcher got a version of another owner's, and that all end up with the last one of Anna's."""
        self._filtered.store.released.set()
        await self._filtered.settle()
        last = len(self._owners) + 1
        self._owners[last] = "anna"
        self._filtered.store.records[JOB] = record_of("anna", last)
        for subscription in self._subscriptions:
            cast(FakeWatcher, subscription.watcher).is_writable = True
        self._filtered.publish(last)
        await self._filtered.settle()
        for subscription in self._subscriptions:
            events = cast(FakeWatcher, subscription.watcher).events
            versions = [event for event in events if isinstance(event, int)]
            assert {self._owners[version] for version in versions} <= {"anna"}
            assert versions == sorted(set(versions))
            if subscription not in self._filtered.ended:
                assert versions[-1] == last


@pytest.mark.parametrize("seed", range(50))
async def test_no_history_shows_another_owners_version(seed: int) -> None:
    """In any order of changes, publications, reads and backpressure. Those that stay subscribed get the last one."""
    async with running() as filtered:
        history = History(filtered, seed)
        for _ in range(40):
            await history.step()
        await history.check()
