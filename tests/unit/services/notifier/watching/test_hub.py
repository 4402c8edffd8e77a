"""The hub: pure bookkeeping, so that every order of events can be tried."""

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
from headway.tokens import LEEWAY_S, Grant
from services.notifier.transports.websocket.connection import encode_snapshot
from services.notifier.transports.websocket.frames import Opcode, encode_frame
from services.notifier.watching.hub import Hub, Subscription
from services.notifier.watching.snapshot import PublishedSnapshot, placeholder_snapshot

JOB = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
OTHER = UUID("00000000-0000-4000-8000-000000000002")
NOW = Timestamp.now()
GRANTED = Grant(job_id=JOB, kind="countdown", submitted_at=NOW, expires_at=NOW.after(3600))


class FakeWatcher:
    """A connection that remembers what it was given."""

    def __init__(self) -> None:
        self.sent: list[PublishedSnapshot] = []
        self.errors: list[tuple[str, str]] = []
        self.is_writable = True

    @property
    def versions(self) -> list[int]:
        """The versions that it was given, in order."""
        return [snapshot.version for snapshot in self.sent]

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        if self.is_writable:
            self.sent.append(snapshot)
        return self.is_writable

    def send_error(self, job_id: str, code: str, message: str) -> None:
        self.errors.append((job_id, code))

    def on_up_to_date(self, job_id: str, *, ended: bool) -> None:
        raise AssertionError("the hub does not read")


def snapshot(version: int, status: JobStatus = "running", result: bytes = b"null") -> PublishedSnapshot:
    """Return a snapshot as the gate publishes it."""
    state = JobSnapshot(
        id=JOB,
        kind='"status":"failed","version":9',
        status=status,
        version=version,
        result=Json(result),
        submitted_at=NOW,
        expires_at=NOW,
    )
    return PublishedSnapshot(encode(state))


@dataclass
class Model:
    """A hub, what has happened to it, and what must hold of every watch that ever was."""

    hub: Hub = field(default_factory=Hub)
    joined: dict[int, tuple[Subscription, FakeWatcher]] = field(default_factory=dict)
    delivered_since: dict[int, list[int]] = field(default_factory=dict)

    def join(self, who: int, named: int | None) -> None:
        """Join, or join again under another version, as a connection of its own."""
        self.leave(who)
        watcher = FakeWatcher()
        watch = Subscription(watcher, GRANTED, named)
        assert self.hub.subscribe(watch, 0.0) is (not self.joined)
        self.joined[who] = watch, watcher
        self.delivered_since[who] = []

    def leave(self, who: int) -> None:
        """Leave, and hear nothing more."""
        if who in self.joined:
            self.drain(who)
            watch, watcher = self.joined.pop(who)
            assert self.hub.unsubscribe(watch) is (not self.joined)
            self.check(watch, watcher, self.delivered_since.pop(who))

    def deliver(self, version: int) -> None:
        """Deliver a version, new or old."""
        self.hub.broadcast(str(JOB), snapshot(version), 0.0)
        for versions in self.delivered_since.values():
            versions.append(version)

    def stall(self, who: int) -> None:
        """Take nothing for now."""
        if who in self.joined:
            self.joined[who][1].is_writable = False

    def drain(self, who: int) -> None:
        """Take what comes again, first of all what was missed."""
        if who in self.joined:
            watch, watcher = self.joined[who]
            watcher.is_writable, seen = True, len(watcher.sent)
            missed = self.hub.flush(watch)
            assert watcher.sent[seen:] == ([] if missed is None else [missed])

    def absent(self, who: int) -> None:
        """Tell that there is no record."""
        if who in self.joined:
            watch, watcher = self.joined[who]
            seen, told = list(watcher.versions), len(watcher.errors)
            self.hub.on_missing_record(watch)
            unknown = watch.client_version > 0 and not seen
            assert watcher.errors[told:] == ([(str(JOB), "unknown")] if unknown else [])
            shown = watch.client_version == -1 and not seen and watcher.is_writable
            assert watcher.versions[len(seen) :] == ([0] if shown else [])

    def check(self, watch: Subscription, watcher: FakeWatcher, delivered: list[int]) -> None:
        """Check what one watch has seen, from its beginning to now."""
        versions = [watch.client_version, *watcher.versions]
        assert all(sooner < later for sooner, later in pairwise(versions)), versions
        assert versions[-1] >= max([watch.client_version, *delivered]), "the last version is missing"
        assert set(versions[1:]) <= {0, *delivered}


