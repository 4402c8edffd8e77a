"""Connections that follow logs: event streams, WebSockets and the registry, with transports that stall."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from services.notifier.logs.piece import LogPiece
from services.notifier.transports.auth import WatchRequest
from services.notifier.transports.base import MAX_BUFFERED_BYTES, ClientConnection
from services.notifier.transports.event_format import ResumePoint
from services.notifier.transports.log_access import LOG_LINGER_S
from services.notifier.transports.refusals import TokenAllowance
from services.notifier.transports.sse import EventStream
from services.notifier.transports.websocket.connection import WebSocketConnection
from services.notifier.watching.snapshot import PublishedSnapshot
from tests.unit.services.notifier.transports.fake_transport import FakeTransport
from tests.unit.services.notifier.transports.notifier_parts import MAX_WATCHES, Replica

JOB = "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11"
PIECE = LogPiece(JOB, 4, 2, "é\n".encode(), for_watchers=True)
JSON = f'{{"job_id":"{JOB}","from":4,"to":7,"attempt":2,"text":"é\\n"}}'.encode()
SNAPSHOT = PublishedSnapshot(b'{"id": "%b", "status": "running", "version": 9}' % JOB.encode())


def open_stream(
    resume_at: ResumePoint | None, **options: Any
) -> tuple[EventStream, FakeTransport, set[ClientConnection]]:
    """Return a stream that follows a log, its transport, and the connections that the registry flushes."""
    transport, backpressured = FakeTransport(), set[ClientConnection]()
    options = {"chunked": False, "follows_logs": True, **options}
    stream = EventStream(cast(asyncio.Transport, transport), None, {JOB}, backpressured, resume_at=resume_at, **options)
    return stream, transport, backpressured


def test_each_event_of_one_job_resumes_snapshot_and_log() -> None:
    """Its id has the version and the offset that the client then has."""
    stream, transport, _ = open_stream(ResumePoint(3, 4))
    stream.send_log(PIECE)
    stream.send_snapshot(JOB, SNAPSHOT)
    assert transport.written == (
        b"id: 3.7\nevent: log\ndata: %b\n\nid: 9.7\nevent: job\ndata: %b\n\n" % (JSON, SNAPSHOT.text)
    )


def test_streams_of_many_jobs_share_their_events() -> None:
    """An id could not name the offsets of all logs; the snapshot's is its version."""
    stream, transport, _ = open_stream(None, chunked=True)
    stream.send_log(PIECE)
    event = b"event: log\ndata: %b\n\n" % JSON
    assert transport.written == b"%x\r\n%b\r\n" % (len(event), event)
    stream.send_snapshot(JOB, SNAPSHOT)
    assert b"id: 9\nevent: job\n" in transport.written


def test_a_stalled_stream_is_flushed_later() -> None:
    """The registry learns of it when a piece cannot be sent."""
    stream, transport, backpressured = open_stream(ResumePoint(0, 0))
    assert stream.is_writable()
    transport.buffered = MAX_BUFFERED_BYTES + 1
    assert not stream.is_writable()
    assert backpressured == {stream}


def test_a_stream_with_a_log_ends_after_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the rest of the log, unless the job goes on meanwhile, because it was run again."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream, _, _ = open_stream(ResumePoint(0, 0))
    for _ in range(2):
        stream.on_up_to_date(JOB, ended=True)
        now += LOG_LINGER_S / 2
        stream.reap()
        assert not stream.done.is_set()
        stream.on_up_to_date(JOB, ended=False)
        now += LOG_LINGER_S
        stream.reap()
        assert not stream.done.is_set()
    stream.on_up_to_date(JOB, ended=True)
    now += LOG_LINGER_S
    stream.reap()
    assert stream.done.is_set()


async def test_a_stalled_socket_gets_no_piece() -> None:
    """A piece is a text frame; the handler is notified when the connection drains."""
    transport, drained = FakeTransport(), list[object]()

    class Handler:
        settings = type("Settings", (), {"messages_per_s": 1, "max_watches": 1})
        on_drained = staticmethod(drained.append)

    connection = WebSocketConnection(cast(Any, Handler()), cast(asyncio.Transport, transport), None)
    connection.send_log(PIECE)
    assert transport.written[2:] == b'{"log":%b}' % JSON
    connection.pause_writing()
    assert not connection.is_writable()
    connection.resume_writing()
    assert (connection.is_writable(), drained) == (True, [connection])


class TestRegistry:
    """The subscriptions of connections to logs."""

    @pytest.fixture
    def replica(self, tmp_path: Path) -> Replica:
        """Return a replica."""
        return Replica(tmp_path)

    def follow(self, replica: Replica, job_id: UUID, log: int | None = 0) -> None:
        """Watch a job and follow its log."""
        request = replica.auth.verify(replica.token(job_id), None, TokenAllowance(MAX_WATCHES, None))
        assert isinstance(request, WatchRequest)
        replica.registry.subscribe(replica.connection, request._replace(log=log))

    def channels(self, replica: Replica) -> set[str]:
        """Return the open channels of logs."""
        return {name for name in replica.pubsub.open if name.startswith("headway:log:")}

    def test_a_log_ends_with_its_subscription(self, replica: Replica) -> None:
        """With `unwatch`, with its token, or with the connection; and on request."""
        first, second, third = (UUID(int=number) for number in range(3))
        for job_id in (first, second, third):
            self.follow(replica, job_id)
        assert len(self.channels(replica)) == 3
        replica.registry.unsubscribe(replica.connection, str(first))
        replica.registry.stop_log(replica.connection, str(second))
        assert self.channels(replica) == {f"headway:log:{{{third}}}"}
        assert set(replica.connection.subscriptions) == {str(second), str(third)}
        replica.registry.unregister(replica.connection)
        assert replica.pubsub.open == {}

    def test_a_job_beyond_the_limit_has_no_log(self, replica: Replica) -> None:
        """The connection watches too many jobs."""
        for number in range(MAX_WATCHES + 1):
            self.follow(replica, UUID(int=number))
        assert len(self.channels(replica)) == MAX_WATCHES

    async def test_a_connection_that_drains_gets_its_log(self, replica: Replica) -> None:
        """The registry flushes the snapshots and the logs."""
        flushed: list[object] = []
        replica.logs.flush = flushed.append  # type: ignore[method-assign, assignment]
        replica.registry.flush(replica.connection)
        assert flushed == [replica.connection]


def test_an_error_about_a_log_says_so() -> None:
    """A client must not take it for the end of its subscription to the job."""
    stream, transport, _ = open_stream(ResumePoint(0, 0))
    stream.refuse_log(JOB)
    error = msgspec.json.decode(transport.written.split(b"data: ")[1])
    assert (error["code"], error["job_id"], error["log"]) == ("forbidden", JOB, True)
    assert not stream.done.is_set()
