"""The handler of WebSocket messages with real tokens and subscriptions, and a fake store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from websockets.frames import Close, CloseCode, Opcode

from headway.contracts import Timestamp, encode
from headway.tokens import Grant
from services.notifier import metrics
from services.notifier.transports.websocket.connection import WebSocketConnection
from services.notifier.transports.websocket.handler import WebSocketHandler
from services.notifier.transports.websocket.list_connections import ListConnections
from services.notifier.watching.live_lists import LiveLists
from tests.key_files import replace_file
from tests.unit.services.notifier.transports.fake_transport import FakeTransport
from tests.unit.services.notifier.transports.notifier_parts import MAX_WATCHES, Replica, refusals
from tests.unit.services.notifier.transports.websocket.test_connection import text
from tests.waiting import wait_until

NOW = Timestamp.now()
JOB = UUID("6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11")
HOUR_S = 3600


class FakeStore:
    """A store whose clock is ahead of this machine's by an hour. It records cancellations, or fails as a bug would."""

    def __init__(self) -> None:
        self.clock = SimpleNamespace(now=lambda: NOW.after(HOUR_S))
        self.cancelled: list[UUID] = []
        self.is_broken = False

    async def cancel(self, grant: Grant, _record: None) -> bytes:
        """Record the job."""
        if self.is_broken:
            raise RuntimeError("a bug")
        self.cancelled.append(grant.job_id)
        return b""


