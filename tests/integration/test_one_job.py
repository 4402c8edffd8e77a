"""One job through the whole real system, by every way in that there is."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headway.azure.job_queue import JobQueue
from headway.contracts import encode
from tests.stack import JOBS, Stack, running
from tests.waiting import wait_until

VERSION = "2025-11-05"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Run the system for this module."""
    env = {"WORKER_JOBS": JOBS, "GRACE_S": "1"}
    async with running(tmp_path_factory.mktemp("one"), **env) as stack:
        yield stack


async def history(stack: Stack, token: str) -> list[dict[str, Any]]:
    """Return all that a watcher sees of a job."""
    return [job async for job in stack.watch(token)]


async def run_to_end(stack: Stack, kind: str, payload: Any = None) -> dict[str, Any]:
    """Submit a job and return the snapshot of its end."""
    receipt = await stack.submit(kind, payload)
    return (await history(stack, receipt["token"]))[-1]


def minted(stack: Stack, job_id: str) -> str:
    """Return what `headway token` prints."""
    command = [sys.executable, "-m", "headway", "token", job_id]
    env = {"TOKEN_KEY_FILE": stack.env["TOKEN_KEY_FILE"], "PATH": ""}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()


async def test_watcher_sees_every_step(stack: Stack) -> None:
    """A watcher sees the countdown's ten steps in order, and versions that only rise."""
    receipt = await stack.submit("countdown", {"steps": 10, "delay_s": 0.05}, delay_s=1)  # the watcher is there first
    seen = await history(stack, receipt["token"])
    versions = [job["version"] for job in seen]
    assert versions == sorted(set(versions))
    percents = [job["progress"]["percent"] for job in seen if job["progress"] and job["status"] == "running"]
    assert percents == sorted(percents)
    assert set(percents) == {10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0}
    end = seen[-1]
    assert (end["status"], end["result"], end["error"]) == ("succeeded", "Counted 10 steps", None)
    assert end["started_at"] <= end["finished_at"]
    assert end == await stack.snapshot(receipt["id"], receipt["token"])


@pytest.mark.parametrize("encoded", [True, False], ids=["base64", "plain"])
async def test_bare_uuid_is_a_countdown(stack: Stack, encoded: bool) -> None:
    """The message of 2015, only a UUID in quotes, runs as a countdown that a minted token watches."""
    job_id = str(uuid.uuid4())
    text = json.dumps(job_id)
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", VERSION) as queue:
        await queue.send(base64.b64encode(text.encode()).decode() if encoded else text)
    end = (await history(stack, minted(stack, job_id)))[-1]
    assert (end["id"], end["kind"], end["status"]) == (job_id, "countdown", "succeeded")


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
async def test_result_comes_back_exactly(stack: Stack, value: Any) -> None:
    """What a handler returns stands in the snapshot exactly as it was returned."""
    receipt = await stack.submit("echo", value)
    end = (await history(stack, receipt["token"]))[-1]
    assert end["status"] == "succeeded"
    assert encode(end["result"]) == encode(value)
    url = receipt["links"]["live"]
    async with stack.session.get(url, headers={"Authorization": f"Bearer {receipt['token']}"}) as response:
        assert b'"result":' + encode(value) + b',"error"' in await response.read()


async def test_exception_fails_the_job(stack: Stack) -> None:
    """An exception at the last attempt ends the job `failed` with its type and message."""
    end = await run_to_end(stack, "broken")
    assert (end["status"], end["error"]) == ("failed", {"type": "ValueError", "message": "the cable is loose"})


async def test_wrong_payload_fails_at_once(stack: Stack) -> None:
    """A payload that does not fit its type fails the job and names the field."""
    end = await run_to_end(stack, "countdown", {"steps": "many"})
    assert end["status"] == "failed"
    assert end["error"]["type"] == "InvalidPayload"
    assert "$.steps" in end["error"]["message"]


