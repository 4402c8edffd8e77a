"""Watchers that take nothing: they cost a bounded buffer, hold nobody up, and are let go after a while."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.integration.conftest import Notifier, new_id, report, running_notifier
from tests.waiting import wait_until

TEXT = "x" * 30_000
BATCH = 20
ENOUGH = 600  # times TEXT: more than all the buffers on the way


@pytest.fixture(scope="module")
async def impatient(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notifier]:
    """Run a notifier that soon gives up."""
    async with running_notifier(stores, tmp_path_factory.mktemp("keys"), STUCK_S="1") as notifier:
        yield notifier


@asynccontextmanager
async def connected(notifier: Notifier, request: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request and read nothing unless asked to."""
    host, port = notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(request)
    try:
        yield reader
    finally:
        writer.transport.abort()


def watching(token: str) -> bytes:
    """Spell a handshake and a first message, unmasked by zeros."""
    text = json.dumps({"watch": token}).encode()
    head = b"\x81\xfe" + struct.pack("!H", len(text)) + b"\0\0\0\0"
    key = base64.b64encode(b"0" * 16)
    return (
        b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key + head + text
    )


def streaming(token: str) -> bytes:
    """Spell the request of a stream."""
    job_id = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["sub"]
    return f"GET /live/jobs/{job_id}/events?access_token={token} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def flood(notifier: Notifier, job_id: str) -> list[dict[str, Any]]:
    """Report far more than the buffers hold while somebody healthy watches; return what that one has seen."""
    seen: list[dict[str, Any]] = []

    async def watch(healthy: aiohttp.ClientWebSocketResponse) -> None:
        while not seen or seen[-1]["status"] != "succeeded":
            seen.append((await healthy.receive_json(timeout=10))["job"])

    async with notifier.socket() as healthy, asyncio.TaskGroup() as group:
        await healthy.send_json({"watch": notifier.token(job_id)})
        group.create_task(watch(healthy))
        for first in range(1, ENOUGH, BATCH):
            await notifier.report(
                *(report(job_id, first + more, result=f"{first + more}{TEXT}") for more in range(BATCH))
            )
        await notifier.report(report(job_id, ENOUGH + BATCH, status="succeeded"))
    return seen


@pytest.mark.parametrize("request_of", [watching, streaming])
async def test_who_takes_nothing_is_let_go(impatient: Notifier, request_of: Any) -> None:
    """It holds nobody up meanwhile, and is counted."""
    stuck = 'notifier_refused_total{limit="stuck"}'
    before, job_id = await impatient.metric(stuck), new_id()
    async with connected(impatient, request_of(impatient.token(job_id))):
        seen = await flood(impatient, job_id)
        assert len(seen) > ENOUGH / 2

        async def let_go() -> bool:
            return await impatient.metric(stuck) == before + 1 and await impatient.metric("notifier_connections") == 0

        await wait_until(let_go)


async def test_who_reads_again_in_time_learns_why(impatient: Notifier) -> None:
    """The close code says that it may come back; nothing of what piled up is torn."""
    stuck = 'notifier_refused_total{limit="stuck"}'
    before, job_id = await impatient.metric(stuck), new_id()
    async with connected(impatient, watching(impatient.token(job_id))) as reader:
        await flood(impatient, job_id)

        async def given_up() -> bool:
            return await impatient.metric(stuck) == before + 1

        await wait_until(given_up)
        while await reader.readline() != b"\r\n":
            pass
        last = b""
        while (head := await reader.readexactly(2))[0] == 0x81:
            length = head[1] if head[1] < 126 else int.from_bytes(await reader.readexactly(2 if head[1] == 126 else 8))
            last = await reader.readexactly(length)
        assert json.loads(last)["job"]["id"] == job_id
        assert head[0] == 0x88
        assert int.from_bytes((await reader.readexactly(head[1]))[:2]) == 1013


async def test_who_reads_slowly_is_kept(impatient: Notifier) -> None:
    """As long as it takes something it is not given up, and it gets the ending."""
    job_id = new_id()
    async with connected(impatient, watching(impatient.token(job_id))) as reader:
        flooding = asyncio.create_task(flood(impatient, job_id))
        text = b""
        while b'"status":"succeeded"' not in text:
            text = text[-100:] + await asyncio.wait_for(reader.read(16_384), 20)
        await flooding
