"""Invalid bytes below the level of messages: each connection ends alone, and other watchers are not disturbed."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.integration.conftest import Notifier, new_id, running_notifier
from tests.integration.test_fuzz import UPGRADE
from tests.integration.test_limits import refusals, unaffected_watcher
from tests.waiting import PATIENCE_S, wait_until

MASK = b"\x00\x00\x00\x00"


@pytest.fixture(scope="module")
async def notifier(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notifier]:
    """Run a notifier for this module; no bad connection may be logged as an error."""
    async with running_notifier(stores, tmp_path_factory.mktemp("keys")) as notifier:
        yield notifier
    log = notifier.log.read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log


@asynccontextmanager
async def open_connection(
    notifier: Notifier, request: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a TCP connection and send some bytes; close the connection at the end of the block."""
    host, port = notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def hang_up(port: int, request: bytes, *, reset: bool) -> None:
    """Send the start of a request, and close the connection with FIN or RST."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def send_slowly(notifier: Notifier, start: bytes, piece: bytes) -> bytes:
    """Send the start of a request, then a piece every 0.5 s; return the response when the server closes."""
    async with open_connection(notifier, start) as (reader, writer), asyncio.timeout(PATIENCE_S):
        response = asyncio.create_task(reader.read())
        while not response.done():
            writer.write(piece)
            await asyncio.wait([response], timeout=0.5)
    return response.result() if response.exception() is None else b""


async def test_slow_request_is_answered_408(notifier: Notifier) -> None:
    """A slow head, a slow chunked body and a slow body with a length each time out."""
    head = b"GET /live HTTP/1.1\r\nHost: x\r\n"
    body = b"POST /live/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%b\r\n\r\n"
    before = await notifier.metric('http_requests_total{code="408"}')
    async with unaffected_watcher(notifier):
        responses = await asyncio.gather(
            send_slowly(notifier, head, b"X: y\r\n"),
            send_slowly(notifier, body % b"Transfer-Encoding: chunked", b"1\r\n \r\n"),
            send_slowly(notifier, body % b"Content-Length: 99", b" "),
        )
    for response in responses:
        assert response.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"too_slow"' in response
    assert await notifier.metric('http_requests_total{code="408"}') == before + 3


@pytest.mark.parametrize("listener", ["public", "internal"])
async def test_hang_up_in_a_body_is_no_error(notifier: Notifier, listener: str) -> None:
    """A client that closes or resets its connection in the middle of a body is counted as 499."""
    route = {"public": "/live/jobs", "internal": "/reports"}[listener]
    counter = f'http_requests_total{{code="499",method="POST",route="{route}"}}'
    headers = f"Host: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {notifier.report_key}\r\n"
    head = f"POST {route} HTTP/1.1\r\n{headers}"
    before = await notifier.metric(counter)
    port = int(getattr(notifier, listener).rpartition(":")[2])
    for body in (b"Content-Length: 99\r\n\r\n[", b"Transfer-Encoding: chunked\r\n\r\n20\r\n["):
        await hang_up(port, head.encode() + body, reset=False)
        await hang_up(port, head.encode() + body, reset=True)

    async def counted() -> bool:
        return await notifier.metric(counter) == before + 4

    await wait_until(counted)


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
async def test_malformed_request_is_answered_400(notifier: Notifier, request_bytes: bytes) -> None:
    """Bytes that are not a valid HTTP request are answered at once, and the connection is closed."""
    async with unaffected_watcher(notifier), open_connection(notifier, request_bytes) as (reader, _):
        assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).split()[1] == b"400"


def frame(opcode: int, data: bytes = b"", *, size: int | None = None) -> bytes:
    """Encode a client's frame; `size` overrides the length in its header."""
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
        (frame(0x83, b"x"), 1002),  # a reserved opcode
        (frame(0xC1, b"{}"), 1002),  # compressed, although no extension was negotiated
        (frame(0x80, b"x"), 1002),  # a continuation without a first frame
        (frame(0x09, b"x"), 1002),  # a fragmented ping
        (frame(0x89, b"x" * 126), 1002),  # a ping that is too long
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
async def test_invalid_frame_closes_the_connection(notifier: Notifier, data: bytes, code: int) -> None:
    """The server closes the connection with the code of RFC 6455 for the violation."""
    before = await refusals(notifier, "message_size")
    async with unaffected_watcher(notifier), open_connection(notifier, UPGRADE) as (reader, writer):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        assert await asyncio.wait_for(read_close_code(reader), PATIENCE_S) == code

    async def counted() -> bool:
        return await refusals(notifier, "message_size") == before + int(code == 1009)

    await wait_until(counted)


async def read_close_code(reader: asyncio.StreamReader) -> int | None:
    """Read the server's frames up to the close frame; return its code."""
    while True:
        opcode, size = await reader.readexactly(2)
        data = await reader.readexactly(size)
        if opcode == 0x88:
            return int.from_bytes(data[:2], "big")


async def test_ten_thousand_messages_at_once_are_too_many(notifier: Notifier) -> None:
    """Valid messages above the rate limit close the connection with 1008, and its subscriptions end."""
    before = await refusals(notifier, "messages")
    token = notifier.token(new_id())
    text = f'{{"watch": "{token}"}}'.encode()
    async with (
        unaffected_watcher(notifier),
        open_connection(notifier, UPGRADE + frame(0x81, text) * 10_000) as (reader, _),
    ):
        with suppress(ConnectionError):  # reset while the client was still sending
            assert b"\x03\xf0too many messages" in await asyncio.wait_for(reader.read(), PATIENCE_S)
    assert await refusals(notifier, "messages") == before + 1

    async def no_watched_jobs() -> bool:
        return await notifier.metric("notifier_watched_jobs") == 0

    await wait_until(no_watched_jobs)
