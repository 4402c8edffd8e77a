"""Event streams (server-sent events) of one job and of many jobs, from the first comment to the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from services.notifier.records.keys import job_key
from tests.integration.conftest import Notifier, new_id, report
from tests.integration.event_stream import Event, read_events
from tests.waiting import PATIENCE_S, wait_until


@asynccontextmanager
async def open_stream(
    notifier: Notifier, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: Any = None
) -> AsyncIterator[AsyncIterator[Event]]:
    """Open an event stream and read its first comment, which is the time; yield the following blocks."""
    async with notifier.session.request(method, f"{notifier.public}{path}", headers=headers, json=body) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Accel-Buffering"] == "no"
        async with aclosing(read_events(response)) as events:
            first = await anext(events)
            assert first.comment is not None
            datetime.fromisoformat(first.comment)
            yield events


@asynccontextmanager
async def open_job_stream(notifier: Notifier, job_id: str, **headers: str) -> AsyncIterator[AsyncIterator[Event]]:
    """Open the event stream of one job."""
    bearer = {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with open_stream(notifier, f"/live/jobs/{job_id}/events", headers=bearer | headers) as events:
        yield events


async def wait_for_watched_jobs(notifier: Notifier, count: int) -> None:
    """Wait until this number of jobs has watchers."""

    async def reached() -> bool:
        return await notifier.metric("notifier_watched_jobs") == count

    await wait_until(reached)


async def test_stream_ends_with_the_job(notifier: Notifier, redis: Redis) -> None:
    """Each snapshot is an event whose id is the version; the server closes the stream after the job's end."""
    job_id = new_id()
    async with open_job_stream(notifier, job_id) as events:
        queued = await anext(events)
        assert (queued.name, queued.id, queued.data["status"]) == ("job", "0", "queued")
        await notifier.report(report(job_id, 1))
        running = await anext(events)
        await notifier.report(report(job_id, 2, status="succeeded", result={"text": "a\nb"}))
        ended = await anext(events)
        assert [running.data["status"], ended.data["status"]] == ["running", "succeeded"]
        assert ended.id == str(ended.data["version"])
        assert ended.data["result"] == {"text": "a\nb"}
        assert [event async for event in events] == []


async def test_result_with_line_breaks_is_one_event(notifier: Notifier, redis: Redis) -> None:
    """A result whose JSON text has several lines does not split the event."""
    job_id = new_id()
    body = json.dumps([report(job_id, 1, status="succeeded", result={"a": [1]})], indent=1)
    headers = {"Authorization": f"Bearer {notifier.report_key}", "Content-Type": "application/json"}
    async with notifier.session.post(f"{notifier.internal}/reports", data=body, headers=headers) as response:
        assert response.status == 200
    async with open_job_stream(notifier, job_id) as events:
        assert (await anext(events)).data["result"] == {"a": [1]}


async def test_client_that_reconnects_gets_newer_versions(notifier: Notifier, redis: Redis) -> None:
    """A client sends the version that it has as `Last-Event-ID`; the server sends only newer snapshots."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    async with open_job_stream(notifier, job_id) as events:
        version = (await anext(events)).id
    assert version is not None
    async with open_job_stream(notifier, job_id, **{"Last-Event-ID": version}) as events:
        await notifier.report(report(job_id, 2, progress={"current": 1, "total": 2}))
        assert (await anext(events)).data["progress"]["percent"] == 50.0


async def test_only_a_known_end_is_answered_with_204(notifier: Notifier, redis: Redis) -> None:
    """An `EventSource` stops reconnecting after a 204, so only a client that has the job's last version gets it."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    async with open_job_stream(notifier, job_id) as events:
        running_version = (await anext(events)).id
        await notifier.report(report(job_id, 2, status="failed", error={"type": "E", "message": "m"}))
        last_version = (await anext(events)).id
    assert running_version is not None
    assert last_version is not None
    async with open_job_stream(notifier, job_id, **{"Last-Event-ID": running_version}) as events:
        assert [event.id async for event in events] == [last_version]
    headers = {"Authorization": f"Bearer {notifier.token(job_id)}", "Last-Event-ID": last_version}
    async with notifier.session.get(f"{notifier.public}/live/jobs/{job_id}/events", headers=headers) as response:
        assert response.status == 204


async def test_stream_of_many_jobs_ends_with_the_last_job(notifier: Notifier, redis: Redis) -> None:
    """The stream continues until all its jobs have ended; an ended job whose last version is known is not sent."""
    ids = [new_id(), new_id(), new_id()]
    await notifier.report(*(report(job_id, 1) for job_id in ids[:2]), report(ids[2], 1, status="succeeded"))
    async with open_job_stream(notifier, ids[2]) as events:
        version = int((await anext(events)).data["version"])
    entries: list[Any] = [notifier.token(job_id) for job_id in ids[:2]]
    body = {"watch": [*entries, {"watch": notifier.token(ids[2]), "version": version}]}
    async with open_stream(notifier, "/live/events", method="POST", body=body) as events:
        first = [await anext(events), await anext(events)]
        assert {event.data["id"] for event in first} == set(ids[:2])
        await notifier.report(report(ids[0], 2, status="succeeded"))
        assert (await anext(events)).data["status"] == "succeeded"
        await notifier.report(report(ids[1], 2, status="cancelled"))
        assert [event.data["status"] async for event in events] == ["cancelled"]


