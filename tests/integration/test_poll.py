"""Plain HTTP: asking for one job or many, at once or when there is something newer; and who may ask from where."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.integration.conftest import ORIGIN, Notifier, new_id, report
from tests.integration.test_streams import watched


async def ask(notifier: Notifier, job_id: str, **headers: str) -> tuple[int, str | None, Any]:
    """Ask for a job; return the status, the version of the ETag, and the body."""
    url = f"{notifier.public}/live/jobs/{job_id}"
    bearer = {"Authorization": f"Bearer {notifier.token(job_id)}"}
    async with notifier.session.get(url, headers=bearer | headers) as response:
        body = await response.json(content_type=None) if response.status != 304 else None
        return response.status, response.headers.get("ETag"), body


async def ask_many(notifier: Notifier, *watch: Any, wait_s: int = 0) -> dict[str, Any]:
    """Ask for many jobs."""
    headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
    async with notifier.session.post(
        f"{notifier.public}/live/jobs", json={"watch": list(watch)}, headers=headers
    ) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body


async def test_a_held_request_is_answered_by_the_next_report(notifier: Notifier, redis: Redis) -> None:
    """With `Prefer: wait` the answer comes with something newer, and at once when that is there already."""
    job_id = new_id()
    await notifier.report(report(job_id, 1))
    _, tag, _ = await ask(notifier, job_id)
    assert tag is not None
    await watched(notifier, 0)
    asking = asyncio.create_task(ask(notifier, job_id, **{"If-None-Match": tag, "Prefer": "wait=30"}))
    await watched(notifier, 1)
    await notifier.report(report(job_id, 2, progress={"current": 1, "total": 4}))
    status, newer, body = await asyncio.wait_for(asking, 10)
    assert (status, body["progress"]["percent"]) == (200, 25.0)
    assert newer == f'"{body["version"]}"'
    assert (await ask(notifier, job_id, **{"If-None-Match": tag, "Prefer": "wait=30"}))[0] == 200


async def test_an_ended_job_is_answered_at_once(notifier: Notifier, redis: Redis) -> None:
    """There is nothing to wait for behind an ending."""
    job_id = new_id()
    await notifier.report(report(job_id, 1, status="succeeded"))
    _, tag, _ = await ask(notifier, job_id)
    assert tag is not None
    headers = {"If-None-Match": f"W/{tag}", "Prefer": 'respond-async, wait="30"'}
    assert await asyncio.wait_for(ask(notifier, job_id, **headers), 5) == (304, tag, None)


async def test_a_held_request_ends_with_its_time(notifier: Notifier, redis: Redis) -> None:
    """Nothing newer within the wait is a 304, and a lost record is a 404: neither comes sooner."""
    job_id, clock = new_id(), asyncio.get_running_loop()
    await notifier.report(report(job_id, 1))
    _, tag, _ = await ask(notifier, job_id)
    assert tag is not None
    began = clock.time()
    assert await ask(notifier, job_id, **{"If-None-Match": tag, "Prefer": "wait=1"}) == (304, tag, None)
    status, _, problem = await ask(notifier, new_id(), **{"If-None-Match": tag, "Prefer": "wait=1"})
    assert (status, problem["code"]) == (404, "unknown")
    assert clock.time() - began >= 2


async def test_many_jobs_in_one_request(notifier: Notifier, redis: Redis) -> None:
    """What is newer than was seen is answered at once; then the request is held until one of them moves."""
    ids = [new_id() for _ in range(50)]
    await notifier.report(*(report(job_id, 1) for job_id in ids[1:]))
    tokens = {job_id: notifier.token(job_id) for job_id in ids}
    first = await ask_many(notifier, *tokens.values(), wait_s=30)
    versions = {job["id"]: job["version"] for job in first["jobs"]}
    assert versions.keys() == set(ids)
    assert versions[ids[0]] == 0
    seen = [{"watch": tokens[job_id], "version": versions[job_id]} for job_id in ids]
    assert (await ask_many(notifier, *seen)) | {"now": ""} == {"now": "", "jobs": [], "errors": []}
    await watched(notifier, 0)
    asking = asyncio.create_task(ask_many(notifier, *seen, wait_s=30))
    await watched(notifier, 50)
    await notifier.report(report(ids[0], 1))
    answer = await asyncio.wait_for(asking, 10)
    assert [(job["id"], job["status"]) for job in answer["jobs"]] == [(ids[0], "running")]


async def test_errors_stand_beside_what_is_found(notifier: Notifier, redis: Redis) -> None:
    """A token that opens nothing, and a record that is lost, are told with their job."""
    job_id, expired, lost = new_id(), new_id(), new_id()
    await notifier.report(report(job_id, 1))
    answer = await ask_many(
        notifier,
        notifier.token(job_id),
        notifier.token(expired, ttl_s=-3600),
        {"watch": notifier.token(lost), "version": 5},
        wait_s=30,
    )
    assert [job["id"] for job in answer["jobs"]] == [job_id]
    assert {(error["job_id"], error["code"]) for error in answer["errors"]} == {
        (expired, "token_expired"),
        (lost, "unknown"),
    }


async def test_who_leaves_a_held_request_is_forgotten(notifier: Notifier, redis: Redis) -> None:
    """A held request whose sender has gone is let go of."""
    await watched(notifier, 0)
    asking = asyncio.create_task(ask_many(notifier, {"watch": notifier.token(new_id()), "version": 0}, wait_s=60))
    await watched(notifier, 1)
    asking.cancel()
    await watched(notifier, 0)


ROUTES = [
    ("GET", "/live/jobs/{id}"),
    ("POST", "/live/jobs/{id}/cancel"),
    ("GET", "/live/jobs/{id}/events"),
    ("POST", "/live/jobs"),
    ("POST", "/live/events"),
    ("GET", "/live"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_an_allowed_page_is_let_in_by_preflight(notifier: Notifier, method: str, path: str) -> None:
    """A browser asks before it sends a token: an allowed page may, another hears nothing but no."""
    url = notifier.public + path.format(id=new_id())
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,prefer"}
    async with notifier.session.options(url, headers={"Origin": ORIGIN, **asked}) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert method in response.headers["Access-Control-Allow-Methods"].split(", ")
        allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"authorization", "prefer", "content-type", "if-none-match", "last-event-id"} <= set(allowed)
        assert "Origin" in response.headers["Vary"]
    async with notifier.session.options(url, headers={"Origin": "http://evil.example", **asked}) as response:
        assert response.status == 403
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_an_allowed_page_can_read_answers_and_problems(notifier: Notifier, redis: Redis) -> None:
    """The headers that let a page read stand on a snapshot, on a stream and on a refusal alike."""
    job_id = new_id()
    await notifier.report(report(job_id, 1, status="succeeded"))
    good = {"Origin": ORIGIN, "Authorization": f"Bearer {notifier.token(job_id)}"}
    for path, headers, status in (
        (f"/live/jobs/{job_id}", good, 200),
        (f"/live/jobs/{job_id}/events", good, 200),
        (f"/live/jobs/{job_id}", {"Origin": ORIGIN}, 401),
        ("/nowhere", {"Origin": ORIGIN}, 404),
    ):
        async with notifier.session.get(notifier.public + path, headers=headers) as response:
            assert response.status == status
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "ETag" in response.headers["Access-Control-Expose-Headers"]


async def test_no_origin_is_no_page(notifier: Notifier) -> None:
    """A program names no Origin, and needs none."""
    async with notifier.session.get(f"{notifier.public}/openapi.yaml") as response:
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await notifier.session.ws_connect(f"{notifier.public}/live", headers={"Origin": "null"})
