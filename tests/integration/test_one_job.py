"""End-to-end tests: one job through the whole system, submitted in each supported way."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headway.azure.job_queue import JobQueue
from headway.contracts import encode
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until

API_VERSION = "2025-11-05"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "1"}
    async with running(tmp_path_factory.mktemp("one"), **env) as stack:
        yield stack


async def history(stack: Stack, token: str) -> list[dict[str, Any]]:
    """Return all snapshots of a job that a watcher receives until it ends."""
    return [snapshot async for snapshot in stack.watch(token)]


async def history_from_start(stack: Stack, kind: str, payload: Any = None, **more: Any) -> list[dict[str, Any]]:
    """Submit a job; return all snapshots that a watcher receives who subscribes before the job starts."""
    with stack.frozen("worker"):
        receipt = await stack.submit(kind, payload, **more)
        snapshots = stack.watch(receipt["token"])
        first = await anext(snapshots)
    return [first, *[snapshot async for snapshot in snapshots]]


async def run_to_end(stack: Stack, kind: str, payload: Any = None) -> dict[str, Any]:
    """Submit a job; return its last snapshot."""
    receipt = await stack.submit(kind, payload)
    return (await history(stack, receipt["token"]))[-1]


def issue_token(stack: Stack, job_id: str) -> str:
    """Issue a token for a job with `headway token`, and return it."""
    command = [sys.executable, "-m", "headway", "token", job_id, "--kind", "countdown"]
    env = {"TOKEN_KEY_FILE": stack.env["TOKEN_KEY_FILE"], "PATH": ""}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()


async def test_watcher_receives_every_step(stack: Stack, tmp_path: Path) -> None:
    """A watcher receives ten steps in order, with rising versions; each is done after the watcher has seen the last."""
    seen = tmp_path / "seen"
    seen.touch()
    receipt, snapshots = await stack.submit("steps-on-demand", str(seen)), []
    async for snapshot in stack.watch(receipt["token"]):
        snapshots.append(snapshot)
        if snapshot["status"] == "running":
            seen.write_text("x" * (1 + (snapshot["progress"] or {"current": 0})["current"]))
    versions = [job["version"] for job in snapshots]
    assert versions == sorted(set(versions))
    percents = [job["progress"]["percent"] for job in snapshots if job["progress"] and job["status"] == "running"]
    assert percents == sorted(percents)
    assert set(percents) == {10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0}
    end = snapshots[-1]
    assert (end["status"], end["result"], end["error"]) == ("succeeded", "ten steps", None)
    assert end["started_at"] <= end["finished_at"]
    assert end == await stack.snapshot(receipt["id"], receipt["token"])


def as_base64(text: str) -> str:
    """Encode a message as most SDKs for .NET do."""
    return base64.b64encode(text.encode()).decode()


async def test_messages_of_dotnet_programs_are_run(stack: Stack) -> None:
    """They succeed: a UUID, as a text or as JSON, and an object with a field of WebJobs, with and without base64.

    The handler gets the payload alone, and the job has no labels.
    """
    job_ids = [str(uuid.uuid4()) for _ in range(6)]
    payload = {"file": "Umsätze.csv"}
    parent = {"$AzureWebJobsParentId": str(uuid.uuid4())}
    texts = [
        *job_ids[:2],
        *map(json.dumps, job_ids[2:4]),
        *(json.dumps({**parent, "id": job_id, "kind": "echo", "payload": payload}) for job_id in job_ids[4:]),
    ]
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
        for index, text in enumerate(texts):
            await queue.send(as_base64(text) if index % 2 else text)
    histories = await asyncio.gather(*(history(stack, issue_token(stack, job_id)) for job_id in job_ids))
    ends = [(end["id"], end["kind"], end["status"], end["result"]) for *_, end in histories]
    outcomes = [("countdown", "succeeded", "Counted 10 steps")] * 4 + [("echo", "succeeded", payload)] * 2
    assert ends == [(job_id, *outcome) for job_id, outcome in zip(job_ids, outcomes, strict=True)]


async def test_field_of_webjobs_is_kept(stack: Stack) -> None:
    """It is no part of the payload and the labels in the details of a failed job; the poison queue has it."""
    job_id = str(uuid.uuid4())
    text = json.dumps({"id": job_id, "kind": "broken", "payload": 7, "$AzureWebJobsParentId": str(uuid.uuid4())})
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
        await queue.send(text)
    assert (await history(stack, issue_token(stack, job_id)))[-1]["status"] == "failed"
    async with stack.session.post(f"{stack.url}/tokens", json={"job": job_id, "scope": "watch details"}) as response:
        headers = {"Authorization": f"Bearer {(await response.json())['token']}"}
    async with stack.session.get(f"{stack.env['LIVE_URL']}/live/jobs/{job_id}/details", headers=headers) as response:
        details = await response.json()
    assert (details["payload"], details["labels"]) == (7, {})
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs-poison", API_VERSION) as poison:
        assert text in [received.text for received in await poison.receive(32, 1)]


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        40.0,
        12345678901234567,
        -12345678901234567,
        "🚀 fünf ☂",
        "x" * 32_000,
        [{}, [[]], {"a": [1.0, None]}],
        "",
    ],
    ids=["list", "object", "float", "digits", "negative", "emoji", "long", "nested", "empty"],
)
async def test_result_reaches_watchers_unchanged(stack: Stack, value: Any) -> None:
    """The snapshot contains the handler's result byte for byte."""
    receipt = await stack.submit("echo", value)
    end = (await history(stack, receipt["token"]))[-1]
    assert end["status"] == "succeeded"
    assert encode(end["result"]) == encode(value)
    url = receipt["links"]["live"]
    async with stack.session.get(url, headers={"Authorization": f"Bearer {receipt['token']}"}) as response:
        assert b'"result":' + encode(value) + b',"error"' in await response.read()


