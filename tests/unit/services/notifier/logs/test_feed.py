"""The feed of logs, over a log in memory whose reads and publications arrive when a test says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError

from headway.contracts import Timestamp
from headway.labels import JobFilter
from headway.tokens import Grant
from services.notifier.logs import feed as module
from services.notifier.logs.feed import LogFeed, LogSubscription
from services.notifier.logs.piece import LogPiece, encode_json
from services.notifier.logs.store import StoredLog
from services.notifier.records.keys import log_key
from tests.unit.services.notifier.transports.notifier_parts import FakePubSub
from tests.waiting import wait_until

JOB = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
CHANNEL = log_key(JOB)


def grant(scope: str = "watch details", job_filter: JobFilter | None = None) -> Grant:
    """Return a grant for the job."""
    now = Timestamp.now()
    scopes = frozenset(scope.split())
    return Grant(job_id=JOB, kind="k", submitted_at=now, expires_at=now.after(60), scope=scopes, filter=job_filter)


class Watcher:
    """A connection that collects the log, of which it must get each byte once."""

    def __init__(self, offset: int = 0) -> None:
        self.pieces: list[LogPiece] = []
        self.offset = offset
        self.writable = True

    @property
    def data(self) -> bytes:
        """What was sent."""
        return b"".join(piece.data for piece in self.pieces)

    def is_writable(self) -> bool:
        """Return what the test says."""
        return self.writable

    def send_log(self, piece: LogPiece) -> None:
        """Collect a piece, which must follow the last one."""
        assert self.writable
        assert piece.start >= self.offset
        self.pieces.append(piece)
        self.offset = piece.end

    def on_failure(self, error: Exception) -> None:
        """Raise the error: no test but one expects any."""
        raise error


class BrokenWatcher(Watcher):
    """A connection that raises an error when something is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []

    def send_log(self, piece: LogPiece) -> None:
        """Raise an error."""
        raise RuntimeError("a bug")

    def on_failure(self, error: Exception) -> None:
        """Record an error."""
        self.failures.append(error)


class World:
    """A log in Redis, with the reads and the publications that are on their way, and the feed."""

    def __init__(self, *, watchers: bool = False) -> None:
        self.data = b""
        self.base = 0
        self.for_watchers = watchers
        self.publications: deque[bytes] = deque()
        self.reads: deque[asyncio.Future[None]] = deque()  # in progress
        self.read_offsets: list[int] = []
        self.holds_reads = False
        self.failure: Exception | None = None
        self.record: Any = None
        self.pubsub = FakePubSub()
        self.pubsub.confirms = True
        self.feed = LogFeed(cast(Any, self), cast(Any, SimpleNamespace(read=self.read_records)), cast(Any, self.pubsub))

    def append(self, data: bytes) -> None:
        """Append to the log, and publish that."""
        self.publications.append(b"%d 1 %d\n%b" % (self.base + len(self.data), self.for_watchers, data))
        self.data += data

    def publish(self, count: int = 1000) -> None:
        """Deliver publications."""
        while self.publications and count:
            self.feed.on_publication(CHANNEL, self.publications.popleft())
            count -= 1

    async def read(self, positions: Sequence[tuple[str, int]]) -> list[StoredLog | None]:
        """Read the log now, and return it when the test says."""
        ((job_id, offset),) = positions
        assert job_id == str(JOB)
        self.read_offsets.append(offset)
        if self.failure is not None:
            raise self.failure
        end = self.base + len(self.data)
        stored = StoredLog(self.base, end, 1, self.for_watchers, self.data[max(0, offset - self.base) :])
        if self.holds_reads:
            self.reads.append(asyncio.get_running_loop().create_future())
            await self.reads[-1]
        return [stored if end else None]

    async def read_records(self, _job_ids: list[str]) -> list[Any]:
        """Return the record."""
        return [self.record]

    def hold_reads(self) -> None:
        """Keep the results of reads from now on."""
        self.holds_reads = True

    def finish_reads(self) -> None:
        """Return the reads in progress."""
        self.holds_reads = False
        while self.reads:
            self.reads.popleft().set_result(None)


async def settle() -> None:
    """Run the tasks of the feed until each one waits."""
    for _ in range(8):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """Run the feed until the block ends."""
    task = asyncio.create_task(world.feed.read_loop())
    try:
        yield world
        await settle()
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


