"""Lists over HTTP, with an index in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from headway.contracts import JobError
from headway.labels import JobFilter
from services.notifier.records.details import JobDetails
from services.notifier.records.index.query import JobQuery
from services.notifier.records.index.reader import Page
from services.notifier.records.record_read import RecordRead
from services.notifier.transports.lists import MAX_FAILURE_PAGES, MAX_PAGES_IN_PROGRESS, ListHandler
from tests.unit.services.notifier.transports.listed_jobs import NOW, Jobs, job_id, list_token
from tests.unit.services.notifier.transports.notifier_parts import Replica
from tests.unit.services.runtime.http_app import Client, serve
from tests.waiting import wait_until

ABOUT = {"waiting": 1, "retrying": 0, "running": 2, "failed_24h": 3, "queue": None, "oldest": None}


class Lists:
    """The served handlers of lists."""

    def __init__(self, keys: Path) -> None:
        self.client: Client
        self.jobs, self.replica = Jobs(), Replica(keys)
        parts: Any = (self.jobs, self.jobs, self.replica.auth)
        self.handler = ListHandler(*parts)

    async def get(self, path: str, scope: str = "list", token: str | None = None, **fields: Any) -> Any:
        """Send a request with a list token or another one; return the body."""
        token = token or list_token(self.replica.signer, scope, **fields)
        async with self.client.get(path, headers={"Authorization": f"Bearer {token}"}) as response:
            body = await response.json(content_type=None)
            assert response.headers.get("Cache-Control") == "no-store" or response.status >= 400
            return body

    async def problem(self, path: str, scope: str = "list", token: str | None = None, **fields: Any) -> tuple[Any, ...]:
        """Send a request that is refused; return the status, the code and the field."""
        body = await self.get(path, scope, token, **fields)
        return body["status"], body["code"], body.get("field")


@pytest.fixture
async def lists(keys: Path) -> AsyncIterator[Lists]:
    """Serve the handlers behind the middleware of every listener."""
    lists = Lists(keys)
    async with serve(*lists.handler.routes()) as lists.client:
        yield lists


async def test_a_page_has_the_snapshots_that_the_token_allows(lists: Lists) -> None:
    """The newest comes first. A client that asks for another owner is refused."""
    mine = [lists.jobs.put(number) for number in (1, 2, 3)]
    lists.jobs.put(4, "bert")
    body = await lists.get("/live/jobs?limit=2&status=running")
    assert [job["id"] for job in body.pop("jobs")] == [str(mine[2]), str(mine[1])]
    assert body == {"now": str(NOW), "next": "more", "complete": True, "about": ABOUT}
    (query,) = lists.jobs.queries
    assert (query.filter, query.statuses, query.limit) == (JobFilter(owner="anna"), frozenset({"running"}), 2)
    assert await lists.problem("/live/jobs?owner=bert") == (403, "forbidden", "owner")
    assert len(lists.jobs.queries) == 1


async def test_details_need_the_scope(lists: Lists) -> None:
    """With it each job has its labels and the type of its error."""
    lists.jobs.put(1, tags=("t",), status="failed", error=JobError("Oops", "Something"))
    (job,) = (await lists.get("/live/jobs?error_type=Oops", "list details"))["jobs"]
    assert (job["job"]["id"], job["labels"], job["error_type"]) == (
        str(job_id(1)),
        {"owner": "anna", "tags": ["t"]},
        "Oops",
    )
    assert await lists.problem("/live/jobs?error_type=Oops") == (403, "forbidden", "error_type")
    assert await lists.problem("/live/failures") == (403, "forbidden", None)


async def test_a_damaged_record_is_left_out(lists: Lists) -> None:
    """Another program may have changed it, and a page is always JSON."""
    good = lists.jobs.put(1)
    lists.jobs.put(2)
    lists.jobs.records[str(job_id(2))] = RecordRead(b"{", b'"k"', b'{"owner":"anna"}', None)
    for scope in ("list", "list details"):
        assert [(job.get("job") or job)["id"] for job in (await lists.get("/live/jobs", scope))["jobs"]] == [str(good)]


async def test_an_altered_cursor_is_invalid(lists: Lists) -> None:
    """The error names it, as it does for every other parameter."""
    assert await lists.problem("/live/jobs?cursor=altered") == (422, "invalid", "cursor")
    assert await lists.problem("/live/jobs?limit=201") == (422, "invalid", "limit")
    assert await lists.problem("/live/failures?since=1h", "list details") == (422, "invalid", "since")


async def test_a_list_needs_a_list_token(lists: Lists) -> None:
    """A job's token is refused, and so are an expired one and a request without one."""
    assert await lists.problem("/live/jobs", token=lists.replica.token(job_id(1))) == (403, "forbidden", None)
    assert await lists.problem("/live/jobs", expires_in_s=-600, owner="anna") == (401, "token_expired", None)
    assert await lists.problem("/live/jobs", token="a.b.c") == (401, "invalid_token", None)
    async with lists.client.get("/live/jobs") as response:
        assert (response.status, (await response.json())["code"]) == (401, "unauthorized")


