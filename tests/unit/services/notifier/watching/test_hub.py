"""The hub is bookkeeping without I/O, so that tests can try every order of events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.contracts import ENDED, JobSnapshot, JobStatus, Json, Timestamp, decode, encode
from headway.labels import JobFilter
from headway.tokens import Grant
from services.notifier.records.record_read import RecordRead
from services.notifier.transports.websocket.protocol import encode_snapshot, encode_text
from services.notifier.watching.hub import Hub, Subscription
from services.notifier.watching.snapshot import PublishedSnapshot, placeholder_snapshot

JOB = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
OTHER = UUID("00000000-0000-4000-8000-000000000002")
NOW = Timestamp.now()
GRANT = Grant(job_id=JOB, kind="countdown", submitted_at=NOW, expires_at=NOW.after(86_400))


class FakeWatcher:
    """A connection that records the snapshots and errors that it is sent."""

    def __init__(self) -> None:
        self.sent: list[PublishedSnapshot] = []
        self.errors: list[tuple[str, str]] = []
        self.is_writable = True

    @property
    def versions(self) -> list[int]:
        """The versions of the snapshots, in order."""
        return [snapshot.version for snapshot in self.sent]

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        if self.is_writable:
            self.sent.append(snapshot)
        return self.is_writable

    def send_error(self, job_id: str, code: str, message: str) -> None:
        self.errors.append((job_id, code))

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:
        raise AssertionError("the hub reads no records")

    def on_failure(self, error: Exception) -> None:
        raise error


class BrokenWatcher(FakeWatcher):
    """A connection that raises an error when something is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        raise RuntimeError("a bug")

    def send_error(self, job_id: str, code: str, message: str) -> None:
        raise RuntimeError("a bug")

    def on_failure(self, error: Exception) -> None:
        self.failures.append(error)


def snapshot(
    version: int, status: JobStatus = "running", result: bytes = b"null", lease_until: Timestamp | None = NOW
) -> PublishedSnapshot:
    """Return a snapshot as the record script publishes it."""
    state = JobSnapshot(
        id=JOB,
        kind='"status":"failed","version":9',
        status=status,
        version=version,
        result=Json(result),
        submitted_at=NOW,
        expires_at=NOW,
        lease_until=lease_until,
    )
    return PublishedSnapshot(encode(state))


@dataclass
class Model:
    """A hub, the events so far, and what must hold for each subscription."""

    hub: Hub = field(default_factory=Hub)
    subscribed: dict[int, tuple[Subscription, FakeWatcher]] = field(default_factory=dict)
    broadcasts: dict[int, list[int]] = field(default_factory=dict)  # by client, since its subscription
    all_broadcasts: set[int] = field(default_factory=set)

    def join(self, client: int, client_version: int | None) -> None:
        """Subscribe with a new connection, which names a version; end the client's earlier subscription."""
        self.leave(client)
        watcher = FakeWatcher()
        subscription = Subscription(watcher, GRANT, client_version)
        assert self.hub.subscribe(subscription, 0.0) is (not self.subscribed)
        self.subscribed[client] = subscription, watcher
        self.broadcasts[client] = []

    def leave(self, client: int) -> None:
        """End a client's subscription, and check what it received."""
        if client in self.subscribed:
            self.drain(client)
            subscription, watcher = self.subscribed.pop(client)
            assert self.hub.unsubscribe(subscription) is (not self.subscribed)
            self.check(subscription, watcher, self.broadcasts.pop(client))

    def broadcast_version(self, version: int) -> None:
        """Broadcast a version, which may be newer or older than the last one."""
        self.hub.broadcast(str(JOB), snapshot(version), 0.0)
        self.all_broadcasts.add(version)
        for versions in self.broadcasts.values():
            versions.append(version)

    def stall(self, client: int) -> None:
        """Put a client's connection under backpressure."""
        if client in self.subscribed:
            self.subscribed[client][1].is_writable = False

    def drain(self, client: int) -> None:
        """End the backpressure of a client's connection, and send the pending snapshot."""
        if client in self.subscribed:
            subscription, watcher = self.subscribed[client]
            watcher.is_writable, seen = True, len(watcher.sent)
            pending = self.hub.flush(subscription)
            assert watcher.sent[seen:] == ([] if pending is None else [pending])

    def lose_record(self, client: int) -> None:
        """Report that the job has no record."""
        if client in self.subscribed:
            subscription, watcher = self.subscribed[client]
            seen, error_count = list(watcher.versions), len(watcher.errors)
            self.hub.on_missing_record(subscription)
            unknown = subscription.client_version > 0 and not seen
            assert watcher.errors[error_count:] == ([(str(JOB), "unknown")] if unknown else [])
            placeholder = subscription.client_version == -1 and not seen and watcher.is_writable
            assert watcher.versions[len(seen) :] == ([0] if placeholder else [])

    def check(self, subscription: Subscription, watcher: FakeWatcher, delivered: list[int]) -> None:
        """Check all versions that a subscription received."""
        versions = [subscription.client_version, *watcher.versions]
        assert all(earlier < later for earlier, later in pairwise(versions)), versions
        assert versions[-1] >= max([subscription.client_version, *delivered]), "the last version is missing"
        assert set(versions[1:]) <= {0, *self.all_broadcasts}  # also one that is pending for another watcher


