"""The session of a client of the hub, on connections of each transport whose bytes are recorded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
from websockets.frames import Frame, Opcode

from headway.timestamp import RemoteClock
from services.notifier import metrics
from services.notifier.transports.auth import NO_KEY, WatchRequest
from services.notifier.transports.base import MAX_BUFFERED_BYTES
from services.notifier.transports.refusals import TokenAllowance
from services.notifier.transports.signalr.aspnet_core.hub import Hub
from services.notifier.transports.signalr.aspnet_core.long_poll import HubPoll
from services.notifier.transports.signalr.aspnet_core.protocols import MAX_BATCH_BYTES, MAX_MESSAGE_BYTES
from services.notifier.transports.signalr.aspnet_core.sse import HubEventStream
from services.notifier.transports.signalr.aspnet_core.websocket import HubWebSocket
from tests.hub_messages import HANDSHAKE, decode, encode
from tests.unit.services.notifier.transports.fake_transport import FakeTransport
from tests.unit.services.notifier.transports.notifier_parts import Replica
from tests.unit.services.notifier.watching.test_hub import snapshot
from tests.waiting import wait_until

FRAME_HEAD_BYTES = 14  # of a large frame, with its mask
Connection = HubWebSocket | HubEventStream | HubPoll
JOB, OTHER = UUID(int=1 << 100), UUID(int=2 << 100)


class World:
    """The hub of one replica."""

    def __init__(self, keys: Path, **settings: Any) -> None:
        self.replica = Replica(keys, **settings)
        store = cast(Any, SimpleNamespace(clock=RemoteClock()))
        self.hub = Hub(self.replica.registry, store, self.replica.auth, self.replica.settings)

    def open(self, transport: str, first: WatchRequest | None = None, age_s: float = 0.0) -> Connection:
        """Open a connection."""
        pipe = cast(asyncio.Transport, FakeTransport())
        connection: Connection
        if transport == "websocket":
            connection = HubWebSocket(self.hub, first, lambda: None, pipe, None)
        elif transport == "sse":
            connection = HubEventStream(self.hub, pipe, None, first, chunked=False)
        else:
            connection = HubPoll(self.hub, pipe, None, first, age_s)
        self.replica.registry.register(connection)
        return connection

    def poll(self, first: WatchRequest | None = None) -> HubPoll:
        """Begin a poll."""
        return cast(HubPoll, self.open("poll", first))

    def next_poll(self, poll: HubPoll) -> HubPoll:
        """End a poll, and begin the next one with its session."""
        state = poll.session.dump()
        assert state is not None
        self.replica.registry.unregister(poll)
        poll = self.poll()
        poll.session.restore(state)
        return poll

    def request(self, job_id: UUID) -> WatchRequest:
        """Return what a token of a job allows."""
        request = self.replica.auth.verify(self.replica.token(job_id), None, TokenAllowance(1, None))
        assert isinstance(request, WatchRequest)
        return request

    def remove_key(self) -> None:
        """Remove the key with which all tokens were signed."""
        _, public_key = self.replica.new_key()
        self.replica.public_keys.write_text(public_key)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a hub."""
    return World(tmp_path)


def sent(connection: Connection) -> list[dict[str, Any]]:
    """Return the messages that the server has sent."""
    if isinstance(connection, HubPoll):
        return decode(b"".join(connection.messages))
    transport = cast(FakeTransport, connection._transport)
    if isinstance(connection, HubEventStream):
        return decode(transport.written.replace(b"data: ", b"").replace(b"\r\n", b""))
    return decode(b"".join(frame.data for frame in transport.frames()))


def call(target: str, *arguments: Any) -> bytes:
    """Return a call of a method, which expects no answer."""
    return encode({"type": 1, "target": target, "arguments": arguments})


