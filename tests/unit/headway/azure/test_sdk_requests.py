"""How requests reach the queue service: what is repeated, what is not, and what errors say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from azure.core.exceptions import AzureError, HttpResponseError, IncompleteReadError, ServiceResponseTimeoutError

from dev.environment import ACCOUNT, ACCOUNT_KEY
from headway.azure import sdk_requests
from headway.azure.job_queue import JobQueue, was_never_sent
from headway.timestamp import Timestamp
from tests.waiting import free_ports

SENT = (
    "<QueueMessagesList><QueueMessage><MessageId>m1</MessageId><InsertionTime>Mon, 01 Jan 2001 00:00:00 GMT"
    "</InsertionTime><MessageText>e30=</MessageText></QueueMessage></QueueMessagesList>"
)
DROPPED = b""  # the connection is closed without a response
SILENCE = None  # the client closes the connection
Call = Callable[[JobQueue], object]


def answer(status: int, body: str = "", headers: str = "") -> bytes:
    """Return a response of the service."""
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{headers}\r\n{body}".encode()


@asynccontextmanager
async def queue(
    *answers: bytes | None, credential: str = f"AccountKey={ACCOUNT_KEY}"
) -> AsyncIterator[tuple[JobQueue, list[str]]]:
    """Run a service that gives these answers, one per request; yield a client, and the heads of its requests."""
    heads: list[str] = []
    remaining = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heads.append(head)
        if (response := remaining.pop(0)) is SILENCE:
            await reader.read()
        else:
            writer.write(response)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{ACCOUNT}"
    async with server, JobQueue.connect(f"AccountName={ACCOUNT};{credential};QueueEndpoint={endpoint}", "jobs") as jobs:
        yield jobs, heads


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat requests at once."""
    monkeypatch.setattr(sdk_requests, "MIN_RETRY_PAUSE_S", 0)
    monkeypatch.setattr(sdk_requests, "MAX_RETRY_PAUSE_S", 0)


@pytest.mark.parametrize("failure", [answer(408), answer(500), answer(503), DROPPED], ids=["408", "500", "503", "lost"])
async def test_a_message_is_sent_again_after_an_error(failure: bytes) -> None:
    """The queue may then have the message twice, which the fence permits."""
    async with queue(failure, failure, answer(201, SENT)) as (jobs, heads):
        await jobs.send("e30=")
    assert [head.split(" ")[0] for head in heads] == ["POST"] * 3


async def test_repetitions_have_a_limit() -> None:
    """A request is sent three times in total."""
    async with queue(*[answer(503)] * 3) as (jobs, heads):
        with pytest.raises(HttpResponseError) as raised:
            await jobs.delete("m1", "receipt")
    assert (raised.value.status_code, len(heads)) == (503, 3)


@pytest.mark.parametrize("status", [307, 400, 403, 501, 505])
async def test_a_refused_request_is_not_sent_again(status: int) -> None:
    """A redirect is not followed either: its target would get the signature."""
    async with queue(answer(status, headers="Location: http://127.0.0.1:1/\r\n")) as (jobs, heads):
        with pytest.raises(HttpResponseError) as raised:
            await jobs.send("e30=")
    assert (raised.value.status_code, len(heads)) == (status, 1)


@pytest.mark.parametrize(
    "call", [lambda jobs: jobs.receive(1, 60), lambda jobs: jobs.update("m1", "receipt", 60)], ids=["receive", "update"]
)
async def test_receives_and_renewals_are_sent_once(call: Call) -> None:
    """A repeated receive would hide messages, and a repeated renewal has an outdated receipt."""
    async with queue(answer(503)) as (jobs, heads):
        with pytest.raises(HttpResponseError):
            await call(jobs)  # type: ignore[misc]
    assert len(heads) == 1


async def test_an_error_says_whether_the_service_can_have_the_request() -> None:
    """Without a connection it cannot; with a lost response it can."""
    (port,) = free_ports(1)
    nowhere = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};QueueEndpoint=http://127.0.0.1:{port}/{ACCOUNT}"
    async with JobQueue.connect(nowhere, "jobs") as jobs:
        with pytest.raises(AzureError) as refused:
            await jobs.update("m1", "receipt", 60)
    async with queue(DROPPED) as (jobs, _heads):
        with pytest.raises(AzureError) as lost:
            await jobs.receive(1, 60)
    assert (was_never_sent(refused.value), was_never_sent(lost.value)) == (True, False)


async def test_an_incomplete_response_is_an_error_of_the_sdk() -> None:
    """The connection ends in the middle of the body."""
    async with queue(answer(200, SENT)[:-10]) as (jobs, _heads):
        with pytest.raises(IncompleteReadError):
            await jobs.receive(1, 60)


async def test_a_slow_response_is_an_error_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that accepts the request and is silent may have processed it."""
    monkeypatch.setattr(sdk_requests, "READ_TIMEOUT_S", 0.01)
    async with queue(SILENCE) as (jobs, _heads):
        with pytest.raises(ServiceResponseTimeoutError) as raised:
            await jobs.receive(1, 60)
    assert not was_never_sent(raised.value)


async def test_a_shared_access_signature_is_sent_as_it_is() -> None:
    """It is part of the URL, and no other credential is sent."""
    signature = "sv=2025-11-05&sp=a&sig=a%2Bb%2Fc%3D"
    async with queue(answer(201, SENT), credential=f"SharedAccessSignature={signature}") as (jobs, heads):
        await jobs.send("e30=")
    assert signature in heads[0].splitlines()[0]
    assert "authorization:" not in heads[0].lower()


async def test_a_request_is_signed_with_the_account_key() -> None:
    """Each request has its own time."""
    async with queue(answer(204)) as (jobs, heads):
        await jobs.delete("m1", "receipt")
    assert f"Authorization: SharedKey {ACCOUNT}:" in heads[0]
    assert "x-ms-date: " in heads[0]


async def test_a_peek_has_the_time_of_its_response() -> None:
    """The header `Date` is the queue service's clock."""
    async with queue(answer(200, SENT, "Date: Mon, 01 Jan 2001 00:00:09 GMT\r\n")) as (jobs, _heads):
        (message,) = await jobs.peek()
    assert message.queue_time() == Timestamp.parse("2001-01-01T00:00:10Z")
