"""Long polls of one job or of many, and the CORS headers of the notifier."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.integration.conftest import ORIGIN, Notifier, new_id, report
from tests.integration.test_event_streams import wait_for_watched_jobs
from tests.waiting import PATIENCE_S


async def get_job(notifier: Notifier, job_id: str, **headers: str) -> tuple[int, str | None, Any]:
    """Request a job's snapshot; return the status, the ETag and the body of the response."""
    url = f"{notifier.public}/live/jobs/{job_id}"
    bearer = {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.get(url, headers=bearer | headers) as response:
        body = await response.json(content_type=None) if response.status != 304 else None
        return response.status, response.headers.get("ETag"), body


async def query_jobs(notifier: Notifier, *watch: Any, wait_s: int = 0) -> dict[str, Any]:
    """Request the snapshots of many jobs; return the body of the response."""
    headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
    async with notifier.session.post(
        f"{notifier.public}/live/jobs", json={"watch": list(watch)}, headers=headers
    ) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body


async def test_next_report_completes_a_long_poll(notifier: Notifier, redis: Redis) -> None:
    """A request with `Prefer: wait` gets the next version as soon as there is one."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    _, etag, _ = await get_job(notifier, job_id)
    assert etag is not None
    await wait_for_watched_jobs(notifier, 0)
    long_poll = asyncio.create_task(get_job(notifier, job_id, **{"If-None-Match": etag, "Prefer": "wait=30"}))
    await wait_for_watched_jobs(notifier, 1)
    await notifier.report(report(job_id, 2, progress={"current": 1, "total": 4}))
    status, new_etag, body = await asyncio.wait_for(long_poll, PATIENCE_S)
    assert (status, body["progress"]["percent"]) == (200, 25.0)
    assert new_etag == f'"{body["version"]}"'
    assert (await get_job(notifier, job_id, **{"If-None-Match": etag, "Prefer": "wait=30"}))[0] == 200


async def test_ended_job_gets_an_immediate_response(notifier: Notifier, redis: Redis) -> None:
    """The notifier does not hold a request for a job that has ended."""
    job_id = new_id()
    await notifier.report(report(job_id, 1, status="succeeded"))
    _, etag, _ = await get_job(notifier, job_id)
    assert etag is not None
    headers = {"If-None-Match": f"W/{etag}", "Prefer": 'respond-async, wait="60"'}
    assert await asyncio.wait_for(get_job(notifier, job_id, **headers), 50) == (304, etag, None)


async def test_long_poll_times_out(notifier: Notifier, redis: Redis) -> None:
    """After the full wait the response is 304 if there is no newer version, and 404 if the record is missing."""
    job_id, loop = new_id(), asyncio.get_running_loop()
    await notifier.report(report(job_id, 1))
    _, etag, _ = await get_job(notifier, job_id)
    assert etag is not None
    started_at = loop.time()
    assert await get_job(notifier, job_id, **{"If-None-Match": etag, "Prefer": "wait=1"}) == (304, etag, None)
    status, _, problem = await get_job(notifier, new_id(), **{"If-None-Match": etag, "Prefer": "wait=1"})
    assert (status, problem["code"]) == (404, "unknown")
    assert loop.time() - started_at >= 2


async def test_long_poll_of_many_jobs(notifier: Notifier, redis: Redis) -> None:
    """Versions newer than the client's are returned at once; without any, the request is held until a job changes."""
    ids = [new_id() for _ in range(50)]
    await notifier.report(*(report(job_id, 1) for job_id in ids[1:]))
    tokens = {job_id: notifier.token(job_id) for job_id in ids}
    first = await query_jobs(notifier, *tokens.values(), wait_s=30)
    versions = {job["id"]: job["version"] for job in first["jobs"]}
    assert versions.keys() == set(ids)
    assert versions[ids[0]] == 0
    watch = [{"watch": tokens[job_id], "version": versions[job_id]} for job_id in ids]
    assert (await query_jobs(notifier, *watch)) | {"now": ""} == {"now": "", "jobs": [], "errors": []}
    await wait_for_watched_jobs(notifier, 0)
    long_poll = asyncio.create_task(query_jobs(notifier, *watch, wait_s=30))
    await wait_for_watched_jobs(notifier, 50)
    await notifier.report(report(ids[0], 1))
    body = await asyncio.wait_for(long_poll, PATIENCE_S)
    assert [(job["id"], job["status"]) for job in body["jobs"]] == [(ids[0], "running")]


async def test_response_has_snapshots_and_errors(notifier: Notifier, redis: Redis) -> None:
    """A rejected token and a lost record are errors with their job's id, beside the other jobs' snapshots."""
    job_id, expired, lost = new_id(), new_id(), new_id()
    await notifier.report(report(job_id, 1))
    body = await query_jobs(
        notifier,
        notifier.token(job_id),
        notifier.token(expired, ttl_s=-3600),
        {"watch": notifier.token(lost), "version": 5},
        wait_s=30,
    )
    assert [job["id"] for job in body["jobs"]] == [job_id]
    assert {(error["job_id"], error["code"]) for error in body["errors"]} == {
        (expired, "token_expired"),
        (lost, "unknown"),
    }


async def test_disconnected_client_is_unsubscribed(notifier: Notifier, redis: Redis) -> None:
    """The notifier drops a held request, with its subscription, when the client disconnects."""
    await wait_for_watched_jobs(notifier, 0)
    long_poll = asyncio.create_task(query_jobs(notifier, {"watch": notifier.token(new_id()), "version": 0}, wait_s=60))
    await wait_for_watched_jobs(notifier, 1)
    long_poll.cancel()
    await wait_for_watched_jobs(notifier, 0)


ROUTES = [
    ("GET", "/live/jobs/{id}"),
    ("POST", "/live/jobs/{id}/cancel"),
    ("GET", "/live/jobs/{id}/events"),
    ("POST", "/live/jobs"),
    ("POST", "/live/events"),
    ("GET", "/live"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_preflight_checks_the_origin(notifier: Notifier, method: str, path: str) -> None:
    """A preflight request from an allowed origin gets the CORS headers, one from another origin 403 without them."""
    url = notifier.public + path.format(id=new_id())
    preflight = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,prefer"}
    async with notifier.session.options(url, headers={"Origin": ORIGIN, **preflight}) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert method in response.headers["Access-Control-Allow-Methods"].split(", ")
        allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"authorization", "prefer", "content-type", "if-none-match", "last-event-id"} <= set(allowed)
        assert "Origin" in response.headers["Vary"]
    async with notifier.session.options(url, headers={"Origin": "http://evil.example", **preflight}) as response:
        assert response.status == 403
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_every_response_has_cors_headers(notifier: Notifier, redis: Redis) -> None:
    """A page of an allowed origin can read snapshots, event streams and errors."""
    job_id = new_id()
    await notifier.report(report(job_id, 1, status="succeeded"))
    authorized = {"Origin": ORIGIN, "Authorization": f"Bearer {notifier.token(job_id)}"}
    for path, headers, status in (
        (f"/live/jobs/{job_id}", authorized, 200),
        (f"/live/jobs/{job_id}/events", authorized, 200),
        (f"/live/jobs/{job_id}", {"Origin": ORIGIN}, 401),
        ("/nowhere", {"Origin": ORIGIN}, 404),
    ):
        async with notifier.session.get(notifier.public + path, headers=headers) as response:
            assert response.status == status
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "ETag" in response.headers["Access-Control-Expose-Headers"]


async def test_request_without_an_origin_is_allowed(notifier: Notifier) -> None:
    """A client that is not a browser sends no `Origin` header; the origin `null` of a sandboxed page is rejected."""
    async with notifier.session.get(f"{notifier.public}/openapi.yaml") as response:
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await notifier.session.ws_connect(f"{notifier.public}/live", headers={"Origin": "null"})
