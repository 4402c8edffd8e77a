"""The handler of WebSocket messages, with a fake store: the clock of the hello, and the log lines about a job."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from headway.contracts import Timestamp, encode
from headway.tokens import Grant, InvalidToken
from services.notifier.transports.auth import TokenAuth
from services.notifier.transports.websocket.connection import WebSocketConnection
from services.notifier.transports.websocket.handler import WebSocketHandler
from tests.unit.services.notifier.transports.websocket.test_connection import FakeTransport, text
from tests.waiting import wait_until

NOW = Timestamp.now()
JOB = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
GRANT = Grant(job_id=JOB, kind="k", submitted_at=NOW, expires_at=NOW.after(86_400))


class RejectingVerifier:
    """Rejects each token as expired."""

    def verify(self, _token: str) -> Grant:
        raise InvalidToken("token_expired", "The token has expired.", JOB)


async def failing_cancel(_grant: Grant) -> bytes:
    """Fail as a bug would."""
    raise RuntimeError("a bug")


@pytest.fixture
def transport() -> FakeTransport:
    """Return a transport that records."""
    return FakeTransport()


@pytest.fixture
def connection(transport: FakeTransport) -> WebSocketConnection:
    """Open a connection that watches a job; Redis's clock is ahead of this machine's by an hour."""
    settings = SimpleNamespace(messages_per_s=100, max_watches=10, max_silence_s=50.0, first_message_s=10.0)
    store = SimpleNamespace(clock=SimpleNamespace(now=lambda: NOW.after(3600)), cancel=failing_cancel)
    registry = SimpleNamespace(at_capacity=lambda: False, register=lambda _connection: None)
    auth = TokenAuth(cast(Any, SimpleNamespace(value=RejectingVerifier())))
    handler = WebSocketHandler(cast(Any, registry), cast(Any, store), auth, cast(Any, settings))
    connection = WebSocketConnection(handler, cast(asyncio.Transport, transport), None)
    connection.connection_made(connection._transport)
    connection.subscriptions[str(JOB)] = cast(Any, SimpleNamespace(grant=GRANT))
    return connection


async def test_hello_is_by_the_clock_of_the_records(connection: WebSocketConnection, transport: FakeTransport) -> None:
    """Clients compare `now` with the times of snapshots, which are by the clock of Redis."""
    (hello,) = transport.frames()
    assert hello.data == b'{"hello":{"now":%b,"silence_s":50}}' % encode(NOW.after(3600))


async def test_failed_cancel_is_logged_with_its_job(connection: WebSocketConnection, transport: FakeTransport) -> None:
    """A bug ends the connection, and its line names the job; the next message's lines do not."""
    with capture_logs(processors=[merge_contextvars]) as lines:
        connection.data_received(text(encode({"cancel": JOB}).decode()))
        await wait_until(lambda: transport.aborted)
    assert [(line["event"], line["job_id"]) for line in lines] == [("request_failed", str(JOB))]


async def test_rejected_token_is_logged_with_its_job(connection: WebSocketConnection) -> None:
    """The line names the job and the reason, never the token."""
    with capture_logs(processors=[merge_contextvars]) as lines:
        connection.data_received(text(encode({"watch": "a-secret-token"}).decode()))
    assert lines == [
        {"event": "token_rejected", "job_id": str(JOB), "code": "token_expired", "log_level": "info"},
    ]