class Client:
    """A client of a replica, connected by a WebSocket with a fake transport."""

    def __init__(self, keys: Path) -> None:
        self.replica, self.store, self.transport = Replica(keys), FakeStore(), FakeTransport()
        replica = self.replica
        lists = ListConnections(replica.registry, LiveLists(cast(Any, None), cast(Any, None), 1), replica.auth)
        handler = WebSocketHandler(replica.registry, cast(Any, self.store), replica.auth, replica.settings, lists)
        self.connection = WebSocketConnection(handler, cast(asyncio.Transport, self.transport), None)
        self.connection.connection_made(self.connection._transport)
        self.hello = self.transport.frames()[0].data

    async def send(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        """Send messages; return the errors, or the code of the close frame, with which the server answers."""
        self.connection.data_received(b"".join(text(encode(message).decode()) for message in messages))
        await wait_until(lambda: self.transport.reading or self.transport.aborted, poll_s=0)
        return [
            {"closed": Close.parse(frame.data).code}
            if frame.opcode is Opcode.CLOSE
            else msgspec.json.decode(frame.data)["error"]
            for frame in self.transport.frames()
        ]

    async def codes(self, *tokens: str) -> list[str | int]:
        """Watch with tokens; return the codes of the errors and of the close frame."""
        return [error.get("closed") or error["code"] for error in await self.send(*({"watch": t} for t in tokens))]


@pytest.fixture
async def client(keys: Path) -> Client:
    """Return a client."""
    return Client(keys)


def forged(token: str) -> str:
    """Return a token with another signature."""
    return f"{token[:-20]}{'A' * 20}"


async def test_hello_is_by_the_clock_of_the_records(client: Client) -> None:
    """Clients compare `now` with the times of snapshots, which are by the clock of Redis."""
    assert client.hello == b'{"hello":{"now":%b,"silence_s":50}}' % encode(NOW.after(HOUR_S))


async def test_failed_cancel_is_logged_with_its_job(client: Client) -> None:
    """A bug ends the connection, and its line names the job; the next message's lines do not."""
    assert await client.codes(client.replica.token(JOB)) == []
    client.store.is_broken = True
    with capture_logs(processors=[merge_contextvars]) as lines:
        await client.send({"cancel": JOB})
    assert [(line["event"], line["job_id"]) for line in lines] == [("request_failed", str(JOB))]
    assert client.transport.aborted


async def test_rejected_token_is_logged_with_its_job(client: Client) -> None:
    """The line names the job and the reason, never the token."""
    token = client.replica.token(JOB, expires_in_s=-HOUR_S)
    with capture_logs(processors=[merge_contextvars]) as lines:
        assert await client.codes(token) == ["token_expired"]
    line = {"event": "token_rejected", "job_id": str(JOB), "code": "token_expired", "origin": None}
    assert lines == [{**line, "log_level": "info"}]


async def test_fifty_expired_tokens_do_not_end_a_connection(client: Client) -> None:
    """A page that was left open gets an error for each, and goes on with the jobs whose tokens are valid."""
    replica = client.replica
    expired = [replica.token(UUID(int=number), expires_in_s=-HOUR_S) for number in range(50)]
    before = refusals("token_expired")
    assert await client.codes(*expired) == ["token_expired"] * 50
    assert await client.codes(replica.token(JOB)) == []
    assert list(client.connection.subscriptions) == [str(JOB)]
    assert refusals("token_expired") == before + 50


@pytest.mark.parametrize(("kind", "count"), [("forged", 21), ("foreign", 501), ("malformed", 101), ("expired", 1_001)])
async def test_a_connection_that_keeps_sending_bad_tokens_is_closed(client: Client, kind: str, count: int) -> None:
    """The limit is lower for tokens that cost more. What follows is neither verified nor parsed."""
    replica = client.replica
    valid = replica.token(JOB)
    token = {
        "forged": forged(valid),
        "foreign": replica.token(JOB, signer=replica.new_key()[0]),
        "malformed": "a.b.c",
        "expired": replica.token(JOB, expires_in_s=-HOUR_S),
    }[kind]
    code = "token_expired" if kind == "expired" else "invalid_token"
    before, limit_before = refusals(code), metrics.LIMITS_EXCEEDED.labels("tokens")._value.get()
    codes = await client.codes(*[token] * (count + 10), valid)
    assert codes == [code] * count + [CloseCode.POLICY_VIOLATION]
    assert client.connection.subscriptions == {}
    assert client.transport.half_closed
    assert refusals(code) == before + count
    assert metrics.LIMITS_EXCEEDED.labels("tokens")._value.get() == limit_before + 1


async def test_valid_tokens_make_up_for_invalid_ones(client: Client) -> None:
    """A client that watches many jobs over days may have a bad token now and then."""
    valid = client.replica.token(JOB)
    for _ in range(300):
        assert await client.codes("a.b.c", valid) == ["invalid_token"]


async def test_a_cancellation_is_verified_with_the_current_keys(client: Client) -> None:
    """When the key of a token was removed, the watch ends with an error instead."""
    replica = client.replica
    await client.codes(replica.token(JOB))
    assert await client.send({"cancel": JOB}) == []
    assert client.store.cancelled == [JOB]
    replace_file(replica.public_keys, replica.new_key()[1])
    before = refusals("invalid_token")
    (error,) = await client.send({"cancel": JOB})
    assert (error["code"], error["job_id"]) == ("invalid_token", str(JOB))
    assert client.store.cancelled == [JOB]
    assert refusals("invalid_token") == before + 1
    assert [error["code"] for error in await client.send({"cancel": JOB})] == ["not_watched"]
    replica.check(connection=client.connection)


async def test_a_cancellation_needs_the_scope(client: Client) -> None:
    """A token that may only watch is refused, and the watch goes on."""
    before = refusals("forbidden")
    await client.codes(client.replica.token(JOB, scope=frozenset({"watch"})))
    assert [error["code"] for error in await client.send({"cancel": JOB})] == ["forbidden"]
    assert client.store.cancelled == []
    assert list(client.connection.subscriptions) == [str(JOB)]
    assert refusals("forbidden") == before + 1


async def test_one_job_too_many_is_refused(client: Client) -> None:
    """The others are watched; an unwatch makes room."""
    tokens = [client.replica.token(UUID(int=number)) for number in range(MAX_WATCHES + 1)]
    (error,) = await client.send(*({"watch": token} for token in tokens))
    assert (error["code"], error["job_id"]) == ("too_many_watches", str(UUID(int=MAX_WATCHES)))
    assert await client.send({"unwatch": UUID(int=0)}, {"watch": tokens[-1]}) == []