def exceeded(limit: str) -> float:
    """Return how often a limit was exceeded."""
    return cast(float, metrics.LIMITS_EXCEEDED.labels(limit)._value.get())


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
async def test_a_client_that_watches_nothing_is_closed(tmp_path: Path, transport: str) -> None:
    """It gets the same message over each transport, and then the connection ends."""
    world, before = World(tmp_path, first_message_s=-1.0), exceeded("first_message")
    idle, watching = world.open(transport), world.open(transport, world.request(JOB))
    for connection in (idle, watching):
        await connection.session.receive(encode(HANDSHAKE))
        connection.reap()
        connection.reap()
    assert sent(idle)[:2] == [{}, {"type": 7, "error": "watch a job"}]
    assert sent(watching) == [{}]
    assert (idle.close_code, exceeded("first_message")) == (1008, before + 1)


async def test_a_polling_client_has_as_long_as_others(tmp_path: Path) -> None:
    """The time counts from the negotiation, and no longer once the client has watched a job."""
    world = World(tmp_path, first_message_s=10.0)
    new, old = world.open("poll", age_s=5.0), world.open("poll", age_s=15.0)
    watched = world.poll()
    await watched.session.receive(
        encode(HANDSHAKE) + call("Watch", world.replica.token(JOB)) + call("Unwatch", JOB.hex)
    )
    state = watched.session.dump()
    assert state is not None
    restored = world.open("poll", age_s=15.0)
    restored.session.restore(state)
    for connection in (new, old, restored):
        connection.reap()
    assert [connection.session.has_ended for connection in (new, old, restored)] == [False, True, False]


@pytest.mark.parametrize("change", ["expire", "remove_key"])
async def test_a_poll_checks_what_tokens_allow(world: World, change: str) -> None:
    """A session goes on without tokens. The client gets an error when one is no longer accepted."""
    poll, token = world.poll(world.request(JOB)), world.replica.token(OTHER)
    await poll.session.receive(encode(HANDSHAKE) + call("Watch", token))
    state = poll.session.dump()
    assert state is not None
    assert token.encode() not in state
    poll = world.next_poll(poll)
    assert (set(poll.subscriptions), sent(poll)) == ({str(JOB), str(OTHER)}, [])
    code = "token_expired" if change == "expire" else "invalid_token"
    if change == "expire":
        state = re.sub(rb'"expires_at":"[^"]*"', b'"expires_at":"2026-01-01T00:00:00.000Z"', state)
    else:
        world.remove_key()
    world.replica.registry.unregister(poll)
    poll = world.poll()
    poll.session.restore(state)
    assert poll.subscriptions == {}
    watch_error, close = sent(poll)
    assert (watch_error["target"], watch_error["arguments"][0]["code"]) == ("watchError", code)
    assert (close["type"], close["error"].split(":")[0], close["allowReconnect"]) == (7, code, True)


@pytest.mark.parametrize(("call_type", "method"), [(1, "Watch"), (4, "WatchJob")])
@pytest.mark.parametrize("is_same", [True, False])
async def test_a_method_may_get_the_token_of_the_url(
    world: World, call_type: int, method: str, *, is_same: bool
) -> None:
    """The connection ends with that token, so that the client sends a new one; but not if a method has replaced it."""
    token, other = world.replica.token(JOB), world.replica.token(JOB, expires_in_s=60)
    first = world.replica.auth.verify(token, None, TokenAllowance(1, None))
    assert isinstance(first, WatchRequest)
    poll = world.poll(first)
    await poll.session.receive(encode(HANDSHAKE))
    poll = world.next_poll(poll)
    arguments = [token if is_same else other]
    await poll.session.receive(
        encode({"type": call_type, "invocationId": "0", "target": method, "arguments": arguments})
    )
    world.remove_key()
    closes = [message["allowReconnect"] for message in sent(world.next_poll(poll)) if message["type"] == 7]
    assert closes == ([True] if is_same else [])


async def test_a_poll_checks_whether_a_job_may_be_watched_by_its_id(world: World) -> None:
    """When SIGNALR_BY_JOB_ID is no longer set, sessions without a token end."""
    world.replica.auth.by_job_id = True
    poll = world.poll(world.request(JOB)._replace(key_id=NO_KEY))
    await poll.session.receive(encode(HANDSHAKE))
    poll = world.next_poll(poll)
    assert set(poll.subscriptions) == {str(JOB)}
    world.replica.auth.by_job_id = False
    assert world.next_poll(poll).subscriptions == {}