CLIENTS = st.integers(0, 3)
events = st.one_of(
    st.tuples(st.just("join"), CLIENTS, st.none() | st.integers(0, 6)),
    st.tuples(st.just("leave"), CLIENTS, st.none()),
    st.tuples(st.just("broadcast"), st.integers(0, 9), st.none()),
    st.tuples(st.sampled_from(["lose_record", "stall", "drain"]), CLIENTS, st.none()),
)


@settings(max_examples=300)
@given(st.lists(events, max_size=40))
def test_every_watcher_ends_with_the_last_version(steps: list[tuple[str, int, int | None]]) -> None:
    """In any order of events, versions only rise, and each watcher receives the last version."""
    model = Model()
    actions: dict[str, Callable[[int, int | None], None]] = {
        "join": model.join,
        "leave": lambda client, _: model.leave(client),
        "broadcast": lambda version, _: model.broadcast_version(version),
        "lose_record": lambda client, _: model.lose_record(client),
        "stall": lambda client, _: model.stall(client),
        "drain": lambda client, _: model.drain(client),
    }
    for name, number, client_version in steps:
        actions[name](number, client_version)
    for client in list(model.subscribed):
        model.leave(client)
    assert len(model.hub) == 0


def test_a_missing_record_never_replaces_a_known_snapshot() -> None:
    """A watcher that names a version gets the error `unknown`, and its subscription stays."""
    hub, watcher = Hub(), FakeWatcher()
    subscription = Subscription(watcher, GRANT, 5)
    hub.subscribe(subscription, 0.0)
    hub.on_missing_record(subscription)
    assert (watcher.errors, watcher.sent) == ([(str(JOB), "unknown")], [])
    hub.broadcast(str(JOB), snapshot(6), 0.0)
    assert watcher.versions == [6]


def test_a_job_without_a_record_is_queued() -> None:
    """A new watcher gets version 0, which is created from its token."""
    hub, watcher = Hub(), FakeWatcher()
    due_at = Timestamp.now().after(600)
    subscription = Subscription(watcher, msgspec.structs.replace(GRANT, due_at=due_at), None)
    hub.subscribe(subscription, 0.0)
    hub.on_missing_record(subscription)
    placeholder = decode(watcher.sent[0].text, JobSnapshot)
    assert (placeholder.id, placeholder.kind, placeholder.status, placeholder.version) == (
        JOB,
        "countdown",
        "queued",
        0,
    )
    assert (placeholder.submitted_at, placeholder.expires_at, placeholder.due_at) == (NOW, GRANT.expires_at, due_at)


def test_a_job_that_is_due_is_no_longer_delayed() -> None:
    """A due time that has passed is null."""
    assert b'"due_at":null' in placeholder_snapshot(msgspec.structs.replace(GRANT, due_at=NOW.after(-1)))


def test_a_slow_consumer_gets_the_newest_snapshot_later() -> None:
    """A newer snapshot replaces the pending one and is counted; the other watcher gets every snapshot."""
    hub, slow, quick = Hub(), FakeWatcher(), FakeWatcher()
    subscription = Subscription(slow, GRANT, None)
    for added in (subscription, Subscription(quick, GRANT, None)):
        hub.subscribe(added, 0.0)
    assert hub.broadcast(str(JOB), snapshot(1), 0.0) == (2, 0)
    slow.is_writable = False
    assert hub.broadcast(str(JOB), snapshot(2), 0.0) == (1, 0)
    assert hub.broadcast(str(JOB), snapshot(3), 0.0) == (1, 1)
    assert hub.broadcast(str(JOB), snapshot(2), 0.0) == (0, 0)
    assert hub.flush(subscription) is None
    assert hub.subscription_count() == 2
    slow.is_writable = True
    assert hub.flush(subscription) is quick.sent[-1]
    assert hub.flush(subscription) is None
    assert hub.broadcast(str(JOB), snapshot(4), 0.0) == (2, 0)
    assert (slow.versions, quick.versions) == ([1, 3, 4], [1, 2, 3, 4])


