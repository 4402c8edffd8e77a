"""The jobs that a client of the hub watches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from services.notifier.transports.auth import WatchRequest
from services.notifier.transports.signalr.aspnet_core.protocols import JSON, MESSAGE_PACK, HubProtocol
from services.notifier.transports.signalr.aspnet_core.watched_jobs import WatchedJobs
from tests.unit.services.notifier.watching.test_hub import GRANT, JOB, snapshot


class Connection:
    """A connection that records what is sent, and becomes backpressured after some messages."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.max_sent = 100

    def push(self, messages: bytes) -> None:
        """Record messages."""
        self.sent.append(messages)

    def is_writable(self) -> bool:
        """Return whether the connection is not backpressured."""
        return len(self.sent) < self.max_sent


def open_streams(connection: Connection, protocol: HubProtocol) -> WatchedJobs:
    """Return the jobs of a session that has three streams of the same job."""
    session = SimpleNamespace(
        protocol=protocol,
        has_ended=False,
        connection=connection,
        registry=SimpleNamespace(max_watches=9, subscribe=lambda *_: True, unsubscribe=lambda *_: None),
    )
    jobs = WatchedJobs(cast(Any, session))
    for stream in "abc":
        assert jobs.add(WatchRequest(GRANT, "", None), stream)
    return jobs


@pytest.mark.parametrize("protocol", [JSON, MESSAGE_PACK])
def test_streams_share_an_encoded_snapshot(monkeypatch: pytest.MonkeyPatch, protocol: HubProtocol) -> None:
    """A snapshot is encoded once for all streams of a job, each of which has its own id in the message."""
    connection = Connection()
    jobs = open_streams(connection, protocol)
    encode_value = Mock(wraps=protocol.encode_value)
    monkeypatch.setattr(type(protocol), "encode_value", lambda _self, text: encode_value(text))
    assert jobs.deliver(str(JOB), snapshot(3))
    assert encode_value.call_count == 1
    item = protocol.encode_value(snapshot(3).text)
    assert connection.sent == [protocol.stream_item(stream, item) for stream in "abc"]


async def test_streams_wait_while_the_connection_is_backpressured() -> None:
    """A client with many streams of a job cannot fill the memory. Each stream gets the last version once, and ends."""
    connection = Connection()
    jobs, ended = open_streams(connection, JSON), snapshot(3, status="succeeded")
    connection.max_sent = 2
    assert not jobs.deliver(str(JOB), ended)
    assert not jobs.deliver(str(JOB), ended)
    connection.max_sent = 3  # so the last item makes it backpressured again
    assert jobs.deliver(str(JOB), ended)
    items = [JSON.stream_item(stream, ended.text) for stream in "abc"]
    assert connection.sent == items + [JSON.completion(stream) for stream in "abc"]


async def test_streams_of_an_unknown_job() -> None:
    """Those without a version end, and their error says nothing else; one with a version waits for the lost record."""
    connection = Connection()
    jobs = open_streams(connection, JSON)
    assert jobs.add(WatchRequest(GRANT, "", 3), "d")
    jobs.on_error(str(JOB), "unknown", "This job has no record; the subscription stays open.")
    assert connection.sent == [JSON.completion(stream, "unknown: This job has no record.") for stream in "abc"]
    jobs.deliver(str(JOB), snapshot(4))
    assert connection.sent[3:] == [JSON.stream_item("d", JSON.encode_value(snapshot(4).text))]