async def test_lists_are_unavailable_without_redis(lists: Lists) -> None:
    """The client may try again."""
    lists.jobs.failure = RedisConnectionError()
    for path in ("/live/jobs", "/live/failures", f"/live/jobs/{job_id(1)}/position"):
        assert await lists.problem(path, "list watch details") == (503, "unavailable", None)


async def test_a_limited_number_of_pages_is_read_at_the_same_time(lists: Lists) -> None:
    """The others may try again; each page makes room when it has been read, or the read has failed."""
    page, released = lists.jobs.page, asyncio.Event()

    async def slow_page(query: JobQuery) -> Page:
        await released.wait()
        return await page(query)

    lists.jobs.page = slow_page  # type: ignore[method-assign]
    reads = [asyncio.create_task(lists.get("/live/jobs?cursor=altered")) for _ in range(MAX_PAGES_IN_PROGRESS)]
    await wait_until(lambda: lists.handler._pages_in_progress == MAX_PAGES_IN_PROGRESS)
    assert await lists.problem("/live/jobs") == (503, "overloaded", None)
    assert await lists.problem("/live/failures", "list details") == (503, "overloaded", None)
    released.set()
    assert {(await read)["field"] for read in reads} == {"cursor"}
    assert (await lists.get("/live/jobs"))["jobs"] == []


async def test_failures_are_grouped(lists: Lists) -> None:
    """Only those of the token's filter are. Without a further page the groups are complete."""
    for number in (1, 2):
        lists.jobs.put(number, status="failed", error=JobError("Oops", "Something\nat line 1"))
    lists.jobs.put(3, "bert", status="failed", error=JobError("Oops", "Something"))
    body = await lists.get("/live/failures", "list details")
    assert body == {
        "now": str(NOW),
        "groups": [
            {
                "kind": "k",
                "error_type": "Oops",
                "message": "Something",
                "count": 2,
                "latest": str(NOW.after(2)),
                "jobs": [str(job_id(2)), str(job_id(1))],
            }
        ],
        "complete": True,
    }
    (query,) = lists.jobs.queries
    assert (query.filter, query.statuses, query.limit) == (JobFilter(owner="anna"), frozenset({"failed"}), 200)


async def test_failures_are_grouped_by_their_true_errors(lists: Lists) -> None:
    """Users see the same error for all of them. If the details were lost, only the type is left."""
    hidden = JobError("InternalError", "The job failed unexpectedly.")
    errors = [JobError("KeyError", "'zip'\nat line 1"), None, JobError("OSError", "of an attempt before")]
    for number, error in enumerate(errors, 1):
        job = lists.jobs.put(number, status="failed", error=hidden, error_type="KeyError")
        lists.jobs.details[str(job)] = JobDetails(error=error)
    lists.jobs.put(4, status="failed", error=hidden)
    groups = (await lists.get("/live/failures", "list details"))["groups"]
    assert [(group["error_type"], group["message"], group["count"]) for group in groups] == [
        ("KeyError", "", 2),
        ("InternalError", hidden.message, 1),
        ("KeyError", "'zip'", 1),
    ]


async def test_groups_of_too_many_failures_are_incomplete(lists: Lists, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are read, in a limited number of pages."""
    monkeypatch.setattr("services.notifier.transports.lists.MAX_PAGE", 1)
    for number in range(1, 3):
        lists.jobs.put(number, status="failed")
    monkeypatch.setattr("services.notifier.records.index.query.JobQuery.start", lambda _query: None)
    assert (await lists.get("/live/failures", "list details"))["complete"] is False
    assert len(lists.jobs.queries) == MAX_FAILURE_PAGES


async def test_the_position_of_a_waiting_job(lists: Lists) -> None:
    """A job that does not wait has none; a job without a record waits if its token says so."""
    waiting = lists.jobs.put(3, status="queued")
    running = lists.jobs.put(2)
    lists.jobs.put(1, "bert", status="queued")
    path = "/live/jobs/{}/position"
    for token in (lists.replica.token(waiting), None):
        body = await lists.get(path.format(waiting), "list watch", token)
        assert body == {"now": str(NOW), "before": 2, "complete": True}
    assert (await lists.get(path.format(running), token=lists.replica.token(running)))["before"] is None
    again = lists.jobs.put(0, status="queued", redriven_at=NOW.after(10))
    assert (await lists.get(path.format(again), token=lists.replica.token(again)))["before"] == 4
    unknown = job_id(9)
    assert (await lists.get(path.format(unknown), token=lists.replica.token(unknown)))["before"] is not None
    assert await lists.problem(path.format(unknown), "list watch") == (404, "unknown", None)
    assert await lists.problem(path.format(job_id(1)), "list watch") == (403, "forbidden", None)
    assert await lists.problem(path.format(waiting), "list") == (403, "forbidden", None)