WHO = st.integers(0, 3)
events = st.one_of(
    st.tuples(st.just("join"), WHO, st.none() | st.integers(0, 6)),
    st.tuples(st.just("leave"), WHO, st.none()),
    st.tuples(st.just("deliver"), st.integers(0, 9), st.none()),
    st.tuples(st.sampled_from(["absent", "stall", "drain"]), WHO, st.none()),
)


@settings(max_examples=300)
@given(st.lists(events, max_size=40))
def test_every_watcher_ends_with_the_last_version(steps: list[tuple[str, int, int | None]]) -> None:
    """Whatever comes in whatever order, versions only rise, and nobody is left behind."""
    model = Model()
    act: dict[str, Callable[[int, int | None], None]] = {
        "join": model.join,
        "leave": lambda who, _: model.leave(who),
        "deliver": lambda version, _: model.deliver(version),
        "absent": lambda who, _: model.absent(who),
        "stall": lambda who, _: model.stall(who),
        "drain": lambda who, _: model.drain(who),
    }
    for name, number, named in steps:
        act[name](number, named)
    for who in list(model.joined):
        model.leave(who)
    assert len(model.hub) == 0


def test_absence_never_replaces_presence() -> None:
    """A watcher that names a version is told that its job is unknown, and stays to see what comes."""
    hub, watcher = Hub(), FakeWatcher()
    watch = Subscription(watcher, GRANTED, 5)
    hub.subscribe(watch, 0.0)
    hub.on_missing_record(watch)
    assert (watcher.errors, watcher.sent) == ([(str(JOB), "unknown")], [])
    hub.broadcast(str(JOB), snapshot(6), 0.0)
    assert watcher.versions == [6]


def test_a_job_without_a_record_is_queued() -> None:
    """A new watcher is shown version 0, told from its token alone."""
    hub, watcher = Hub(), FakeWatcher()
    due_at = NOW.after(600)
    watch = Subscription(watcher, msgspec.structs.replace(GRANTED, due_at=due_at), None)
    hub.subscribe(watch, 0.0)
    hub.on_missing_record(watch)
    shown = decode(watcher.sent[0].text, JobSnapshot)
    assert (shown.id, shown.kind, shown.status, shown.version) == (JOB, "countdown", "queued", 0)
    assert (shown.submitted_at, shown.expires_at, shown.due_at) == (NOW, GRANTED.expires_at, due_at)


def test_a_job_that_is_due_is_no_longer_delayed() -> None:
    """A due time that has passed is not shown."""
    assert b'"due_at":null' in placeholder_snapshot(msgspec.structs.replace(GRANTED, due_at=NOW.after(-1)))


def test_who_takes_nothing_gets_the_newest_later() -> None:
    """What was missed is kept once, and told as replaced; the others are shown all of it."""
    hub, slow, quick = Hub(), FakeWatcher(), FakeWatcher()
    watch = Subscription(slow, GRANTED, None)
    for one in (watch, Subscription(quick, GRANTED, None)):
        hub.subscribe(one, 0.0)
    assert hub.broadcast(str(JOB), snapshot(1), 0.0) == (2, 0)
    slow.is_writable = False
    assert hub.broadcast(str(JOB), snapshot(2), 0.0) == (1, 0)
    assert hub.broadcast(str(JOB), snapshot(3), 0.0) == (1, 1)
    assert hub.broadcast(str(JOB), snapshot(2), 0.0) == (0, 0)
    assert hub.flush(watch) is None
    assert hub.subscription_count() == 2
    slow.is_writable = True
    assert hub.flush(watch) is quick.sent[-1]
    assert hub.flush(watch) is None
    assert hub.broadcast(str(JOB), snapshot(4), 0.0) == (2, 0)
    assert (slow.versions, quick.versions) == ([1, 3, 4], [1, 2, 3, 4])


def test_who_takes_nothing_from_the_start_is_shown_that_it_is_queued() -> None:
    """The answer to a watch on a connection that is slow already is not lost."""
    hub, watcher = Hub(), FakeWatcher()
    watch, watcher.is_writable = Subscription(watcher, GRANTED, None), False
    hub.subscribe(watch, 0.0)
    hub.on_missing_record(watch)
    assert hub.uninitialized(str(JOB)) == [watch]
    watcher.is_writable = True
    hub.flush(watch)
    assert watcher.versions == [0]