STEPS = ("append", "publish", "hold", "finish", "lose", "join", "rejoin", "stall", "drain")


@given(steps=st.lists(st.sampled_from(STEPS), max_size=40))
@settings(max_examples=150)
async def test_every_watcher_gets_each_byte_once(steps: list[str]) -> None:
    """Whatever the order of publications, reads, lost connections to Redis, joins, and slow consumers."""
    async with running(World()) as world:
        watchers = [Watcher()]
        world.feed.subscribe(watchers[0], grant(), 0)
        for number, step in enumerate(steps):
            take_step(world, watchers, step)
            if number % 2:
                await settle()
        world.holds_reads = False
        for watcher in watchers:
            drain(world, watcher)
        for _ in range(3):
            world.finish_reads()
            world.publish()
            await settle()
        assert [watcher.data for watcher in watchers] == [world.data] * len(watchers)


def take_step(world: World, watchers: list[Watcher], step: str) -> None:
    """Do one thing, which may concern the last watcher."""
    last = watchers[-1]
    if step == "lose":
        world.publications.clear()
        world.feed.on_subscribed(CHANNEL)
    elif step == "join":
        watchers.append(Watcher())
        world.feed.subscribe(watchers[-1], grant(), 0)
    elif step == "rejoin":
        world.feed.subscribe(last, grant(), last.offset)
    elif step == "stall":
        last.writable = False
    else:
        actions: dict[str, Callable[[], None]] = {
            "append": lambda: world.append(b"%d " % len(world.data)),
            "publish": lambda: world.publish(1),
            "hold": world.hold_reads,
            "finish": world.finish_reads,
            "drain": lambda: drain(world, last),
        }
        actions[step]()


def drain(world: World, watcher: Watcher) -> None:
    """Make the connection of a watcher writable."""
    watcher.writable = True
    world.feed.flush(watcher)


async def test_published_pieces_are_not_read() -> None:
    """A watcher that has the log up to the piece gets it directly, encoded once for all watchers."""
    async with running(World()) as world:
        watchers = [Watcher(), Watcher()]
        for watcher in watchers:
            world.feed.subscribe(watcher, grant(), 0)
        await settle()
        world.append("é\0</script>\n".encode())
        world.publish()
        assert [watcher.data for watcher in watchers] == [world.data] * 2
        first, second = (watcher.pieces[0].encoded(encode_json) for watcher in watchers)
        assert first is second
        assert first == f'{{"job_id":"{JOB}","from":0,"to":13,"attempt":1,"text":"é\\u0000</script>\\n"}}'.encode()
        await settle()
        assert world.read_offsets == [0]


async def test_a_broken_watcher_does_not_disturb_the_others() -> None:
    """An error that it raises is its own, whether the piece was published or read."""
    async with running(World()) as world:
        broken = BrokenWatcher()
        watchers = [Watcher(), broken, Watcher()]
        world.append(b"read\n")
        for watcher in watchers:
            world.feed.subscribe(watcher, grant(), 0)
        await settle()
        world.publish()
        world.append(b"published\n")
        world.publish()
        await settle()
        assert [watcher.data for watcher in watchers] == [world.data, b"", world.data]
        assert len(broken.failures) >= 2


async def test_a_stalled_watcher_costs_no_reads() -> None:
    """Pieces are skipped until its connection drains; then one read brings them all."""
    async with running(World()) as world:
        watcher = Watcher()
        world.feed.subscribe(watcher, grant(), 0)
        await settle()
        watcher.writable = False
        for _ in range(10):
            world.append(b"line\n")
            world.publish()
            await settle()
        assert world.read_offsets == [0]
        watcher.writable = True
        world.feed.flush(watcher)
        await settle()
        assert (len(watcher.pieces), watcher.data, world.read_offsets) == (1, world.data, [0, 0])


async def test_a_lost_log_begins_again() -> None:
    """The log that Redis has lost, with a watcher that had more of it; a piece that is not the first one shows it."""
    async with running(World()) as world:
        watcher = Watcher()
        world.append(b"lost\n" * 100)
        world.feed.subscribe(watcher, grant(), 0)
        await settle()
        world.publish()
        world.data, watcher.offset = b"", 0
        world.append(b"new\n")
        world.publish()
        await settle()
        assert (watcher.pieces[-1].start, watcher.pieces[-1].data) == (0, b"new\n")
        world.append(b"more\n")
        world.publish()
        assert watcher.pieces[-1].data == b"more\n"


