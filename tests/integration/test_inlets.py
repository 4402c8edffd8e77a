"""Reports as bytes on a kept connection: however they are sent, each request has one answer, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NamedTuple

import aiohttp
import pytest

from headway.contracts import MAX_REPORTS_BYTES
from tests.integration.conftest import Notifier, new_id, report, unexpected_errors
from tests.waiting import wait_until


class Answer(NamedTuple):
    """What came back; aiohttp names itself in its answers, an inlet does not."""

    status: int
    body: bytes
    by_aiohttp: bool


class Line:
    """One connection to the internal listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self.reader = reader
        self.writer = writer
        self.key = key

    def request(self, body: bytes, *more: str, line: str = "POST /reports HTTP/1.1", key: str | None = None) -> bytes:
        """Spell a request."""
        head = [line, "Host: notifier", f"Authorization: Bearer {key or self.key}", *more]
        if not any(name.startswith("Transfer-Encoding") for name in more):
            head.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*head, "", ""]).encode() + body

    async def ask(self, *data: bytes) -> Answer:
        """Send bytes, and read an answer."""
        for part in data:
            self.writer.write(part)
            await self.writer.drain()
        return await self.answer()

    async def answer(self) -> Answer:
        """Read an answer."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length: ")[2].split("\r\n")[0])
            body = await self.reader.readexactly(size)
        return Answer(int(head.split()[1]), body, "\r\nserver: " in head)


@pytest.fixture
async def line(notifier: Notifier) -> AsyncIterator[Line]:
    """Open a connection; afterwards nothing of it is left, and nothing of it was a fault of ours."""
    host, port = notifier.internal.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield Line(reader, writer, notifier.report_key)
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()
    assert unexpected_errors(notifier.log) == []


def batch(*sequences: int, job_id: str | None = None) -> bytes:
    """Spell a batch of one job's reports."""
    job_id = job_id or new_id()
    return json.dumps([report(job_id, sequence) for sequence in sequences]).encode()


def accepted(answer: Answer) -> list[bool]:
    """Tell which reports of a batch were taken."""
    return [verdict["accepted"] for verdict in json.loads(answer.body)]


async def test_many_batches_over_one_connection(notifier: Notifier, line: Line) -> None:
    """Each is answered by itself, and counted as a request of its route."""
    counted = 'http_requests_total{code="200",method="POST",route="/reports"}'
    job_id, before = new_id(), await notifier.metric(counted)
    for number in range(1, 6):
        answer = await line.ask(line.request(batch(number, number + 1, job_id=job_id)))
        assert (answer.status, answer.by_aiohttp) == (200, False)
        assert accepted(answer) == [number == 1, True]  # the first one was the last one before
    assert await notifier.metric(counted) == before + 5


async def test_a_workers_client_is_plain(notifier: Notifier) -> None:
    """What aiohttp's client sends, as the worker's reporter does, takes the short way, however much it is."""
    headers = {"Authorization": f"Bearer {notifier.report_key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for size in (1, 500):
            body = batch(*range(1, size + 1))
            async with session.post(f"{notifier.internal}/reports", data=body) as response:
                assert (response.status, len(await response.json())) == (200, size)
                assert "Server" not in response.headers


async def test_answers_keep_the_order_of_requests(line: Line) -> None:
    """Whoever sends several at once, of all kinds, gets their answers one after the other."""
    plain, other = line.request(batch(1)), b"GET /livez HTTP/1.1\r\nHost: notifier\r\n\r\n"
    first = await line.ask(plain + plain + other + plain)
    answers = [first, *[await line.answer() for _ in range(3)]]
    assert [(answer.status, answer.by_aiohttp) for answer in answers] == [
        (200, False),
        (200, False),
        (200, True),
        (200, True),
    ]
    assert [accepted(answer) for answer in (answers[0], answers[1], answers[3])] == [[True], [False], [False]]
    assert json.loads(answers[2].body) == {"alive": True}


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_a_request_may_come_in_pieces(line: Line, size: int) -> None:
    """It is the same request, whoever answers it."""
    whole = line.request(batch(*range(1, 9)))
    answer = await line.ask(*[whole[start : start + size] for start in range(0, len(whole), size)])
    assert accepted(answer) == 8 * [True]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"body": b"[]"}, 422),
        ({"body": b"no JSON"}, 400),
        ({"body": b""}, 400),
        ({"body": b" " * (MAX_REPORTS_BYTES + 1)}, 413),
        ({"key": "wrong"}, 401),
        ({"line": "PUT /reports HTTP/1.1"}, 405),
        ({"line": "POST /report HTTP/1.1"}, 404),
    ],
)
async def test_a_refused_batch_has_its_problem(line: Line, more: dict[str, bytes], status: int) -> None:
    """It is told as on a connection of its own, and the connection is still good for the next batch."""
    assert (await line.ask(line.request(batch(1)))).status == 200
    answer = await line.ask(line.request(**{"body": batch(1), **more}))  # type: ignore[arg-type]
    assert (answer.status, json.loads(answer.body)["status"]) == (status, status)
    if status != 413:  # the rest of which is not read
        assert accepted(await line.ask(line.request(batch(1)))) == [True]


async def test_other_ways_to_send_a_batch(line: Line) -> None:
    """In chunks, or when the server has agreed to take it, it is as good."""
    body = batch(1)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert accepted(await line.ask(line.request(chunked, "Transfer-Encoding: chunked"))) == [True]
    whole = line.request(batch(1), "Expect: 100-continue")
    head, end, body = whole.partition(b"\r\n\r\n")
    line.writer.write(head + end)
    assert (await line.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    assert accepted(await line.ask(body)) == [True]
    assert accepted(await line.ask(line.request(batch(1), "Connection: close"))) == [True]
    assert await line.reader.read() == b""


async def test_who_leaves_before_the_answer_has_reported_all_the_same(notifier: Notifier, line: Line) -> None:
    """What was sent whole is kept."""
    job_id = new_id()
    async with notifier.socket() as socket:
        await socket.send_json({"watch": notifier.token(job_id)})
        assert (await socket.receive_json(timeout=10))["job"]["version"] == 0
        line.writer.write(line.request(batch(1, job_id=job_id)))
        await line.writer.drain()
        line.writer.close()
        assert (await socket.receive_json(timeout=10))["job"]["status"] == "running"
        await wait_until(lambda: line.reader.at_eof())
