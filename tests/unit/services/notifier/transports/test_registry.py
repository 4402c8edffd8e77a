"""How a replica closes its connections: on a clock that only the tested code advances."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.frames import CloseCode

from headway.timestamp import RemoteClock, Timestamp
from services.notifier import metrics
from services.notifier.logs.feed import LogFeed
from services.notifier.settings import NotifierSettings
from services.notifier.transports import registry as module
from services.notifier.transports.auth import TokenAuth
from services.notifier.transports.base import MAX_BUFFERED_BYTES, ClientConnection
from services.notifier.transports.long_poll import LongPollRequest
from services.notifier.transports.registry import ConnectionRegistry
from services.notifier.transports.sse import EventStream
from services.notifier.watching.snapshot import PublishedSnapshot
from services.notifier.watching.synchronizer import SnapshotSynchronizer
from services.runtime.errors import ServiceUnavailable
from tests.unit.services.notifier.transports.fake_transport import FakeTransport

RegistryTask = Callable[[ConnectionRegistry], Coroutine[Any, Any, None]]
DRAIN_S, PING_S = 10.0, 0.5


class Clock:
    """Replaces `time.monotonic` and `asyncio.sleep`; `on_advance` is called with each new time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_advance: Callable[[float], None] = lambda _now: None

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Advance the time."""
        self.now += max(0.0, seconds)
        self.on_advance(self.now)
        await SLEEP(0)


SLEEP = asyncio.sleep


class FakeConnection(ClientConnection):
    """A connection that records when and how it was closed."""

    transport = "websocket"

    def __init__(self, clock: Clock, closed: Callable[[FakeConnection], None]) -> None:
        super().__init__(cast(asyncio.Transport, FakeTransport()), None)
        self.closed_at: float | None = None
        self.restarted = False
        self.reconnect_s: float | None = None
        self.heartbeats: list[tuple[float, Timestamp]] = []
        self._clock = clock
        self._closed = closed

    def send_snapshot(self, job_id: str, snapshot: PublishedSnapshot) -> bool:
        """Raise: these connections watch nothing."""
        raise AssertionError

    def send_error(self, job_id: str | None, code: str, message: str) -> None:
        """Raise: these connections watch nothing."""
        raise AssertionError

    def reap(self) -> None:
        """Do nothing."""

    def heartbeat(self, now: Timestamp) -> None:
        """Record the time, and the time that the client would get."""
        self.heartbeats.append((self._clock.now, now))

    def send_away(self) -> None:
        """Record the time and close."""
        assert self.closed_at is None
        self.closed_at = self._clock.now
        self._closed(self)

    def announce_restart(self, now: Timestamp, reconnect_s: float) -> None:
        """Record within which time the client reconnects."""
        assert self.closed_at is None
        self.reconnect_s = reconnect_s

    async def close_for_restart(self) -> None:
        """Record that the replica restarts, and close."""
        self.restarted = True
        self.send_away()


class Replica:
    """A registry with some connections, of a replica that may be without Redis."""

    def __init__(self, clock: Clock, count: int, drain_s: float = DRAIN_S) -> None:
        self.unready = True
        settings = SimpleNamespace(
            drain_s=drain_s,
            max_connections=1_000_000,
            max_watches=1,
            ping_s=PING_S,
            stuck_s=30,
        )
        self.registry = ConnectionRegistry(
            cast(SnapshotSynchronizer, SimpleNamespace()),
            LogFeed(cast(Any, None), cast(Any, None), cast(Any, None)),
            cast(NotifierSettings, settings),
            cast(TokenAuth, SimpleNamespace(key_ids=frozenset())),
            RemoteClock(),
            lambda: self.unready,
        )
        self.connections = [FakeConnection(clock, self.registry.unregister) for _ in range(count)]
        for connection in self.connections:
            self.registry.register(connection)

    def closed_times(self) -> list[float]:
        """Return the times when connections were closed."""
        return sorted(connection.closed_at for connection in self.connections if connection.closed_at is not None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the registry."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


async def run_until(
    replica: Replica, clock: Clock, end: float, run: RegistryTask = ConnectionRegistry.close_while_unready
) -> None:
    """Run a task of the registry until a time."""
    task = asyncio.create_task(run(replica.registry))
    while clock.now < end:
        await SLEEP(0)
    task.cancel()
    await asyncio.wait({task})


async def test_every_interval_all_connections_get_the_same_heartbeat(clock: Clock) -> None:
    """The time is taken once, so that it is encoded once. The interval may be shorter than that of the sweep."""
    replica = Replica(clock, 3)
    await run_until(replica, clock, 3, ConnectionRegistry.run)
    first, *others = (connection.heartbeats for connection in replica.connections)
    assert others == [first, first]
    sent_at = [0.0, *(time for time, _now in first)]
    assert 5 <= len(first) <= 6
    assert max(after - before for before, after in itertools.pairwise(sent_at)) < PING_S + 1.5 * module.FLUSH_INTERVAL_S


@pytest.mark.parametrize("count", [50, 100, 1_234])
async def test_a_replica_without_redis_closes_two_percent_per_second(clock: Clock, count: int) -> None:
    """In no second does it close more than 2 % of its connections, and it closes all of them in the end."""
    replica = Replica(clock, count)
    sent_away = metrics.CONNECTIONS_SENT_AWAY.labels("websocket")
    before = sent_away.value
    await run_until(replica, clock, 60)
    times = replica.closed_times()
    assert len(times) == count == sent_away.value - before
    in_one_second = [sum(start <= time < start + 1 - 1e-6 for time in times) for start in times]
    assert max(in_one_second) <= -(-count // 50)


async def test_a_few_connections_are_closed_one_per_second(clock: Clock) -> None:
    """With fewer than 50 connections, 2 % would be less than one."""
    replica = Replica(clock, 3)
    await run_until(replica, clock, 10)
    assert replica.closed_times() == pytest.approx([2, 3, 4])


async def test_closing_stops_when_redis_answers(clock: Clock) -> None:
    """The remaining connections stay open, until Redis is lost once more."""
    replica = Replica(clock, 100)

    def lose_redis_until_ten_and_from_hundred_on(now: float) -> None:
        replica.unready = now < 10 or now >= 100

    clock.on_advance = lose_redis_until_ten_and_from_hundred_on
    await run_until(replica, clock, 99)
    closed = replica.closed_times()
    assert 10 <= len(closed) <= 20
    assert closed[-1] < 10
    await run_until(replica, clock, 102)
    assert len(closed) < len(replica.closed_times()) <= len(closed) + 4


async def test_a_ready_replica_closes_nothing(clock: Clock) -> None:
    """It accepts connections, too."""
    replica = Replica(clock, 10)
    replica.unready = False
    await run_until(replica, clock, 100)
    assert replica.closed_times() == []
    replica.registry.ensure_capacity()
    assert not replica.registry.sends_away


async def test_a_replica_without_redis_refuses_new_connections(clock: Clock) -> None:
    """Clients are asked to come back later."""
    replica = Replica(clock, 0)
    assert replica.registry.sends_away
    with pytest.raises(ServiceUnavailable) as raised:
        replica.registry.ensure_capacity()
    assert raised.value.retry_after_s


async def test_connections_that_have_closed_are_skipped(clock: Clock) -> None:
    """A client that has left meanwhile is neither closed nor counted."""
    replica = Replica(clock, 10)
    sent_away = metrics.CONNECTIONS_SENT_AWAY.labels("websocket")
    before = sent_away.value
    left = replica.connections[3:7]

    def unregister(now: float) -> None:
        if now > 1:
            for connection in left:
                replica.registry.unregister(connection)

    clock.on_advance = unregister
    await run_until(replica, clock, 20)
    assert len(replica.closed_times()) == 6 == sent_away.value - before
    assert [connection.closed_at for connection in left] == [None] * 4


async def test_a_drain_closes_all_connections_evenly(clock: Clock) -> None:
    """A replica that stops closes its connections over DRAIN_S, for a restart."""
    replica = Replica(clock, 100)
    replica.unready = False
    await replica.registry.drain()
    times = replica.closed_times()
    assert len(times) == 100
    assert all(connection.restarted for connection in replica.connections)
    assert times[-1] == pytest.approx(DRAIN_S)
    assert max(after - before for before, after in itertools.pairwise(times)) < 2 * DRAIN_S / 100
    assert replica.registry.sends_away


class BrokenConnection(FakeConnection):
    """A connection in which everything fails; `failures` counts that."""

    failures = 0

    def reap(self) -> None:
        """Raise an error."""
        raise RuntimeError("a bug")

    def heartbeat(self, now: Timestamp) -> None:
        """Raise an error."""
        raise RuntimeError("a bug")

    def send_away(self) -> None:
        """Raise an error."""
        raise RuntimeError("a bug")

    def on_failure(self, error: Exception) -> None:
        """Count an error."""
        assert str(error) == "a bug"
        self.failures += 1


async def test_a_broken_connection_does_not_disturb_the_others(clock: Clock) -> None:
    """They are checked, get heartbeats, and are closed when the replica is without Redis and when it stops."""
    replica = Replica(clock, 2)
    broken = BrokenConnection(clock, replica.registry.unregister)
    replica.registry.register(broken)
    replica.connections.append(FakeConnection(clock, replica.registry.unregister))
    replica.registry.register(replica.connections[-1])
    await run_until(replica, clock, 3, ConnectionRegistry.run)
    assert {len(connection.heartbeats) for connection in replica.connections} <= {5, 6}
    assert broken.failures > 5
    await run_until(replica, clock, clock.now + 6)
    remaining = [connection for connection in replica.connections if connection.closed_at is None]
    assert len(remaining) < 3
    await replica.registry.drain()
    assert all(connection.restarted for connection in remaining)
    assert len(replica.closed_times()) == 3


async def test_an_event_stream_that_is_sent_away_ends_with_a_delay() -> None:
    """The client reconnects after a random delay."""
    transport = FakeTransport()
    stream = EventStream(cast(asyncio.Transport, transport), None, {"job"}, set(), chunked=False)
    stream.send_away()
    assert transport.written.startswith(b"retry: ")
    assert stream.done.is_set()
    assert stream.close_code == CloseCode.TRY_AGAIN_LATER


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_heartbeat_of_a_stream_is_a_comment(chunked: bool) -> None:
    """It has the server's time; a slow consumer gets none."""
    transport = FakeTransport()
    stream = EventStream(cast(asyncio.Transport, transport), None, {"job"}, set(), chunked=chunked)
    now = Timestamp.parse("2026-01-01T00:00:00.000Z")
    stream.heartbeat(now)
    block = b": %b\n\n" % str(now).encode()
    assert transport.written == (b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
    transport.buffered = MAX_BUFFERED_BYTES + 1
    stream.heartbeat(now)
    assert transport.written.count(block) == 1


@pytest.mark.parametrize(("drain_s", "reconnect_s"), [(0, 2.0), (1, 1.0), (10, 0.5)])
async def test_clients_spread_their_reconnects_only_as_far_as_the_drain_has_not(
    clock: Clock, drain_s: float, reconnect_s: float
) -> None:
    """A drain that takes seconds has spread the clients, so that they return within half a second."""
    replica = Replica(clock, 4, drain_s)
    await replica.registry.drain()
    assert [connection.reconnect_s for connection in replica.connections] == [reconnect_s] * 4


async def test_a_stream_that_ends_for_a_restart_reconnects_as_early_as_the_drain_permits() -> None:
    """Its delay is at most the announced time, otherwise 1 to 2 s: less than a second tells clients to be quick."""
    for announced_s, expected_ms in [(None, (1000, 2000)), (0.5, (250, 500))] * 20:
        transport = FakeTransport()
        stream = EventStream(cast(asyncio.Transport, transport), None, {"job"}, set(), chunked=False)
        if announced_s is not None:
            stream.announce_restart(Timestamp.now(), announced_s)
        await stream.close_for_restart()
        assert expected_ms[0] <= int(transport.written.removeprefix(b"retry: ")) <= expected_ms[1]


async def test_a_long_poll_that_is_sent_away_is_answered() -> None:
    """The response ends the request before its time."""
    request = LongPollRequest(cast(asyncio.Transport, FakeTransport()), None, complete_when_ended=True)
    request.send_away()
    assert request.ready.is_set()
    assert request.close_code == CloseCode.TRY_AGAIN_LATER


async def test_every_close_of_a_stream_or_poll_has_a_code() -> None:
    """It is the code that a WebSocket would have; the first reason counts."""
    transport = FakeTransport()

    def stream() -> EventStream:
        return EventStream(cast(asyncio.Transport, transport), None, {"job"}, set(), chunked=False)

    def poll() -> LongPollRequest:
        return LongPollRequest(cast(asyncio.Transport, transport), None, complete_when_ended=True)

    for connection in (stream(), poll()):
        assert connection.close_code == CloseCode.ABNORMAL_CLOSURE
        await connection.close_for_restart()
        connection.reap()
        assert connection.close_code == CloseCode.SERVICE_RESTART
    (ended := stream()).on_up_to_date("job", ended=True)
    assert ended.close_code == CloseCode.NORMAL_CLOSURE
    (rejected := stream()).send_error("job", "invalid_token", "")
    assert rejected.close_code == CloseCode.NORMAL_CLOSURE
    (stuck := stream()).close_stalled()
    assert (stuck.close_code, transport.aborted) == (CloseCode.TRY_AGAIN_LATER, True)
    for connection in (stream(), poll()):
        connection.reap()
        connection.send_away()
        assert connection.close_code == CloseCode.ABNORMAL_CLOSURE