async def test_invalid_tokens_are_error_events(notifier: Notifier, redis: Redis) -> None:
    """Each rejected token is an `error` event before the first snapshot; if all are rejected, the response is 401."""
    job_id, expired = new_id(), new_id()
    expired_token = notifier.token(expired, ttl_s=-3600)
    body = {"watch": [notifier.token(job_id), expired_token, "no token"]}
    async with open_stream(notifier, "/live/events", method="POST", body=body) as events:
        errors = [await anext(events), await anext(events)]
        assert [(event.name, event.data["code"], event.data.get("job_id")) for event in errors] == [
            ("error", "token_expired", expired),
            ("error", "invalid_token", None),
        ]
        assert (await anext(events)).data["id"] == job_id
    async with notifier.session.post(f"{notifier.public}/live/events", json={"watch": [expired_token]}) as response:
        assert (response.status, (await response.json())["code"]) == (401, "token_expired")


async def test_lost_record_is_an_error_event(notifier: Notifier, redis: Redis) -> None:
    """A client that has a version gets the error `unknown`, and then the snapshot of the job's next report."""
    job_id = new_id()
    async with open_job_stream(notifier, job_id, **{"Last-Event-ID": "1767225600123"}) as events:
        event = await anext(events)
        assert (event.name, event.data["code"], event.data["job_id"]) == ("error", "unknown", job_id)
        await notifier.report(report(job_id, 1))
        assert (await anext(events)).data["status"] == "running"


async def test_stream_ends_when_its_token_expires(notifier: Notifier, redis: Redis) -> None:
    """The client gets the error `token_expired`, and the stream ends, because no other job is left on it."""
    job_id = new_id()
    headers = {"Authorization": f"Bearer {notifier.token(job_id, ttl_s=-29)}"}  # valid for 1 s more: the leeway is 30 s
    async with open_stream(notifier, f"/live/jobs/{job_id}/events", headers=headers) as events:
        codes = [event.data["code"] async for event in events if event.name == "error"]
    assert codes == ["token_expired"]


async def test_disconnected_client_is_unsubscribed(notifier: Notifier, redis: Redis) -> None:
    """When a client closes its stream, the notifier no longer watches the job."""
    await wait_for_watched_jobs(notifier, 0)
    async with open_job_stream(notifier, new_id()):
        await wait_for_watched_jobs(notifier, 1)
    await wait_for_watched_jobs(notifier, 0)


async def test_http_1_0_client_gets_no_chunks(notifier: Notifier, redis: Redis) -> None:
    """An HTTP/1.0 client or proxy gets the stream without chunked encoding; the stream ends with the connection."""
    job_id = new_id()
    await notifier.report(report(job_id, 1, status="succeeded"))
    host, port = notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /live/jobs/{job_id}/events?access_token={notifier.token(job_id)} HTTP/1.0\r\n\r\n".encode())
    response = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.startswith(b": 2")
    assert body.count(b"\nevent: job\ndata: {") == 1


async def test_slow_client_gets_the_last_version(notifier: Notifier, redis: Redis) -> None:
    """A client that does not read misses versions; when it reads again, it gets the last one."""
    job_id = new_id()
    text = "x" * 30_000
    async with open_job_stream(notifier, job_id) as events:
        for sequence in range(1, 400):
            await notifier.report(report(job_id, sequence, result=text))
        await notifier.report(report(job_id, 400, status="succeeded"))
        snapshots = [event.data async for event in events]
    versions = [snapshot["version"] for snapshot in snapshots]
    assert versions == sorted(set(versions))
    assert snapshots[-1]["status"] == "succeeded"
    assert len(snapshots) < 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"watch": []}',
        b'{"watch": [1]}',
        b'{"watch": [{"version": 1}]}',
        b'{"watch": ["a"], "x": 1}',
        b'{"watch": [{"watch": "a", "version": -1}]}',
    ],
)
@pytest.mark.parametrize("path", ["/live/events", "/live/jobs"])
async def test_invalid_body_is_rejected(notifier: Notifier, path: str, body: bytes) -> None:
    """The error explains the problem; if the body has a `watch` field, the error names the invalid field."""
    headers = {"Content-Type": "application/json"}
    async with notifier.session.post(f"{notifier.public}{path}", data=body, headers=headers) as response:
        problem = await response.json()
        assert (response.status, problem["code"]) in ((400, "malformed"), (422, "invalid"))
        assert problem["detail"]
        if b'"watch": ' in body:
            assert "field" in problem


async def test_body_of_another_type_is_rejected(notifier: Notifier) -> None:
    """A body whose `Content-Type` is not JSON gets 415."""
    async with notifier.session.post(f"{notifier.public}/live/events", data=b"{}") as response:
        assert (response.status, (await response.json())["code"]) == (415, "unsupported_media_type")


async def test_watching_creates_no_record(notifier: Notifier, redis: Redis) -> None:
    """The record of a job is created by a report, not by a watcher."""
    job_id = new_id()
    async with open_job_stream(notifier, job_id) as events:
        await anext(events)
    assert await redis.exists(job_key(job_id)) == 0