def test_an_earlier_watch_of_the_same_watcher_ends() -> None:
    """Watching a job again begins anew, and the end of the first watch does not end the second."""
    hub, watcher = Hub(), FakeWatcher()
    first, second = Subscription(watcher, GRANTED, 3), Subscription(watcher, GRANTED, None)
    assert hub.subscribe(first, 0.0)
    assert not hub.subscribe(second, 0.0)
    assert not hub.unsubscribe(first)
    hub.on_missing_record(first)
    hub.broadcast(str(JOB), snapshot(2), 0.0)
    assert (watcher.versions, watcher.errors) == ([2], [])
    assert hub.unsubscribe(second)
    assert not hub.unsubscribe(second)


def test_only_the_watchers_of_a_job_are_shown_it() -> None:
    """A snapshot of a job that nobody watches goes nowhere."""
    hub, watcher = Hub(), FakeWatcher()
    hub.subscribe(Subscription(watcher, GRANTED, None), 0.0)
    hub.broadcast(str(OTHER), snapshot(1), 0.0)
    assert watcher.sent == []
    assert str(JOB) in hub
    assert str(OTHER) not in hub


def test_silence_is_told_of_jobs_that_go_on() -> None:
    """A watched job unheard of is named until it is heard, touched, or has ended."""
    hub = Hub()
    hub.subscribe(Subscription(FakeWatcher(), GRANTED, None), 10.0)
    assert hub.stale_jobs(10.0) == []
    assert hub.stale_jobs(10.1) == [str(JOB)]
    hub.mark_seen([str(JOB), str(OTHER)], 11.0)
    assert hub.stale_jobs(11.0) == []
    hub.broadcast(str(JOB), snapshot(1), 12.0)
    assert hub.stale_jobs(12.0) == []
    assert hub.stale_jobs(13.0) == [str(JOB)]
    for version, status in enumerate(sorted(ENDED), 2):
        hub.broadcast(str(JOB), snapshot(version, status), 14.0)
        assert hub.stale_jobs(99.0) == []
    hub.broadcast(str(JOB), snapshot(9), 15.0)
    assert hub.stale_jobs(99.0) == [str(JOB)]


def test_an_old_ending_does_not_hide_the_silence_of_a_job_that_runs_again() -> None:
    """A record read before a redrive, and shown after it, says nothing about the job any more."""
    hub = Hub()
    hub.subscribe(Subscription(FakeWatcher(), GRANTED, None), 0.0)
    hub.broadcast(str(JOB), snapshot(6, "running"), 1.0)
    hub.broadcast(str(JOB), snapshot(5, "failed"), 1.0)
    assert hub.stale_jobs(99.0) == [str(JOB)]


def test_watches_end_with_their_token() -> None:
    """Only the watches whose own token has expired are named."""
    hub, watcher = Hub(), FakeWatcher()
    long = Subscription(watcher, GRANTED, None)
    short = Subscription(FakeWatcher(), msgspec.structs.replace(GRANTED, expires_at=NOW), None)
    for watch in (long, short):
        hub.subscribe(watch, 0.0)
    assert hub.expired_subscriptions(NOW.after(LEEWAY_S)) == []
    assert hub.expired_subscriptions(NOW.after(LEEWAY_S + 1)) == [short]


def test_a_snapshot_is_read_whatever_it_holds() -> None:
    """Version and ending are found whatever the job's own texts look like, and its text stays as it is."""
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
def test_what_browsers_could_not_read_is_no_snapshot(text: bytes) -> None:
    """A socket that brings it would be closed, and carries other jobs, too."""
    assert PublishedSnapshot.parse(HEAD + b"}") is not None
    assert PublishedSnapshot.parse(text) is None


def test_a_frame_is_made_once_for_all_who_watch() -> None:
    """The same bytes go to every connection."""
    one = snapshot(1)
    encoded = one.encoded(encode_snapshot)
    assert one.encoded(encode_snapshot) is encoded
    assert encoded == encode_frame(Opcode.TEXT, b'{"job":' + one.text + b"}")