def test_a_slow_consumer_gets_the_placeholder_later() -> None:
    """A connection that has backpressure from the start gets version 0 when it drains."""
    hub, watcher = Hub(), FakeWatcher()
    subscription, watcher.is_writable = Subscription(watcher, GRANT, None), False
    hub.subscribe(subscription, 0.0)
    hub.on_missing_record(subscription)
    assert hub.uninitialized(str(JOB)) == [subscription]
    watcher.is_writable = True
    hub.flush(subscription)
    assert watcher.versions == [0]


def test_a_broken_watcher_does_not_disturb_the_others() -> None:
    """An error that it raises is its own, whatever it was sent; the others get every snapshot."""
    hub = Hub()
    broken, filtering_broken = BrokenWatcher(), BrokenWatcher()
    watchers = [FakeWatcher(), broken, FakeWatcher()]
    filtering = [FakeWatcher(), filtering_broken, FakeWatcher()]
    some_jobs = msgspec.structs.replace(GRANT, filter=JobFilter(kind="k"), requires_record=True)
    for watcher in watchers:
        hub.subscribe(Subscription(watcher, GRANT, None), 0.0)
    for watcher in filtering:
        subscription = Subscription(watcher, some_jobs, None)
        hub.subscribe(subscription, 0.0)
        hub.on_missing_record(subscription)
    assert hub.broadcast(str(JOB), snapshot(1), 0.0) == (2, 0)
    hub.send_matching(str(JOB), RecordRead(snapshot(1).text, b'"k"', b"{}", None), snapshot(1))
    assert [watcher.versions for watcher in watchers] == [[1], [], [1]]
    assert [watcher.versions for watcher in filtering] == [[1], [], [1]]
    assert [len(watcher.errors) for watcher in filtering] == [1, 0, 1]
    assert [len(watcher.failures) for watcher in (broken, filtering_broken)] == [1, 2]


def test_the_stalest_running_job_decides_the_age() -> None:
    """Jobs that wait or have ended may be silent, and a new version makes a job fresh; a repeated one does not."""
    hub = Hub()
    for job_id in (JOB, OTHER):
        hub.subscribe(Subscription(FakeWatcher(), msgspec.structs.replace(GRANT, job_id=job_id), None), 0.0)
    assert hub.stalest_running_s(100.0) == 0
    hub.broadcast(str(JOB), snapshot(1), 10.0)
    hub.broadcast(str(OTHER), snapshot(1), 30.0)
    assert hub.stalest_running_s(100.0) == 90
    hub.broadcast(str(JOB), snapshot(2), 60.0)
    hub.broadcast(str(OTHER), snapshot(1), 90.0)
    assert hub.stalest_running_s(100.0) == 70
    hub.broadcast(str(OTHER), snapshot(2, "succeeded"), 95.0)
    assert hub.stalest_running_s(100.0) == 40
    hub.broadcast(str(JOB), snapshot(3, "retrying"), 95.0)
    assert hub.stalest_running_s(100.0) == 0


def test_a_running_job_without_a_lease_may_be_silent() -> None:
    """A program that reports in one line gives no signs of life between its reports."""
    hub = Hub()
    hub.subscribe(Subscription(FakeWatcher(), GRANT, None), 0.0)
    hub.broadcast(str(JOB), snapshot(1, lease_until=None), 10.0)
    assert hub.stalest_running_s(1000.0) == 0
    hub.broadcast(str(JOB), snapshot(2), 20.0)
    assert hub.stalest_running_s(1000.0) == 980


def test_a_watcher_s_new_subscription_replaces_the_earlier_one() -> None:
    """The new subscription starts over, and the end of the earlier one does not end it."""
    hub, watcher = Hub(), FakeWatcher()
    first, second = Subscription(watcher, GRANT, 3), Subscription(watcher, GRANT, None)
    assert hub.subscribe(first, 0.0)
    assert not hub.subscribe(second, 0.0)
    assert not hub.unsubscribe(first)
    hub.on_missing_record(first)
    hub.broadcast(str(JOB), snapshot(2), 0.0)
    assert (watcher.versions, watcher.errors) == ([2], [])
    assert hub.unsubscribe(second)
    assert not hub.unsubscribe(second)