async def test_a_log_whose_beginning_is_gone_starts_at_its_base() -> None:
    """The piece says where the text begins."""
    async with running(World()) as world:
        world.base, watcher = 1_000, Watcher()
        world.append(b"the rest\n")
        world.feed.subscribe(watcher, grant(), 10)
        await settle()
        assert (watcher.pieces[0].start, watcher.data) == (1_000, b"the rest\n")


@pytest.mark.parametrize("live", [False, True])
async def test_a_closed_log_ends_the_subscription(live: bool) -> None:
    """A watcher without the scope `details` gets nothing of a stored or a published piece; an open log it gets."""
    async with running(World()) as world:
        refused: list[LogSubscription] = []
        world.feed.on_forbidden = refused.append
        watcher = Watcher()
        if live:
            world.feed.subscribe(watcher, grant("watch"), 0)
            await settle()
        world.append(b"secret\n")
        if not live:
            world.feed.subscribe(watcher, grant("watch"), 0)
            await settle()
        world.publish()
        world.append(b"secret\n")
        world.publish()
        assert ([each.watcher for each in refused], watcher.pieces, world.pubsub.open) == ([watcher], [], {})
    async with running(World(watchers=True)) as world:
        watcher = Watcher()
        world.feed.subscribe(watcher, grant("watch"), 0)
        await settle()
        world.append(b"open\n")
        world.publish()
        assert watcher.data == b"open\n"


async def test_a_filter_is_checked_before_each_piece() -> None:
    """A record that is missing, or has other labels, opens nothing; one that matches later opens the whole log."""
    async with running(World()) as world:
        watcher = Watcher()
        world.feed.subscribe(watcher, grant(job_filter=JobFilter(owner="anna")), 0)
        await settle()
        for record in (None, SimpleNamespace(matches=lambda _filter: False)):
            world.record = record
            world.append(b"line\n")
            world.publish()
            await settle()
            assert watcher.pieces == []
        world.record = SimpleNamespace(matches=lambda job_filter: job_filter == JobFilter(owner="anna"))
        world.append(b"line\n")
        world.publish()
        await settle()
        assert watcher.data == world.data
    async with running(World()) as world:
        watcher = Watcher()
        world.feed.subscribe(watcher, grant(job_filter=JobFilter()), 0)  # of an operator: it needs no read
        await settle()
        world.append(b"line\n")
        world.publish()
        assert watcher.data == world.data


async def test_a_failed_read_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher gets the log once Redis is available."""
    monkeypatch.setattr(module, "RETRY_DELAY_S", 0.001)
    async with running(World()) as world:
        world.failure, watcher = RedisError("away"), Watcher()
        world.append(b"line\n")
        world.feed.subscribe(watcher, grant(), 0)
        await wait_until(lambda: len(world.read_offsets) > 2)
        world.failure = None
        await wait_until(lambda: watcher.data == b"line\n")


async def test_channels_are_open_while_a_log_is_followed() -> None:
    """One per job, however many watchers it has; and a watcher that ends leaves nothing behind."""
    world = World()
    first, second = Watcher(), Watcher()
    for watcher in (first, second, first):
        world.feed.subscribe(watcher, grant(), 0)
    assert set(world.pubsub.open) == {CHANNEL}
    world.feed.unsubscribe(first, str(JOB))
    world.feed.unsubscribe(first, str(JOB))
    assert set(world.pubsub.open) == {CHANNEL}
    world.feed.close(second)
    world.feed.close(second)
    assert (world.pubsub.open, world.feed._by_job, world.feed._by_watcher) == ({}, {}, {})


@pytest.mark.parametrize("publication", [b"", b"1 2\ntext", b"x 1 1\ntext", b"\xff"])
async def test_publications_of_other_programs_are_ignored(publication: bytes) -> None:
    """They do not end the feed."""
    world, watcher = World(), Watcher()
    world.feed.subscribe(watcher, grant(), 0)
    world.feed.on_publication(CHANNEL, publication)
    assert watcher.pieces == []
