"""`POST /reports` over keep-alive connections: however a request is sent, it gets one response, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from headway.contracts import MAX_REPORTS_BYTES
from tests.integration.conftest import Notifier, new_id, report, running_notifier, unexpected_errors
from tests.waiting import PATIENCE_S, wait_until


class Response(NamedTuple):
    """A response."""

    status: int
    body: bytes


class RawConnection:
    """A connection to the internal listener, over which a test sends raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, report_key: str) -> None:
        self.reader = reader
        self.writer = writer
        self.report_key = report_key

    def encode_request(
        self, body: bytes, *headers: str, request_line: str = "POST /reports HTTP/1.1", key: str | None = None
    ) -> bytes:
        """Encode a request."""
        head = [request_line, "Host: notifier", f"Authorization: Bearer {key or self.report_key}", *headers]
        if not any(header.startswith("Transfer-Encoding") for header in headers):
            head.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*head, "", ""]).encode() + body

    async def send(self, *parts: bytes) -> Response:
        """Send bytes, in one write per part, and read a response."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
        return await self.read_response()

    async def read_response(self) -> Response:
        """Read a response."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length: ")[2].split("\r\n")[0])
            body = await self.reader.readexactly(size)
        return Response(int(head.split()[1]), body)


@asynccontextmanager
async def open_connection(notifier: Notifier) -> AsyncIterator[RawConnection]:
    """Open a connection until the block ends; the notifier must not have logged an error."""
    host, port = notifier.internal.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield RawConnection(reader, writer, notifier.report_key)
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()
    assert unexpected_errors(notifier.log) == []


@pytest.fixture
async def connection(notifier: Notifier) -> AsyncIterator[RawConnection]:
    """Open a connection and close it after the test."""
    async with open_connection(notifier) as connection:
        yield connection


def encode_reports(*sequences: int, job_id: str | None = None) -> bytes:
    """Encode reports of one job."""
    job_id = job_id or new_id()
    return json.dumps([report(job_id, sequence) for sequence in sequences]).encode()


def accepted(response: Response) -> list[bool]:
    """Return for each report of a request whether it was accepted."""
    return [verdict["accepted"] for verdict in json.loads(response.body)]


async def test_connection_carries_many_requests(notifier: Notifier, connection: RawConnection) -> None:
    """Each request gets its own verdicts and is counted as a request of its route."""
    metric = 'http_requests_total{code="200",method="POST",route="/reports"}'
    job_id, before = new_id(), await notifier.metric(metric)
    for number in range(1, 6):
        body = encode_reports(number, number + 1, job_id=job_id)
        response = await connection.send(connection.encode_request(body))
        assert response.status == 200
        assert accepted(response) == [number == 1, True]  # the previous request ended with the same sequence
    assert await notifier.metric(metric) == before + 5


async def test_one_report_and_many_are_accepted(notifier: Notifier) -> None:
    """Requests of aiohttp's client, which workers use, are answered with one verdict per report."""
    headers = {"Authorization": f"Bearer {notifier.report_key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for count in (1, 500):
            body = encode_reports(*range(1, count + 1))
            async with session.post(f"{notifier.internal}/reports", data=body) as response:
                assert (response.status, len(await response.json())) == (200, count)


async def test_responses_keep_the_order_of_requests(connection: RawConnection) -> None:
    """A client that pipelines requests of several routes gets the responses in the same order."""
    reports = connection.encode_request(encode_reports(1))
    liveness = b"GET /livez HTTP/1.1\r\nHost: notifier\r\n\r\n"
    first = await connection.send(reports + reports + liveness + reports)
    responses = [first, *[await connection.read_response() for _ in range(3)]]
    assert [response.status for response in responses] == [200, 200, 200, 200]
    assert [accepted(response) for response in (responses[0], responses[1], responses[3])] == [[True], [False], [False]]
    assert json.loads(responses[2].body) == {"alive": True}


async def test_each_of_many_pipelined_requests_is_answered(connection: RawConnection) -> None:
    """A client may send any number of requests before it reads the first response."""
    rejected = connection.encode_request(encode_reports(1), key="wrong")
    connection.writer.write(999 * rejected + connection.encode_request(encode_reports(1)))
    responses = [await connection.read_response() for _ in range(1_000)]
    assert [response.status for response in responses] == 999 * [401] + [200]


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_request_may_arrive_in_pieces(connection: RawConnection, size: int) -> None:
    """A request that is sent in many writes is accepted like any other."""
    request = connection.encode_request(encode_reports(*range(1, 9)))
    response = await connection.send(*[request[start : start + size] for start in range(0, len(request), size)])
    assert accepted(response) == 8 * [True]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"body": b"[]"}, 422),
        ({"body": b"no JSON"}, 400),
        ({"body": b""}, 400),
        ({"body": b" " * (MAX_REPORTS_BYTES + 1)}, 413),
        ({"key": "wrong"}, 401),
        ({"request_line": "PUT /reports HTTP/1.1"}, 405),
        ({"request_line": "POST /report HTTP/1.1"}, 404),
    ],
)
async def test_rejected_request_gets_a_problem(
    connection: RawConnection, change: dict[str, bytes], status: int
) -> None:
    """The response is a problem with the right status, and the connection accepts further requests."""
    assert (await connection.send(connection.encode_request(encode_reports(1)))).status == 200
    request = connection.encode_request(**{"body": encode_reports(1), **change})  # type: ignore[arg-type]
    response = await connection.send(request)
    assert (response.status, json.loads(response.body)["status"]) == (status, status)
    if status != 413:  # the notifier does not read the rest of an oversized body
        assert accepted(await connection.send(connection.encode_request(encode_reports(1)))) == [True]


async def test_http_features_that_the_worker_does_not_use(connection: RawConnection) -> None:
    """A chunked body, `Expect: 100-continue` and `Connection: close` work."""
    body = encode_reports(1)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert accepted(await connection.send(connection.encode_request(chunks, "Transfer-Encoding: chunked"))) == [True]
    request = connection.encode_request(encode_reports(1), "Expect: 100-continue")
    head, separator, body = request.partition(b"\r\n\r\n")
    connection.writer.write(head + separator)
    assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    assert accepted(await connection.send(body)) == [True]
    last_request = connection.encode_request(encode_reports(1), "Connection: close")
    assert accepted(await connection.send(last_request)) == [True]
    assert await connection.reader.read() == b""


async def test_reports_count_when_the_client_disconnects(notifier: Notifier, connection: RawConnection) -> None:
    """A complete request is applied, even if the client disconnects before the response."""
    job_id = new_id()
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["version"] == 0
        connection.writer.write(connection.encode_request(encode_reports(1, job_id=job_id)))
        await connection.writer.drain()
        connection.writer.close()
        assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["status"] == "running"
        await wait_until(lambda: connection.reader.at_eof())


async def test_request_in_progress_is_answered_while_the_notifier_stops(stores: dict[str, str], tmp_path: Path) -> None:
    """A report whose body arrives after SIGTERM is applied; then the notifier exits with code 0."""

    async def draining() -> bool:
        async with notifier.session.get(f"{notifier.internal}/readyz") as response:
            return response.status == 503

    async with (
        running_notifier(stores, tmp_path, DRAIN_S="8") as notifier,
        notifier.socket(),  # draining takes DRAIN_S only if a client is connected
        open_connection(notifier) as connection,
    ):
        request = connection.encode_request(encode_reports(1))
        connection.writer.write(request[:-1])
        await connection.writer.drain()
        notifier.process.terminate()
        await wait_until(draining)
        assert accepted(await connection.send(request[-1:])) == [True]
