"""The connections of the classic hub."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import cast

import pytest
from websockets.frames import CloseCode, Opcode

from headway.timestamp import Timestamp
from services.notifier import metrics
from services.notifier.transports.base import MAX_BUFFERED_BYTES
from services.notifier.transports.signalr.classic.connections import (
    ClassicEventStream,
    ClassicPoll,
    ClassicWebSocket,
)
from services.notifier.transports.signalr.classic.envelopes import Cursor
from services.notifier.transports.signalr.classic.requests import ConnectionRequest
from tests.unit.services.notifier.transports.fake_transport import FakeTransport
from tests.unit.services.notifier.transports.notifier_parts import Replica
from tests.unit.services.notifier.transports.websocket.test_connection import client_frame

from .test_envelopes import snapshot


class ClosedTransport(FakeTransport):
    """A connection that the client has closed; as that of uvloop, it raises an error when something is written."""

    def is_closing(self) -> bool:
        """Return that it is."""
        return True

    def write(self, _data: bytes) -> None:
        """Raise an error."""
        raise RuntimeError("the handler is closed")


def request(cursor: Cursor) -> ConnectionRequest:
    """Return the request of a client that resumes a connection."""
    return ConnectionRequest("one", cursor, is_subscribed=True, is_new=False, protocol=(1, 5))


def test_a_poll_answers_with_what_its_client_lacks() -> None:
    """A later snapshot replaces the answer, so it is compared with what the client has, not with that answer."""
    poll = ClassicPoll(cast(asyncio.Transport, ClosedTransport()), None, request(Cursor(1, b"80")))
    poll.send_snapshot("one", snapshot(2, percent=100))
    poll.send_snapshot("one", snapshot(3, "succeeded", percent=100))
    assert poll.answer is not None
    answer = json.loads(poll.answer)
    assert (answer["C"], [call["M"] for call in answer["M"]]) == ("3-100", ["updateProgress", "jobChanged"])


class Clock:
    """The clock of the process, which a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_an_idle_websocket_is_kept_alive_and_pinged(keys: Path, clock: Clock) -> None:
    """The page's script sees messages only, and the browser answers pings; a client that does not is gone."""
    replica, transport = Replica(keys), FakeTransport()
    websocket = ClassicWebSocket(
        replica.registry, replica.settings, request(Cursor()), cast(asyncio.Transport, transport), None
    )
    websocket.connection_made(cast(asyncio.Transport, transport))
    for _ in range(20):
        clock.now += 1
        websocket.reap()
    assert [(frame.opcode, frame.data) for frame in transport.frames()] == [(Opcode.TEXT, b"{}")] * 2
    websocket.heartbeat(Timestamp.now())
    assert [frame.opcode for frame in transport.frames()] == [Opcode.PING]
    clock.now += 25
    websocket.data_received(client_frame(Opcode.PONG))
    clock.now += 50
    websocket.heartbeat(Timestamp.now())
    assert not transport.aborted
    clock.now += 1
    websocket.heartbeat(Timestamp.now())
    assert (transport.aborted, websocket.close_code) == (True, CloseCode.ABNORMAL_CLOSURE)


@pytest.mark.parametrize("chunked", [True, False])
def test_an_idle_stream_is_kept_alive(clock: Clock, *, chunked: bool) -> None:
    """What is written to a client that has gone ends its connection; one that does not read is aborted."""
    transport = FakeTransport()
    stream = ClassicEventStream(cast(asyncio.Transport, transport), None, set(), request(Cursor()), chunked=chunked)
    for _ in range(20):
        clock.now += 1
        stream.reap()
    assert transport.written == (b"a\r\ndata: {}\n\n\r\n" if chunked else b"data: {}\n\n") * 2
    transport.buffered = MAX_BUFFERED_BYTES + 1
    assert not stream.send_snapshot("one", snapshot(2))
    assert stream.stalled_for(clock.now) == 0
    assert stream.stalled_for(clock.now + 31) == 31
    stuck = metrics.LIMITS_EXCEEDED.labels("stuck")
    before = stuck._value.get()
    stream.close_stalled()
    assert (transport.aborted, stream.close_code) == (True, CloseCode.TRY_AGAIN_LATER)
    assert stuck._value.get() == before + 1


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_closed_stream_takes_nothing(*, chunked: bool) -> None:
    """A client that has left must not disturb the others, until its connection is reaped."""
    stream = ClassicEventStream(
        cast(asyncio.Transport, ClosedTransport()),
        None,
        set(),
        request(Cursor()),
        chunked=chunked,
    )
    stream.send_snapshot("one", snapshot(2))
    stream.send_error("one", "token_expired", "no")
    stream.reap()
    assert stream.done.is_set()


def test_a_closed_poll_ends() -> None:
    """A client that has left costs a second at most, and not the time of a poll."""
    poll = ClassicPoll(cast(asyncio.Transport, ClosedTransport()), None, request(Cursor()))
    poll.reap()
    assert (poll.ready.is_set(), poll.close_code) == (True, CloseCode.ABNORMAL_CLOSURE)