async def test_the_answer_to_a_poll_is_bounded(world: World) -> None:
    """A client with many streams of a job cannot fill the memory. The next poll goes on where this one has ended."""
    poll, streams, token = world.poll(), ["0", "1", "2"], world.replica.token(JOB)
    opened = [{"type": 4, "invocationId": each, "target": "WatchJob", "arguments": [token]} for each in streams]
    await poll.session.receive(encode(HANDSHAKE, *opened))
    ended = snapshot(3, "succeeded", result=msgspec.json.encode("x" * (MAX_BUFFERED_BYTES * 2 // 3)))
    received = []
    for _ in range(2):
        world.replica.hub.broadcast(str(JOB), ended, 0.0)
        received.append([(message["type"], message["invocationId"]) for message in sent(poll) if message])
        poll = world.next_poll(poll)
    assert received == [[(2, "0"), (2, "1")], [(2, "2"), (3, "0"), (3, "1"), (3, "2")]]


def other_messages(poll: HubPoll) -> list[dict[str, Any]]:
    """Return the messages after the answers to calls."""
    return [message for message in sent(poll) if message.get("type") == 7]


@pytest.mark.parametrize(
    ("settings", "data", "error"),
    [
        ({"messages_per_s": 1e-9, "max_watches": 5}, call("Nothing"), "too many messages"),
        ({}, call("Watch", "x"), "too many invalid tokens"),
    ],
)
async def test_limits_do_not_depend_on_the_number_of_polls(
    tmp_path: Path, settings: dict[str, Any], data: bytes, error: str
) -> None:
    """What is left of them is kept between two polls."""

    async def count_until_closed(next_poll: Callable[[World, HubPoll], HubPoll]) -> int:
        world, count = World(tmp_path, **settings), 0
        poll = world.poll()
        await poll.session.receive(encode(HANDSHAKE))
        while not poll.session.has_ended:
            poll = next_poll(world, poll)
            await poll.session.receive(data)
            count += 1
        assert other_messages(poll) == [{"type": 7, "error": error}]
        return count

    assert await count_until_closed(World.next_poll) == await count_until_closed(lambda _world, poll: poll) > 5


async def test_the_session_of_another_release_is_lost(world: World) -> None:
    """Its client negotiates again."""
    with pytest.raises(msgspec.DecodeError):
        world.poll().session.restore(b'{"protocol":"json","received":"","jobs":{}}')


async def test_a_batch_counts_as_its_messages(tmp_path: Path) -> None:
    """One frame or body with more messages than a client may send is refused, and so are too many without any."""
    for data in ([call("Nothing") * 100], [b"{"] * 100):
        world = World(tmp_path, messages_per_s=1e-9, max_watches=5)
        poll = world.poll()
        await poll.session.receive(encode(HANDSHAKE))
        for piece in data:
            await poll.session.receive(piece)
        assert other_messages(poll) == [{"type": 7, "error": "too many messages"}]


@pytest.mark.parametrize(("part", "is_closed"), [(MAX_MESSAGE_BYTES, False), (MAX_MESSAGE_BYTES + 1, True)])
async def test_a_part_of_a_batch_does_not_stay(tmp_path: Path, part: int, *, is_closed: bool) -> None:
    """A client that sends only a part of a large frame cannot occupy memory for long."""
    world = World(tmp_path, stuck_s=-1.0)
    connection = world.open("websocket")
    assert isinstance(connection, HubWebSocket)
    await connection.session.receive(encode(HANDSHAKE))
    frame = Frame(Opcode.TEXT, b" " * MAX_BATCH_BYTES).serialize(mask=True)
    connection.data_received(frame[: part + FRAME_HEAD_BYTES])
    transport = cast(FakeTransport, connection._transport)
    await wait_until(lambda: transport.reading, poll_s=0)
    connection.reap()
    closed = [{"type": 7, "error": "the message is not complete"}] if is_closed else []
    assert (sent(connection)[: 1 + len(closed)], connection.closing) == ([{}, *closed], is_closed)