async def test_cancel_stops_a_running_handler(stack: Stack) -> None:
    """A cancel reaches the handler within a heartbeat, and the job ends `cancelled`."""
    receipt = await stack.submit("countdown", {"steps": 1000, "delay_s": 0.05})
    statuses = []
    async for job in stack.watch(receipt["token"]):
        if job["status"] == "running" and "running" not in statuses:
            assert (await stack.cancel(receipt))["cancel_requested"] is True
        statuses.append(job["status"])
    assert statuses[-1] == "cancelled"


async def test_unreadable_messages_go_to_the_poison_queue(stack: Stack) -> None:
    """What cannot be read is kept on the poison queue as received; a readable id is told to its watchers."""
    job_id = str(uuid.uuid4())
    texts = ["not json at all", json.dumps({"id": job_id, "max_attempts": "many"}), json.dumps({"kind": "countdown"})]
    connection = stack.env["QUEUE_CONNECTION_STRING"]
    async with JobQueue.connect(connection, "jobs", VERSION) as queue:
        for text in texts:
            await queue.send(text)
    end = (await history(stack, minted(stack, job_id)))[-1]
    assert (end["status"], end["error"]["type"]) == ("failed", "InvalidMessage")
    assert "$.max_attempts" in end["error"]["message"]
    async with JobQueue.connect(connection, "jobs-poison", VERSION) as poison:
        found: set[str] = set()

        async def all_there() -> bool:
            found.update(received.text for received in await poison.receive(32, 60))
            return found >= set(texts)

        await wait_until(all_there)


async def test_expired_job_is_not_started(stack: Stack) -> None:
    """A delivery that has not started in time ends `failed` as expired."""
    job_id = str(uuid.uuid4())
    message = {"id": job_id, "kind": "countdown", "expires_at": "2026-01-01T00:00:00.000Z"}
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", VERSION) as queue:
        await queue.send(json.dumps(message))
    end = (await history(stack, minted(stack, job_id)))[-1]
    assert (end["status"], end["error"]["type"], end["started_at"]) == ("failed", "Expired", None)


async def test_duplicate_message_runs_once(stack: Stack) -> None:
    """The same job put on the queue twice is run once."""
    job_id = str(uuid.uuid4())
    text = json.dumps({"id": job_id, "kind": "count-calls"})
    async with JobQueue.connect(stack.env["QUEUE_CONNECTION_STRING"], "jobs", VERSION) as queue:
        await queue.send(text)
        await queue.send(text)
    end = (await history(stack, minted(stack, job_id)))[-1]
    assert end["result"] == 1
    follower = await stack.submit("count-calls")  # behind both
    last = (await history(stack, follower["token"]))[-1]
    assert last["result"] == 2


async def test_snapshot_has_an_etag(stack: Stack) -> None:
    """Plain HTTP answers the snapshot with its version as ETag, 304 to who has it, and 401 without a token."""
    receipt = await stack.submit("echo", 1)
    end = (await history(stack, receipt["token"]))[-1]
    url, headers = receipt["links"]["live"], {"Authorization": f"Bearer {receipt['token']}"}
    async with stack.session.get(url, headers=headers) as response:
        tag = response.headers["ETag"]
        assert tag == f'"{end["version"]}"'
    async with stack.session.get(url, headers={**headers, "If-None-Match": tag}) as response:
        assert response.status == 304
    async with stack.session.get(url) as response:
        assert response.status == 401
        assert response.content_type == "application/problem+json"
    other = (await stack.submit("echo", 2))["token"]
    async with stack.session.get(url, headers={"Authorization": f"Bearer {other}"}) as response:
        assert response.status == 403


async def test_form_leads_to_the_page(stack: Stack) -> None:
    """A form of an allowed origin is answered 303 to the job's page with the token in the fragment; others 403."""
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


async def test_probes_and_metrics_answer(stack: Stack) -> None:
    """Every service answers its probes and metrics on the internal port only."""
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
    """No token, no key and no payload stands in any log of a job's whole way."""
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