async def test_exception_fails_the_job(stack: Stack) -> None:
    """A job whose last attempt raises fails with the type and the message of the exception."""
    end = await run_to_end(stack, "broken")
    assert (end["status"], end["error"]) == ("failed", {"type": "ValueError", "message": "the cable is loose"})


async def test_invalid_payload_fails_the_job(stack: Stack) -> None:
    """A payload that does not match its type fails the job, and the error names the field."""
    end = await run_to_end(stack, "countdown", {"steps": "many"})
    assert end["status"] == "failed"
    assert end["error"]["type"] == "InvalidPayload"
    assert "$.steps" in end["error"]["message"]


async def test_cancel_stops_a_running_handler(stack: Stack) -> None:
    """A cancel request reaches the running handler, and the job ends `cancelled`."""
    receipt = await stack.submit("countdown", {"steps": 1000, "delay_s": 0.05})
    statuses = []
    async for job in stack.watch(receipt["token"]):
        if job["status"] == "running" and "running" not in statuses:
            assert (await stack.cancel(receipt))["cancel_requested"] is True
        statuses.append(job["status"])
    assert statuses[-1] == "cancelled"


async def test_unreadable_messages_go_to_the_poison_queue(stack: Stack) -> None:
    """The worker moves an unreadable message there unchanged; if its job id is readable, the job fails."""
    job_id = str(uuid.uuid4())
    texts = ["not json at all", json.dumps({"id": job_id, "max_attempts": "many"}), json.dumps({"kind": "countdown"})]
    connection = stack.env["QUEUE_CONNECTION_STRING"]
    async with JobQueue.connect(connection, "jobs", API_VERSION) as queue:
        for text in texts:
            await queue.send(text)
    end = (await history(stack, issue_token(stack, job_id)))[-1]
    assert (end["status"], end["error"]["type"]) == ("failed", "InvalidMessage")
    assert "$.max_attempts" in end["error"]["message"]
    async with JobQueue.connect(connection, "jobs-poison", API_VERSION) as poison:
        found: set[str] = set()

        async def all_found() -> bool:
            found.update(received.text for received in await poison.receive(32, 60))
            return found >= set(texts)

        await wait_until(all_found)


