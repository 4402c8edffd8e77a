"""Fuzzing of the notifier: any report, message or frame is answered or closes its own connection, and nothing else.

At least half of the inputs get past decoding. The notifier logs no errors of its own and answers nothing with 5xx,
snapshots show accepted reports unchanged, and the watcher of another job is not disturbed.

Long form, of ten minutes: FUZZ_S=600 FUZZ_SEED=7 make test ARGS=tests/integration/test_fuzz.py
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec
import pytest

from headway.contracts import JobReport, JobSnapshot, decode
from services.notifier.transports.websocket.handler import ClientMessage
from services.notifier.transports.websocket.protocol import MAX_MESSAGE_BYTES
from tests.integration.conftest import Notifier, new_id
from tests.integration.fuzz_inputs import JOB_PLACEHOLDERS, FuzzInputs
from tests.integration.fuzzing import Bystander, generate, input_in_errors

TOTAL_S = float(os.environ.get("FUZZ_S") or 9)
SEED = int(os.environ.get("FUZZ_SEED") or 1)
UPGRADE = (
    b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
pytestmark = [pytest.mark.timeout(TOTAL_S + 300), pytest.mark.parametrize("seed", [SEED], ids="FUZZ_SEED={}".format)]


class Many(msgspec.Struct):
    """The response to a request for several jobs."""

    jobs: list[JobSnapshot]


@pytest.fixture(scope="module")
async def bystander(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bystander]:
    """Run a notifier with a watcher."""
    async with Bystander.running(stores, tmp_path_factory.mktemp("keys")) as bystander:
        yield bystander


async def test_any_reports(bystander: Bystander, seed: int) -> None:
    """A request is accepted or rejected as a whole, and snapshots show the last accepted report."""
    for body in generate(FuzzInputs(seed).reports_body, TOTAL_S / 3):
        with input_in_errors(body):
            await send_reports(bystander, body)
            await bystander.check_connected()


async def send_reports(bystander: Bystander, body: bytes) -> None:
    """Post reports and check the response and the snapshots."""
    notifier, ids = bystander.notifier, [new_id() for _ in JOB_PLACEHOLDERS]
    for placeholder, job_id in zip(JOB_PLACEHOLDERS, ids, strict=True):
        body = body.replace(placeholder.encode(), job_id.encode())
    headers = {"Authorization": f"Bearer {notifier.report_key}"}
    async with notifier.session.post(f"{notifier.internal}/reports", data=body, headers=headers) as response:
        assert response.status in {200, 400, 422}, await response.text()
        bystander.counts["reports", response.status == 200] += 1
        answer = await response.json()
    jobs = await snapshots(notifier, ids)
    if response.status != 200:
        assert answer["code"] in {"malformed", "invalid"}
        assert {job.version for job in jobs.values()} == {0}
        return
    reports = decode(body, list[JobReport])
    assert [verdict["job_id"] for verdict in answer] == [str(one.job_id) for one in reports]
    in_order = [one for one, verdict in zip(reports, answer, strict=True) if verdict["accepted"]]
    first, accepted = {str(one.job_id): one for one in reversed(in_order)}, {str(one.job_id): one for one in in_order}
    for job_id in accepted.keys() & jobs.keys():  # an input may contain the id of yet another job
        job, last = jobs[job_id], accepted[job_id]
        assert (job.kind, job.status, job.generation, job.error) == (
            last.kind,
            last.status,
            last.generation,
            last.error,
        )
        assert (job.submitted_at, job.expires_at) == (first[job_id].submitted_at, last.expires_at)
        assert job.due_at == last.due_at or (last.due_at and last.sent_at)  # counted from `sent_at`
        assert bytes(job.result) == bytes(last.result).strip()
    if (reported := jobs.get(str(reports[0].job_id))) is not None:
        await bystander.check_same_snapshot(reported)


async def snapshots(notifier: Notifier, ids: list[str]) -> dict[str, JobSnapshot]:
    """Read the snapshots of some jobs, by id."""
    query = {"watch": [notifier.token(job_id) for job_id in ids]}
    async with notifier.session.post(f"{notifier.public}/live/jobs", json=query) as response:
        assert response.status == 200
        return {str(job.id): job for job in decode(await response.read(), Many).jobs}


def encode_message(notifier: Notifier, message: Any) -> str | bytes:
    """Encode a message for sending, with signed tokens in place of their descriptions."""
    if isinstance(message, bytes | str):
        return message
    signed = {
        name: notifier.token(value[0], scope=value[1], ttl_s=value[2]) if isinstance(value, tuple) else value
        for name, value in message.items()
    }
    return json.dumps(signed)


def is_valid_message(text: str) -> bool:
    """Return whether a message is one that a client may send."""
    try:
        decode(text, ClientMessage)
    except msgspec.DecodeError:
        return False
    return True


async def test_any_messages(bystander: Bystander, seed: int) -> None:
    """An invalid message is answered with an error; a binary or too large one closes only its own connection."""
    rng = random.Random(seed)
    for sent in generate(FuzzInputs(seed).messages, TOTAL_S / 3):
        with input_in_errors(sent):
            await send_messages(bystander, sent, read_responses=rng.random() < 0.5)
            await bystander.check_connected()


async def send_messages(bystander: Bystander, sent: list[Any], *, read_responses: bool) -> None:
    """Send messages; then read and check the responses, or disconnect."""
    notifier, invalid, close_code = bystander.notifier, 0, 0
    async with notifier.socket() as socket:
        with suppress(ConnectionError):
            for message in sent:
                data = encode_message(notifier, message)
                await (socket.send_bytes(data) if isinstance(data, bytes) else socket.send_str(data))
                if not close_code and isinstance(data, str) and len(data) <= MAX_MESSAGE_BYTES:
                    bystander.counts["messages", is_valid_message(data)] += 1
                    invalid += not is_valid_message(data)
                close_code = close_code or (
                    1003 if isinstance(data, bytes) else 1009 if len(data) > MAX_MESSAGE_BYTES else 0
                )
        if read_responses:
            assert await count_invalid(socket, close_code) == invalid
        else:
            assert socket._response.connection is not None
            socket._response.connection.close()


async def count_invalid(socket: aiohttp.ClientWebSocketResponse, close_code: int) -> int:
    """Read until the expected close, or until the response to a last message; count the errors `invalid`."""
    last, invalid = new_id(), 0
    if not close_code:
        await socket.send_json({"cancel": last})
    async for message in socket:
        error = message.json().get("error", {})
        if error.get("job_id") == last:
            return invalid
        invalid += error.get("code") == "invalid"
    assert socket.close_code == close_code
    return invalid


async def test_any_frames(bystander: Bystander, seed: int) -> None:
    """Invalid frames close their own connection only."""
    host, port = bystander.notifier.public.removeprefix("http://").split(":")
    for sent in generate(FuzzInputs(seed).frames, TOTAL_S / 3):
        with input_in_errors(sent):
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
            await bystander.check_connected()
