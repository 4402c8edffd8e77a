"""Slow consumers: clients that do not read cost a bounded buffer, delay no other client, and are disconnected."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.integration.conftest import Notifier, new_id, report, running_notifier
from tests.waiting import PATIENCE_S, wait_until

TEXT = "x" * 30_000
REPORTS_PER_REQUEST = 20
REPORTS = 600  # each with TEXT: together more than all buffers between the notifier and the client
DISCONNECTED = 'notifier_refused_total{limit="stuck"}'
DROPPED = 'notifier_messages_dropped_total{reason="slow"}'


@pytest.fixture(scope="module")
async def notifier(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notifier]:
    """Run a notifier that disconnects a client that has read nothing for three seconds."""
    async with running_notifier(stores, tmp_path_factory.mktemp("keys"), STUCK_S="3") as notifier:
        yield notifier


@asynccontextmanager
async def sent_request(notifier: Notifier, request: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request over a new connection; yield its reader, which has a small buffer; abort it at the end."""
    host, port = notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(request)
    try:
        yield reader
    finally:
        writer.transport.abort()


def websocket_request(token: str) -> bytes:
    """Encode a WebSocket handshake and a message that watches the token's job; the frame's mask is zero."""
    text = json.dumps({"watch": token}).encode()
    head = b"\x81\xfe" + struct.pack("!H", len(text)) + b"\0\0\0\0"
    key = base64.b64encode(b"0" * 16)
    return (
        b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key + head + text
    )


def event_stream_request(token: str) -> bytes:
    """Encode the request of an event stream of the token's job."""
    job_id = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["sub"]
    return f"GET /live/jobs/{job_id}/events?access_token={token} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def flood(notifier: Notifier, job_id: str) -> list[dict[str, Any]]:
    """Report more than the buffers hold; return the snapshots of a client that keeps reading."""
    snapshots: list[dict[str, Any]] = []

    async def watch(socket: aiohttp.ClientWebSocketResponse) -> None:
        while not snapshots or snapshots[-1]["status"] != "succeeded":
            snapshots.append((await socket.receive_json(timeout=PATIENCE_S))["job"])

    async with notifier.socket() as socket, asyncio.TaskGroup() as group:
        await socket.send_json({"watch": notifier.token(job_id)})
        group.create_task(watch(socket))
        for first in range(1, REPORTS, REPORTS_PER_REQUEST):
            await notifier.report(
                *(report(job_id, n, result=f"{n}{TEXT}") for n in range(first, first + REPORTS_PER_REQUEST))
            )
        await notifier.report(report(job_id, REPORTS + REPORTS_PER_REQUEST, status="succeeded"))
    return snapshots


@pytest.mark.parametrize("encode_request", [websocket_request, event_stream_request])
async def test_stalled_client_is_disconnected(notifier: Notifier, encode_request: Callable[[str], bytes]) -> None:
    """A client that reads nothing is disconnected; this and what it misses is counted; others get most versions."""
    before, job_id = await notifier.metric(DISCONNECTED), new_id()
    dropped_before = await notifier.metric(DROPPED)
    async with sent_request(notifier, encode_request(notifier.token(job_id))):
        snapshots = await flood(notifier, job_id)
        assert len(snapshots) > REPORTS / 2

        async def disconnected() -> bool:
            counted = await notifier.metric(DISCONNECTED) == before + 1
            return counted and await notifier.metric("notifier_connections") == 0

        await wait_until(disconnected)
    assert await notifier.metric(DROPPED) > dropped_before


async def test_stalled_client_can_read_the_close_code(notifier: Notifier) -> None:
    """If it reads again, it gets complete frames, the last of which closes the connection with 1013."""
    before, job_id = await notifier.metric(DISCONNECTED), new_id()
    async with sent_request(notifier, websocket_request(notifier.token(job_id))) as reader:
        await flood(notifier, job_id)

        async def disconnected() -> bool:
            return await notifier.metric(DISCONNECTED) == before + 1

        await wait_until(disconnected)
        while await reader.readline() != b"\r\n":
            pass
        last = b""
        while (head := await reader.readexactly(2))[0] == 0x81:
            length = head[1] if head[1] < 126 else int.from_bytes(await reader.readexactly(2 if head[1] == 126 else 8))
            last = await reader.readexactly(length)
        assert json.loads(last)["job"]["id"] == job_id
        assert head[0] == 0x88
        assert int.from_bytes((await reader.readexactly(head[1]))[:2]) == 1013


async def test_slow_client_stays_connected(notifier: Notifier) -> None:
    """A client that reads slowly is not disconnected, and it gets the job's outcome."""
    job_id = new_id()
    async with sent_request(notifier, websocket_request(notifier.token(job_id))) as reader:
        flooding = asyncio.create_task(flood(notifier, job_id))
        text = b""
        while b'"status":"succeeded"' not in text:
            text = text[-100:] + await asyncio.wait_for(reader.read(16_384), PATIENCE_S)
        await flooding