async def test_expired_job_is_not_started(stack: Stack) -> None:
    """A job that is delivered after its expiry fails with the error `Expired`."""
    job_id = str(uuid.uuid4())
    message = {"id": job_id, "kind": "countdown", "expires_at": "2026-01-01T00:00:00.000Z"}
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
        await queue.send(json.dumps(message))
    end = (await history(stack, issue_token(stack, job_id)))[-1]
    assert (end["status"], end["error"]["type"], end["started_at"]) == ("failed", "Expired", None)


async def test_duplicate_message_is_not_run(stack: Stack) -> None:
    """A job whose message is on the queue twice runs once."""
    job_id = str(uuid.uuid4())
    text = json.dumps({"id": job_id, "kind": "count-calls"})
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", API_VERSION) as queue:
        await queue.send(text)
        await queue.send(text)
    end = (await history(stack, issue_token(stack, job_id)))[-1]
    assert end["result"] == 1
    next_receipt = await stack.submit("count-calls")  # delivered after both messages
    next_end = (await history(stack, next_receipt["token"]))[-1]
    assert next_end["result"] == 2


async def test_snapshot_has_an_etag(stack: Stack) -> None:
    """The ETag is the version: a client that has it gets 304. A missing token gets 401, another job's token 403."""
    receipt = await stack.submit("echo", 1)
    end = (await history(stack, receipt["token"]))[-1]
    url, headers = receipt["links"]["live"], {"Authorization": f"Bearer {receipt['token']}"}
    async with stack.session.get(url, headers=headers) as response:
        etag = response.headers["ETag"]
        assert etag == f'"{end["version"]}"'
    async with stack.session.get(url, headers={**headers, "If-None-Match": etag}) as response:
        assert response.status == 304
    async with stack.session.get(url) as response:
        assert response.status == 401
        assert response.content_type == "application/problem+json"
    other_token = (await stack.submit("echo", 2))["token"]
    async with stack.session.get(url, headers={"Authorization": f"Bearer {other_token}"}) as response:
        assert response.status == 403


async def test_form_redirects_to_the_job_page(stack: Stack) -> None:
    """A form of an allowed origin is redirected to the job's page, with the token in the fragment; others get 403."""
    url = f"{stack.url}/jobs"
    form = {"kind": "countdown"}
    for origin, status in ((stack.url, 303), ("https://evil.example", 403), (None, 403)):
        headers = {} if origin is None else {"Origin": origin}
        async with stack.session.post(url, data=form, headers=headers, allow_redirects=False) as response:
            assert response.status == status
            if status == 303:
                path, token = response.headers["Location"].split("#")
                assert path.startswith("/jobs/")
                assert (await stack.snapshot(path.removeprefix("/jobs/"), token))["kind"] == "countdown"


async def test_probes_and_metrics_are_internal(stack: Stack) -> None:
    """Every service serves its probes and its metrics on the internal port only."""
    for name in ("SUBMITTER", "NOTIFIER", "WORKER"):
        base = f"http://127.0.0.1:{stack.env[f'{name}_INTERNAL_PORT']}"
        for path in ("/livez", "/readyz", "/metrics"):
            async with stack.session.get(base + path) as response:
                assert response.status == 200, (name, path)
    for public in (stack.url, stack.env["NOTIFIER_URL"]):
        for path in ("/livez", "/metrics", "/reports"):
            async with stack.session.get(public + path) as response:
                assert response.status == 404


async def test_no_secret_is_logged(stack: Stack) -> None:
    """The logs of a job from submission to end contain no token, no key and no payload."""
    secret = f"payload-{uuid.uuid4()}"
    receipt = await stack.submit("echo", secret)
    await history(stack, receipt["token"])
    url = f"{receipt['links']['live']}?access_token={receipt['token']}"
    async with stack.session.get(url) as response:
        assert response.status == 200
    report_key = (stack.folder / "keys" / "report.key").read_text().strip()
    text = "".join(path.read_text() for path in (stack.folder / "logs").iterdir())
    assert receipt["id"] in text
    for hidden in (secret, receipt["token"], report_key, "eyJ"):
        assert hidden not in text
