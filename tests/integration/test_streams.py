"""Server-sent events: one job or many on a stream, from its first byte to its end."""

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
from tests.waiting import wait_until


@asynccontextmanager
async def stream(
    notifier: Notifier, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: Any = None
) -> AsyncIterator[AsyncIterator[Event]]:
    """Open a stream and take its opening comment."""
    async with notifier.session.request(method, f"{notifier.public}{path}", headers=headers, json=body) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Accel-Buffering"] == "no"
        async with aclosing(read_events(response)) as found:
            first = await anext(found)
            assert first.comment is not None
            datetime.fromisoformat(first.comment)
            yield found


@asynccontextmanager
async def one(notifier: Notifier, job_id: str, **headers: str) -> AsyncIterator[AsyncIterator[Event]]:
    """Stream one job."""
    bearer = {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with stream(notifier, f"/live/jobs/{job_id}/events", headers=bearer | headers) as found:
        yield found


async def watched(notifier: Notifier, count: int) -> None:
    """Wait until the notifier watches so many jobs."""

    async def there() -> bool:
        return await notifier.metric("notifier_watched_jobs") == count

    await wait_until(there)


async def test_a_stream_shows_each_version_and_ends_with_the_job(notifier: Notifier, redis: Redis) -> None:
    """Each event names its version; after the ending the stream closes by itself."""
    job_id = new_id()
    async with one(notifier, job_id) as found:
        queued = await anext(found)
        assert (queued.name, queued.id, queued.data["status"]) == ("job", "0", "queued")
        await notifier.report(report(job_id, 1))
        running = await anext(found)
        await notifier.report(report(job_id, 2, status="succeeded", result={"text": "a\nb"}))
        ended = await anext(found)
        assert [running.data["status"], ended.data["status"]] == ["running", "succeeded"]
        assert ended.id == str(ended.data["version"])
        assert ended.data["result"] == {"text": "a\nb"}
        assert [event async for event in found] == []


async def test_line_breaks_between_tokens_of_a_result_stay_data(notifier: Notifier, redis: Redis) -> None:
    """A result that its worker wrote over several lines does not break the event."""
    job_id = new_id()
    body = json.dumps([report(job_id, 1, status="succeeded", result={"a": [1]})], indent=1)
    headers = {"Authorization": f"Bearer {notifier.report_key}", "Content-Type": "application/json"}
    async with notifier.session.post(f"{notifier.internal}/reports", data=body, headers=headers) as response:
        assert response.status == 200
    async with one(notifier, job_id) as found:
        assert (await anext(found)).data["result"] == {"a": [1]}


async def test_a_returning_reader_gets_what_is_newer(notifier: Notifier, redis: Redis) -> None:
    """Last-Event-ID is the version that the reader has: the same is not sent again, a newer one is."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    async with one(notifier, job_id) as found:
        seen = (await anext(found)).id
    assert seen is not None
    async with one(notifier, job_id, **{"Last-Event-ID": seen}) as found:
        await notifier.report(report(job_id, 2, progress={"current": 1, "total": 2}))
        assert (await anext(found)).data["progress"]["percent"] == 50.0


async def test_only_the_seen_ending_is_answered_204(notifier: Notifier, redis: Redis) -> None:
    """An EventSource gives up on 204, so that is said of an ended job alone, to a reader that has its ending."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    async with one(notifier, job_id) as found:
        running = (await anext(found)).id
        await notifier.report(report(job_id, 2, status="failed", error={"type": "E", "message": "m"}))
        ended = (await anext(found)).id
    assert running is not None
    assert ended is not None
    async with one(notifier, job_id, **{"Last-Event-ID": running}) as found:
        assert [event.id async for event in found] == [ended]
    headers = {"Authorization": f"Bearer {notifier.token(job_id)}", "Last-Event-ID": ended}
    async with notifier.session.get(f"{notifier.public}/live/jobs/{job_id}/events", headers=headers) as response:
        assert response.status == 204


async def test_many_jobs_share_a_stream_that_ends_with_the_last(notifier: Notifier, redis: Redis) -> None:
    """The stream of two jobs goes on after the first ending; a job whose ending the reader has is not sent again."""
    ids = [new_id(), new_id(), new_id()]
    await notifier.report(*(report(job_id, 1) for job_id in ids[:2]), report(ids[2], 1, status="succeeded"))
    async with one(notifier, ids[2]) as found:
        seen = int((await anext(found)).data["version"])
    entries: list[Any] = [notifier.token(job_id) for job_id in ids[:2]]
    body = {"watch": [*entries, {"watch": notifier.token(ids[2]), "version": seen}]}
    async with stream(notifier, "/live/events", method="POST", body=body) as found:
        first = [await anext(found), await anext(found)]
        assert {event.data["id"] for event in first} == set(ids[:2])
        await notifier.report(report(ids[0], 2, status="succeeded"))
        assert (await anext(found)).data["status"] == "succeeded"
        await notifier.report(report(ids[1], 2, status="cancelled"))
        assert [event.data["status"] async for event in found] == ["cancelled"]


async def test_a_bad_token_is_told_beside_the_good_ones(notifier: Notifier, redis: Redis) -> None:
    """One token that opens nothing is an event of its own; none that opens anything is a 401."""
    job_id, expired = new_id(), new_id()
    old = notifier.token(expired, ttl_s=-3600)
    body = {"watch": [notifier.token(job_id), old, "no token"]}
    async with stream(notifier, "/live/events", method="POST", body=body) as found:
        errors = [await anext(found), await anext(found)]
        assert [(event.name, event.data["code"], event.data.get("job_id")) for event in errors] == [
            ("error", "token_expired", expired),
            ("error", "invalid_token", None),
        ]
        assert (await anext(found)).data["id"] == job_id
    async with notifier.session.post(f"{notifier.public}/live/events", json={"watch": [old]}) as response:
        assert (response.status, (await response.json())["code"]) == (401, "token_expired")


async def test_a_lost_record_is_told_to_who_knew_it(notifier: Notifier, redis: Redis) -> None:
    """Absence never replaces presence: the reader hears `unknown`, and sees the job again with its next report."""
    job_id = new_id()
    async with one(notifier, job_id, **{"Last-Event-ID": "1767225600123"}) as found:
        event = await anext(found)
        assert (event.name, event.data["code"], event.data["job_id"]) == ("error", "unknown", job_id)
        await notifier.report(report(job_id, 1))
        assert (await anext(found)).data["status"] == "running"


async def test_a_stream_whose_token_expires_ends(notifier: Notifier, redis: Redis) -> None:
    """The only job's token runs out: the reader is told so, and the stream closes."""
    job_id = new_id()
    headers = {"Authorization": f"Bearer {notifier.token(job_id, ttl_s=-29)}"}  # within the leeway for one second
    async with stream(notifier, f"/live/jobs/{job_id}/events", headers=headers) as found:
        told = [event.data["code"] async for event in found if event.name == "error"]
    assert told == ["token_expired"]


async def test_who_leaves_is_forgotten(notifier: Notifier, redis: Redis) -> None:
    """A reader that goes away without a word is no longer watched for."""
    await watched(notifier, 0)
    async with one(notifier, new_id()):
        await watched(notifier, 1)
    await watched(notifier, 0)


async def test_a_proxy_of_http_1_0_gets_plain_bytes(notifier: Notifier, redis: Redis) -> None:
    """Without chunks the end of the connection is the end of the stream."""
    job_id = new_id()
    await notifier.report(report(job_id, 1, status="succeeded"))
    host, port = notifier.public.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /live/jobs/{job_id}/events?access_token={notifier.token(job_id)} HTTP/1.0\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.startswith(b": 2")
    assert body.count(b"\nevent: job\ndata: {") == 1


async def test_a_reader_that_stops_reading_gets_the_ending_once_it_reads_again(
    notifier: Notifier, redis: Redis
) -> None:
    """Nothing piles up for a slow reader: it misses steps, and never the last."""
    job_id = new_id()
    text = "x" * 30_000
    async with one(notifier, job_id) as found:
        for sequence in range(1, 400):
            await notifier.report(report(job_id, sequence, result=text))
        await notifier.report(report(job_id, 400, status="succeeded"))
        seen = [event.data async for event in found]
    versions = [snapshot["version"] for snapshot in seen]
    assert versions == sorted(set(versions))
    assert seen[-1]["status"] == "succeeded"
    assert len(seen) < 400


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
async def test_a_body_that_does_not_fit_is_told_why(notifier: Notifier, path: str, body: bytes) -> None:
    """A body without tokens in their places is refused, naming the field."""
    headers = {"Content-Type": "application/json"}
    async with notifier.session.post(f"{notifier.public}{path}", data=body, headers=headers) as response:
        problem = await response.json()
        assert (response.status, problem["code"]) in ((400, "malformed"), (422, "invalid"))
        assert problem["detail"]
        if b'"watch": ' in body:
            assert "field" in problem


async def test_a_body_of_another_type_is_refused(notifier: Notifier) -> None:
    """What is not sent as JSON is not read."""
    async with notifier.session.post(f"{notifier.public}/live/events", data=b"{}") as response:
        assert (response.status, (await response.json())["code"]) == (415, "unsupported_media_type")


async def test_the_record_outlives_its_watchers(notifier: Notifier, redis: Redis) -> None:
    """Watching changes nothing in Redis."""
    job_id = new_id()
    async with one(notifier, job_id) as found:
        await anext(found)
    assert await redis.exists(job_key(job_id)) == 0
