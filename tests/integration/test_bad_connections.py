"""Connections that go wrong below the messages: each ends by itself, and who watches beside it notices nothing."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.integration.conftest import Notifier, new_id, running_notifier
from tests.integration.test_fuzz import UPGRADE
from tests.integration.test_limits import healthy, refused
from tests.waiting import wait_until

MASK = b"\x00\x00\x00\x00"


@pytest.fixture(scope="module")
async def notifier(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notifier]:
    """Run a notifier for this module; none of its connections may be logged as a fault of ours."""
    async with running_notifier(stores, tmp_path_factory.mktemp("keys")) as notifier:
        yield notifier
    log = notifier.log.read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log


@asynccontextmanager
async def opened(
    notifier: Notifier, request: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a bare connection and write something; afterwards nothing of it is left."""
    host, port = notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def dripped(notifier: Notifier, begun: bytes, drip: bytes) -> bytes:
    """Begin a request, let a little follow now and then; return what the server says before it closes."""
    async with opened(notifier, begun) as (reader, writer), asyncio.timeout(25):
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(drip)
            await asyncio.wait([answer], timeout=0.5)
    return answer.result() if answer.exception() is None else b""


async def test_what_drips_is_given_up(notifier: Notifier) -> None:
    """A byte now and then keeps no connection: a head and a body, counted or in chunks, are answered 408."""
    head = b"GET /live HTTP/1.1\r\nHost: x\r\n"
    body = b"POST /live/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%b\r\n\r\n"
    before = await notifier.metric('http_requests_total{code="408"}')
    async with healthy(notifier):
        first, chunked, counted = await asyncio.gather(
            dripped(notifier, head, b"X: y\r\n"),
            dripped(notifier, body % b"Transfer-Encoding: chunked", b"1\r\n \r\n"),
            dripped(notifier, body % b"Content-Length: 99", b" "),
        )
    for told in (first, chunked, counted):
        assert told.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"too_slow"' in told
    assert await notifier.metric('http_requests_total{code="408"}') == before + 3


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"garbage\r\n\r\n",
        b"GET /live HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"\x00" * 100,
        b"GET /live HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET /live HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"GET /live HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_no_request(notifier: Notifier, request_bytes: bytes) -> None:
    """It is answered 400, at once, and its connection ends."""
    async with healthy(notifier), opened(notifier, request_bytes) as (reader, _):
        assert (await asyncio.wait_for(reader.read(), 10)).split()[1] == b"400"


def frame(opcode: int, data: bytes = b"", *, size: int | None = None) -> bytes:
    """Spell a frame of a client, or what comes near one."""
    size = len(data) if size is None else size
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + struct.pack("!H", size) if size < 65_536 else b"\xff" + struct.pack("!Q", size)
    return bytes([opcode]) + length + MASK + data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(0x82, b"{}"), 1003),
        (frame(0x83, b"x"), 1002),  # an opcode that there is not
        (frame(0xC1, b"{}"), 1002),  # compressed, though nobody has agreed on that
        (frame(0x80, b"x"), 1002),  # goes on with nothing
        (frame(0x09, b"x"), 1002),  # a ping in pieces
        (frame(0x89, b"x" * 126), 1002),  # a ping too long
        (frame(0x81, b"\xff\xfe"), 1007),
        (frame(0x88, b"\x03"), 1002),  # half a close code
        (frame(0x81, size=1 << 30), 1009),
        (frame(0x81, size=(1 << 63) - 1), 1009),
        (frame(0x81, b"x" * (64 * 1024 + 1)), 1009),
        (frame(0x01, b"x" * 40_000) + frame(0x80, b"x" * 40_000), 1009),
        (frame(0x81, b"x" * 1024 * 1024), 1009),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_frame_that_does_not_fit(notifier: Notifier, data: bytes, code: int) -> None:
    """It ends its connection with the code that RFC 6455 has for it."""
    too_big = await refused(notifier, "message_size")
    async with healthy(notifier), opened(notifier, UPGRADE) as (reader, writer):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        told = await asyncio.wait_for(closing(reader), 10)
    assert told == code

    async def counted() -> bool:
        return await refused(notifier, "message_size") == too_big + int(code == 1009)

    await wait_until(counted)


async def closing(reader: asyncio.StreamReader) -> int | None:
    """Read a server's short frames to the one that closes; return its code."""
    while True:
        opcode, size = await reader.readexactly(2)
        data = await reader.readexactly(size)
        if opcode == 0x88:
            return int.from_bytes(data[:2], "big")


async def test_ten_thousand_watches_at_once(notifier: Notifier) -> None:
    """Good messages are too many, too: 1008, and the jobs asked for are forgotten."""
    before = await refused(notifier, "messages")
    token = notifier.token(new_id())
    text = f'{{"watch": "{token}"}}'.encode()
    async with healthy(notifier), opened(notifier, UPGRADE + frame(0x81, text) * 10_000) as (reader, _):
        with suppress(ConnectionError):  # cut off while it was still sending
            assert b"\x03\xf0too many messages" in await asyncio.wait_for(reader.read(), 60)
    assert await refused(notifier, "messages") == before + 1

    async def forgotten() -> bool:
        return await notifier.metric("notifier_watched_jobs") == 0

    await wait_until(forgotten)
