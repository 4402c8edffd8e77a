"""Invalid data in Redis and on the queue: it counts as missing and does not affect other jobs."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from headway.azure.job_queue import JobQueue
from headway.contracts import Timestamp
from headway.tokens import Grant, TokenSigner
from services.notifier.records.keys import job_key
from tests.integration.conftest import Notifier, new_id, report
from tests.integration.test_one_job import API_VERSION
from tests.stack import JOBS, running
from tests.waiting import PATIENCE_S, wait_until

GARBAGE: list[str | bytes] = ["garbage", "", b"\xff\xfe", "9" * 30, "[" * 5000]
NUMBERS = [
    "version",
    "generation",
    "attempt",
    "max_attempts",
    "delivery",
    "sequence",
    "lease_ms",
    "due_ms",
    "expires_ms",
]
TIMES = ["submitted_at", "started_at", "updated_at", "finished_at", "due_at", "lease_until", "expires_at"]
FIELDS = ["id", "kind", "status", "progress", "result", "error", "cancel_requested", *TIMES, *NUMBERS]
OTHER_TYPES = {"string": ["SET", "x"], "list": ["RPUSH", "x"], "set": ["SADD", "x"], "hash": ["HSET", "x", "x"]}


@asynccontextmanager
async def watch_two_jobs(notifier: Notifier) -> AsyncIterator[tuple[str, aiohttp.ClientWebSocketResponse]]:
    """Watch two running jobs over one WebSocket and yield the first; at the end, the second must still work."""
    first, second = new_id(), new_id()
    await notifier.report(report(first, 1), report(second, 1))
    async with notifier.socket() as socket:
        for job_id in (first, second):
            await socket.send_json({"watch": notifier.token(job_id)})
            assert (await socket.receive_json(timeout=PATIENCE_S))["job"]["id"] == job_id
        yield first, socket
        await notifier.report(report(second, 2, status="succeeded"))
        assert (await next_snapshot(socket, second))["status"] == "succeeded"


async def next_snapshot(
    socket: aiohttp.ClientWebSocketResponse, job_id: str, status: str | None = None
) -> dict[str, Any]:
    """Return the next snapshot of a job, with this status if given; every message must be JSON."""
    while True:
        job: dict[str, Any] = (await socket.receive_json(timeout=PATIENCE_S)).get("job", {})
        if job.get("id") == job_id and status in (None, job["status"]):
            return job


@pytest.mark.parametrize("value", GARBAGE, ids=lambda value: str(value)[:8])
async def test_garbage_in_a_record_is_repaired(notifier: Notifier, admin: Redis, value: str | bytes) -> None:
    """With garbage in any field, every response is still JSON, and the next report repairs the record."""
    for field in FIELDS:
        async with watch_two_jobs(notifier) as (job_id, socket):
            await admin.hset(job_key(job_id), field, value)
            url = f"{notifier.public}/live/jobs/{job_id}"
            headers = {"Authorization": f"Bearer {notifier.token(job_id)}"}
            async with notifier.session.get(url, headers=headers) as response:
                assert (response.status, (await response.json())["id"]) == (200, job_id), field
            (verdict,) = await notifier.report(report(job_id, 2, progress={"current": 1}))
            assert verdict["accepted"], field
            while (job := await next_snapshot(socket, job_id))["progress"] is None:
                pass
            assert job["cancel_requested"] is False
            await admin.hset(job_key(job_id), field, value)
            async with notifier.session.post(f"{url}/cancel", headers=headers) as response:
                assert (response.status, (await response.json())["id"]) == (202, job_id), field


async def test_garbage_in_an_outcome_does_not_reopen_the_job(notifier: Notifier, admin: Redis) -> None:
    """A job whose result is deeply nested, or is replaced by garbage, is still finished."""
    async with watch_two_jobs(notifier) as (job_id, socket):
        await notifier.report(report(job_id, 2, status="succeeded"))
        assert (await next_snapshot(socket, job_id))["status"] == "succeeded"
        url = f"{notifier.public}/live/jobs/{job_id}/cancel"
        headers = {"Authorization": f"Bearer {notifier.token(job_id)}"}
        for result in ("[" * 5000 + "]" * 5000, "garbage"):
            await admin.hset(job_key(job_id), "result", result)
            async with notifier.session.post(url, headers=headers) as response:
                assert (response.status, (await response.json())["id"]) == (202, job_id)
            assert (await notifier.report(report(job_id, 3)))[0]["reason"] == "finished"


@pytest.mark.parametrize("kind", OTHER_TYPES)
async def test_key_of_another_type_counts_as_missing(notifier: Notifier, admin: Redis, kind: str) -> None:
    """A value of another type reads as a missing record; the next report or cancellation replaces it."""
    async with watch_two_jobs(notifier) as (job_id, socket):
        key = job_key(job_id)
        for action in ("report", "cancel"):
            await admin.delete(key)
            command, *values = OTHER_TYPES[kind]
            await admin.execute_command(command, key, *values)  # type: ignore[no-untyped-call]
            await admin.pexpire(key, 60_000)
            headers = {"Authorization": f"Bearer {notifier.token(job_id)}"}
            url = f"{notifier.public}/live/jobs/{job_id}"
            async with notifier.session.get(url, headers=headers) as response:
                assert (response.status, (await response.json())["version"]) == (200, 0)
            if action == "report":
                assert (await notifier.report(report(job_id, 2)))[0]["accepted"]
                assert (await next_snapshot(socket, job_id))["status"] == "running"
            else:
                async with notifier.session.post(f"{url}/cancel", headers=headers) as response:
                    assert (response.status, (await response.json())["status"]) == (202, "cancelled")
                assert (await next_snapshot(socket, job_id))["status"] == "cancelled"


async def test_garbage_on_a_channel_is_ignored(notifier: Notifier, admin: Redis) -> None:
    """A publication that is not a snapshot is not sent to watchers, even if it resembles one."""
    almost = b'{"status":"running","version":1767225600123,"result":%b}'
    async with watch_two_jobs(notifier) as (job_id, socket):
        resembling = (almost % b"garbage", almost % b'"\xff"', almost % b"1" + b"}", almost.replace(b"running", b"x"))
        for text in (*GARBAGE, *resembling):
            await admin.publish(job_key(job_id), text)
        await notifier.report(report(job_id, 2, status="failed"))
        assert (await next_snapshot(socket, job_id))["status"] == "failed"


def b64(data: bytes) -> str:
    """Encode a message in base64, as the WebJobs SDK does."""
    return base64.b64encode(data).decode()


UNREADABLE = [
    "garbage",
    "{",
    "[]",
    "null",
    "7",
    "{}",
    '"not a uuid"',
    b64(b"\xff\xfe"),
    b64(b"\x00" * 50),
    b64(b"[" * 30_000),
    '{"id": 7}',
    '{"id": "x"}',
    '{"kind": "echo"}',
    "eyJ" + "é" * 10,
    " ",
    "=",
    '"' * 100,
]
INVALID_FIELDS: list[dict[str, Any]] = [
    {"kind": 7},
    {"kind": ""},
    {"kind": "k" * 129},
    {"max_attempts": 0},
    {"max_attempts": -1},
    {"max_attempts": 10**30},
    {"generation": -1},
    {"releases": -1},
    {"timeout_s": -1},
    {"timeout_s": 10**400},
    {"submitted_at": "soon"},
    {"expires_at": 7},
    {"submitted_at": "2026-02-30T00:00:00Z"},
]


async def test_garbage_on_the_queue_goes_to_the_poison_queue(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Invalid messages are kept unchanged, a job with a readable id fails with the reason, and valid jobs run."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "0", "DRAIN_S": "0"}
    async with running(tmp_path_factory.mktemp("garbage"), **env) as stack:
        connection = stack.env["QUEUE_CONNECTION_STRING"]
        invalid = {new_id(): fields for fields in INVALID_FIELDS}
        texts = [*UNREADABLE, *(json.dumps({"id": job_id, **fields}) for job_id, fields in invalid.items())]
        async with JobQueue.connect(connection, "jobs", API_VERSION) as queue:
            receipts = []
            for number, text in enumerate(texts):
                if number % 5 == 0:
                    receipts.append(await stack.submit("echo", number))
                await queue.send(text)
        found: dict[str, None] = {}
        async with JobQueue.connect(connection, "jobs-poison", API_VERSION) as poison:

            async def all_found() -> bool:
                found.update({received.text: None for received in await poison.receive(32, 60)})
                return found.keys() >= set(texts)

            await wait_until(all_found)
        for receipt in receipts:
            assert [job async for job in stack.watch(receipt["token"])][-1]["status"] == "succeeded"
        signer = TokenSigner((stack.folder / "keys" / "token.pem").read_text())
        for job_id, fields in invalid.items():
            now = Timestamp.now()
            token = signer.sign(Grant(job_id=uuid.UUID(job_id), kind="k", submitted_at=now, expires_at=now.after(60)))
            end = [job async for job in stack.watch(token)][-1]
            assert (end["status"], end["error"]["type"]) == ("failed", "InvalidMessage")
            assert next(iter(fields)) in end["error"]["message"], fields
        log = (stack.folder / "logs" / "worker.log").read_text()
        assert "Traceback" not in log
