"""Whatever comes over a socket, the notifier's log has no fault of ours, and who watches beside it notices nothing.

`FUZZ_EXAMPLES=20000 make test ARGS="tests/integration/test_socket_fuzz.py --timeout=3600"` is the long form.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.conftest import Notifier, report, running_notifier

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
IDS = [str(uuid.UUID(int=number)) for number in range(1, 5)]
UPGRADE = (b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")  # fmt: skip

texts = st.text(max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(IDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["watch", "version", "unwatch", "cancel", "hello", "job", "watch ", ""])
tokens = st.tuples(st.just("token"), st.sampled_from(IDS), st.sampled_from(["watch", "watch cancel", "cancel", ""]),
                   st.sampled_from([60, -3600, 10**9]))  # fmt: skip
messages = st.one_of(
    st.builds(lambda name, value: {name: value}, fields, values),
    st.dictionaries(fields, values, max_size=3),
    st.builds(lambda token, version: {"watch": token, "version": version}, tokens, st.integers() | values),
    st.builds(lambda token: {"watch": token}, tokens),
    st.builds(lambda name, job_id: {name: job_id}, st.sampled_from(["unwatch", "cancel"]), st.sampled_from(IDS)),
    texts,
    st.binary(max_size=60),
    st.just("[" * 10_000),
    st.just("x" * 70_000),
)
frames = st.binary(max_size=80) | st.builds(
    lambda head, size, rest: bytes([head, size]) + rest,
    st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40),
)  # fmt: skip


@dataclass
class Bystander:
    """A watcher of another job, who sees each of its versions all along."""

    notifier: Notifier
    socket: aiohttp.ClientWebSocketResponse
    job_id: str
    sequence: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def hears(self) -> None:
        """Report a step and see it."""
        step = next(self.sequence)
        await self.notifier.report(report(self.job_id, step, progress={"current": step}))
        shown = await self.socket.receive_json(timeout=10)
        assert shown["job"]["progress"]["current"] == step


@pytest.fixture(scope="module")
async def bystander(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bystander]:
    """Run a notifier with somebody who watches; at the end its log must be clean."""
    running = running_notifier(stores, tmp_path_factory.mktemp("keys"), MESSAGES_PER_S="1000")
    async with running as notifier, notifier.socket() as socket:
        job_id = str(uuid.uuid4())
        await socket.send_json({"watch": notifier.token(job_id, ttl_s=86_400)})
        assert (await socket.receive_json(timeout=10))["job"]["version"] == 0
        yield Bystander(notifier, socket, job_id)
    faults = [line for line in notifier.log.read_text().splitlines() if faulty(line)]
    assert faults == []


def faulty(line: str) -> bool:
    """Tell whether a line of a log tells of a fault."""
    return '"level": "error"' in line or "Traceback" in line or "exception" in line


def spelt(notifier: Notifier, message: Any) -> str | bytes:
    """Spell a message as it is sent, with the tokens that it asks for."""
    if isinstance(message, bytes | str):
        return message
    made = {
        name: notifier.token(value[1], scope=value[2], ttl_s=value[3]) if isinstance(value, tuple) else value
        for name, value in message.items()
    }
    return json.dumps(made)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(messages, max_size=12), st.booleans())
async def test_any_messages(bystander: Bystander, sent: list[Any], polite: bool) -> None:
    """Every order of good, nearly good and senseless messages is answered or ends that connection alone."""
    notifier = bystander.notifier
    async with notifier.session.ws_connect(f"{notifier.public}/live") as socket:
        with suppress(ConnectionError):
            for message in sent:
                data = spelt(notifier, message)
                await (socket.send_bytes(data) if isinstance(data, bytes) else socket.send_str(data))
        if not polite:
            assert socket._response.connection is not None
            socket._response.connection.close()
    await bystander.hears()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(frames, max_size=6))
async def test_any_bytes(bystander: Bystander, sent: list[bytes]) -> None:
    """Broken frames end their connection, and nothing else."""
    host, port = bystander.notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(UPGRADE)
    assert b"101" in await reader.readline()
    with suppress(ConnectionError):
        for data in sent:
            writer.write(data)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    await bystander.hears()
