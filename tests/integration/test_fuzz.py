"""Whatever is reported, and whatever comes over a socket, is answered or ends its own connection, and nothing else.

At least half of it gets past decoding. The notifier's log has no fault of ours, nothing is answered 5xx, what was
accepted is shown as it was reported, and who watches beside it notices nothing.

The long form, of ten minutes, is `FUZZ_S=600 FUZZ_SEED=7 make test ARGS="tests/integration/test_fuzz.py"`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import msgspec
import pytest

from headway.contracts import JobReport, JobSnapshot, decode
from services.notifier.transports.websocket.connection import MAX_MESSAGE_BYTES
from services.notifier.transports.websocket.handler import ClientMessage
from tests.integration.conftest import Notifier, new_id, report, running_notifier, unexpected_errors
from tests.integration.fuzz_inputs import JOB_PLACEHOLDERS, FuzzInputs

log = logging.getLogger(__name__)
T = TypeVar("T")

TOTAL_S = float(os.environ.get("FUZZ_S") or 9)
SEED = int(os.environ.get("FUZZ_SEED") or 1)
UPGRADE = (
    b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
pytestmark = [pytest.mark.timeout(TOTAL_S + 60), pytest.mark.parametrize("seed", [SEED], ids="FUZZ_SEED={}".format)]


def drawn(draw: Callable[[], T]) -> Iterator[T]:
    """Draw inputs for a third of the time."""
    until = time.monotonic() + TOTAL_S / 3
    while time.monotonic() < until:
        yield draw()


@contextmanager
def told_with(sent: Any) -> Iterator[None]:
    """Add what was sent to an error."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"sent: {sent!r}")
        raise


class Many(msgspec.Struct):
    """What is answered to whoever asks for many jobs."""

    jobs: list[JobSnapshot]


@dataclass
class Bystander:
    """A watcher of another job, who sees each of its versions all along."""

    notifier: Notifier
    socket: aiohttp.ClientWebSocketResponse
    job_id: str
    sequence: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    tally: Counter[tuple[str, bool]] = field(default_factory=Counter)  # what was sent, and got past decoding or not

    async def hears(self) -> None:
        """Report a step and see it."""
        step = next(self.sequence)
        await self.notifier.report(report(self.job_id, step, progress={"current": step}))
        shown = await self.socket.receive_json(timeout=10)
        assert shown["job"]["progress"]["current"] == step

    async def sees(self, job: JobSnapshot) -> None:
        """See another job as it is told elsewhere."""
        await self.socket.send_json({"watch": self.notifier.token(str(job.id))})
        assert decode(await self.socket.receive_str(timeout=10), dict[str, JobSnapshot]) == {"job": job}
        await self.socket.send_json({"unwatch": str(job.id)})


@pytest.fixture(scope="module")
async def bystander(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bystander]:
    """Run a notifier with somebody who watches; at the end its log must be clean, and enough have got past decoding."""
    running = running_notifier(stores, tmp_path_factory.mktemp("keys"), MESSAGES_PER_S="1000")
    async with running as notifier, notifier.socket() as socket:
        job_id = new_id()
        await socket.send_json({"watch": notifier.token(job_id, ttl_s=86_400)})
        assert (await socket.receive_json(timeout=10))["job"]["version"] == 0
        yield (bystander := Bystander(notifier, socket, job_id))
    assert unexpected_errors(notifier.log) == []
    log.info("got past decoding or not: %s", dict(bystander.tally))
    for what in {what for what, _ in bystander.tally}:
        assert bystander.tally[what, True] >= bystander.tally[what, False], bystander.tally


async def test_any_reports(bystander: Bystander, seed: int) -> None:
    """A batch is taken whole or refused whole, and a job is shown as its last accepted report has it."""
    for batch in drawn(FuzzInputs(seed).reports_body):
        with told_with(batch):
            await reported(bystander, batch)
            await bystander.hears()


