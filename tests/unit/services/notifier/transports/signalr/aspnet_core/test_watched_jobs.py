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


@pytest.mark.parametrize("protocol", [JSON, MESSAGE_PACK])
def test_streams_share_an_encoded_snapshot(monkeypatch: pytest.MonkeyPatch, protocol: HubProtocol) -> None:
    """A snapshot is encoded once for all streams of a job, each of which has its own id in the message."""
    sent: list[bytes] = []
    session = SimpleNamespace(
        protocol=protocol,
        has_ended=False,
        connection=SimpleNamespace(push=sent.append),
        registry=SimpleNamespace(max_watches=9, subscribe=lambda *_: True),
    )
    jobs = WatchedJobs(cast(Any, session))
    for stream in "abc":
        assert jobs.add(WatchRequest(GRANT, "", None), stream)
    encode_value = Mock(wraps=protocol.encode_value)
    monkeypatch.setattr(type(protocol), "encode_value", lambda _self, text: encode_value(text))
    jobs.deliver(str(JOB), snapshot(3))
    assert encode_value.call_count == 1
    item = protocol.encode_value(snapshot(3).text)
    assert sent == [protocol.stream_item(stream, item) for stream in "abc"]