def test_only_the_watchers_of_a_job_get_its_snapshots() -> None:
    """A snapshot of a job without watchers is dropped."""
    hub, watcher = Hub(), FakeWatcher()
    hub.subscribe(Subscription(watcher, GRANT, None), 0.0)
    hub.broadcast(str(OTHER), snapshot(1), 0.0)
    assert watcher.sent == []
    assert str(JOB) in hub
    assert str(OTHER) not in hub


def reads_until(hub: Hub, end: int, start: int = 0) -> list[int]:
    """Return the whole seconds at which the job's record should be read, at intervals from 5 s to 60 s."""
    return [now for now in range(start, end) if hub.take_stale_jobs(now, 5, 60)]


def test_a_silent_job_is_read_at_growing_intervals() -> None:
    """The interval doubles from the shortest to the longest; an update and a lost subscription restart it."""
    hub = Hub()
    hub.subscribe(Subscription(FakeWatcher(), GRANT, None), 0.0)
    assert reads_until(hub, 250) == [5, 10, 20, 40, 80, 140, 200]
    hub.broadcast(str(JOB), snapshot(1), 250.0)
    hub.broadcast(str(JOB), snapshot(1), 253.0)  # a read without a newer version is not an update
    assert reads_until(hub, 280, 250) == [255, 260, 270]
    hub.restart_silence(str(JOB), 280.0)
    hub.restart_silence(str(OTHER), 280.0)
    assert reads_until(hub, 300, 280) == [285, 290]


def test_the_interval_of_reads_has_a_minimum() -> None:
    """With equal bounds, the interval stays the same."""
    hub = Hub()
    hub.subscribe(Subscription(FakeWatcher(), GRANT, None), 0.0)
    assert [now for now in range(30) if hub.take_stale_jobs(now, 5, 5)] == [5, 10, 15, 20, 25]


def test_a_job_that_has_ended_is_not_read() -> None:
    """A redriven job is read again; a record that was read before the redrive, and comes after it, changes nothing."""
    hub = Hub()
    hub.subscribe(Subscription(FakeWatcher(), GRANT, None), 0.0)
    for version, status in enumerate(sorted(ENDED), 2):
        hub.broadcast(str(JOB), snapshot(version, status), 0.0)
        assert reads_until(hub, 99) == []
    hub.broadcast(str(JOB), snapshot(9, "running"), 100.0)
    hub.broadcast(str(JOB), snapshot(8, "failed"), 100.0)
    assert reads_until(hub, 109, 100) == [105]


def test_the_header_of_a_snapshot_is_parsed() -> None:
    """Version and status are found whatever texts the job contains, and the snapshot's text is unchanged."""
    tricky = snapshot(7, "succeeded", b'{"status":"running","version":8}')
    assert (tricky.version, tricky.ended) == (7, True)
    assert not snapshot(7, "retrying").ended
    spaced = tricky.text.replace(b',"version":7', b' ,\n"version" : 7')
    assert (PublishedSnapshot(spaced).version, PublishedSnapshot(spaced).text) == (7, spaced)


HEAD = b'{"id":"%b","status":"running","version":1' % str(JOB).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"garbage",
        b"null",
        b"{}",
        HEAD + b',"version":-1}',
        HEAD + b',"id":7}',
        HEAD.replace(b"running", b"on") + b"}",
        HEAD + b',"result":garbage}',
        HEAD + b',"kind":"\xff"}',
        HEAD + b"}}",
        HEAD + b',"result":' + b"[" * 9000 + b"]" * 9000 + b"}",
    ],
)
def test_invalid_text_is_not_a_snapshot(text: bytes) -> None:
    """A browser closes a socket that sends such text, and the socket carries other jobs, too."""
    assert PublishedSnapshot.parse(str(JOB), HEAD + b"}") is not None
    assert PublishedSnapshot.parse(str(JOB), text) is None


def test_a_snapshot_is_encoded_once() -> None:
    """All connections of a transport are sent the same bytes."""
    published = snapshot(1)
    encoded = published.encoded(encode_snapshot)
    assert published.encoded(encode_snapshot) is encoded
    assert encoded == encode_text(b'{"job":' + published.text + b"}")