async def reported(bystander: Bystander, batch: bytes) -> None:
    """Report a batch, and see what comes of it."""
    notifier, ids = bystander.notifier, [new_id() for _ in JOB_PLACEHOLDERS]
    for place, job_id in zip(JOB_PLACEHOLDERS, ids, strict=True):
        batch = batch.replace(place.encode(), job_id.encode())
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    async with notifier.session.post(f"{notifier.internal}/reports", data=batch, headers=headers) as response:
        assert response.status in {200, 400, 422}, await response.text()
        bystander.tally["batches", response.status == 200] += 1
        answer = await response.json()
    jobs = await snapshots(notifier, ids)
    if response.status != 200:
        assert answer["code"] in {"malformed", "invalid"}
        assert {job.version for job in jobs.values()} == {0}
        return
    reports = decode(batch, list[JobReport])
    assert [verdict["job_id"] for verdict in answer] == [str(one.job_id) for one in reports]
    accepted = {str(one.job_id): one for one, verdict in zip(reports, answer, strict=True) if verdict["accepted"]}
    for job_id in accepted.keys() & jobs.keys():  # an input may have spelt the id of yet another job
        job, last = jobs[job_id], accepted[job_id]
        assert (job.kind, job.status, job.generation, job.error) == (
            last.kind,
            last.status,
            last.generation,
            last.error,
        )
        assert (job.submitted_at, job.expires_at, job.due_at) == (last.submitted_at, last.expires_at, last.due_at)
        assert bytes(job.result) == bytes(last.result).strip()
    if (first := jobs.get(str(reports[0].job_id))) is not None:
        await bystander.sees(first)


async def snapshots(notifier: Notifier, ids: list[str]) -> dict[str, JobSnapshot]:
    """Ask for jobs."""
    asked = {"watch": [notifier.token(job_id) for job_id in ids]}
    async with notifier.session.post(f"{notifier.public}/live/jobs", json=asked) as response:
        assert response.status == 200
        return {str(job.id): job for job in decode(await response.read(), Many).jobs}


def spelt(notifier: Notifier, message: Any) -> str | bytes:
    """Spell a message as it is sent, with the tokens that it asks for."""
    if isinstance(message, bytes | str):
        return message
    made = {
        name: notifier.token(value[0], scope=value[1], ttl_s=value[2]) if isinstance(value, tuple) else value
        for name, value in message.items()
    }
    return json.dumps(made)


def readable(text: str) -> bool:
    """Tell whether a message is one that a client may send."""
    try:
        decode(text, ClientMessage)
    except msgspec.DecodeError:
        return False
    return True


async def test_any_messages(bystander: Bystander, seed: int) -> None:
    """Each message that makes no sense is told so, one that no client may send ends that connection alone."""
    impolite = random.Random(seed)
    for sent in drawn(FuzzInputs(seed).messages):
        with told_with(sent):
            await said(bystander, sent, polite=impolite.random() < 0.5)
            await bystander.hears()


async def said(bystander: Bystander, sent: list[Any], *, polite: bool) -> None:
    """Send messages, and hear what is told of them, or leave."""
    notifier, invalid, ends = bystander.notifier, 0, 0
    async with notifier.socket() as socket:
        with suppress(ConnectionError):
            for message in sent:
                data = spelt(notifier, message)
                await (socket.send_bytes(data) if isinstance(data, bytes) else socket.send_str(data))
                if not ends and isinstance(data, str) and len(data) <= MAX_MESSAGE_BYTES:
                    bystander.tally["messages", readable(data)] += 1
                    invalid += not readable(data)
                ends = ends or (1003 if isinstance(data, bytes) else 1009 if len(data) > MAX_MESSAGE_BYTES else 0)
        if polite:
            assert await told(socket, ends) == invalid
        else:
            assert socket._response.connection is not None
            socket._response.connection.close()


async def told(socket: aiohttp.ClientWebSocketResponse, ends: int) -> int:
    """Read to the close that is to come, or to the answer to a last message; count what was not understood."""
    last, invalid = new_id(), 0
    if not ends:
        await socket.send_json({"cancel": last})
    async for message in socket:
        error = message.json().get("error", {})
        if error.get("job_id") == last:
            return invalid
        invalid += error.get("code") == "invalid"
    assert socket.close_code == ends
    return invalid


async def test_any_bytes(bystander: Bystander, seed: int) -> None:
    """Broken frames end their connection, and nothing else."""
    host, port = bystander.notifier.public.removeprefix("http://").split(":")
    for sent in drawn(FuzzInputs(seed).frames):
        with told_with(sent):
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
