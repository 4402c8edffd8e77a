"""Lists of jobs, and watching with the tokens that open them, against fake services."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid4

import pytest

from headway.client import Client, InvalidToken, JobListPage, RequestFailed, SyncClient
from headway.client.job_lists import PAGE_SIZE
from tests.unit.headway.client.fake_services import (
    Services,
    list_token,
    respond_with,
    send_messages,
    snapshot_json,
    token_for,
)

NOW = "2026-01-01T00:00:00.000Z"
ISSUED = respond_with(200, {"token": "issued", "expires_at": "2026-01-01T01:00:00.000Z"})


def page(count: int = 0, following: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a page with some jobs."""
    jobs = [snapshot_json(uuid4(), 1) for _ in range(count)]
    return {"now": NOW, "jobs": jobs, "next": following, "complete": True, **fields}


def links(services: Services, job_id: UUID | None = None) -> Any:
    """Return the submitter's response for a job's page, from which a client knows the notifier."""
    return respond_with(200, {"links": {"live": f"{services.url}/live/jobs/{job_id or UUID(int=0)}"}})


def sent(services: Services) -> list[str]:
    """Return the requests, with their authorization."""
    return [
        f"{request.method} {unquote(request.path_qs)} {request.headers.get('Authorization', '')}".strip()
        for request in services.requests
    ]


async def test_pages_follow_each_other(services: Services, client: Client) -> None:
    """The client issues one token for the query, asks for the notifier once, and follows the cursors to the end."""
    services.responses = [ISSUED, links(services)]
    services.responses += [
        respond_with(200, page(count, following)) for count, following in ((2, "c1"), (0, "c2"), (1, None))
    ]
    jobs = [job async for job in client.jobs(owner="user:7", status=("failed", "cancelled"))]
    assert (len(jobs), len({job.id for job in jobs})) == (3, 3)
    assert json.loads(services.bodies[0]) == {"filter": {"owner": "user:7"}, "scope": "list", "ttl_s": 86_400}
    query = f"/live/jobs?owner=user:7&status=failed,cancelled&limit={PAGE_SIZE}"
    assert sent(services) == [
        "POST /tokens Bearer the key",
        f"GET /jobs/{UUID(int=0)}",
        *(f"GET {query}{cursor} Bearer issued" for cursor in ("", "&cursor=c1", "&cursor=c2")),
    ]


@pytest.mark.parametrize(("limit", "sizes", "count"), [(0, [], 0), (3, [3, 1], 3), (250, [100, 100], 5)])
async def test_a_limit_ends_the_list(
    services: Services, client: Client, limit: int, sizes: list[int], count: int
) -> None:
    """A page that is not full is followed by a request for the rest; a page has at most 100 jobs."""
    services.responses = [links(services), respond_with(200, page(2, "c")), respond_with(200, page(min(3, limit - 2)))]
    assert len([job async for job in client.jobs("mine", limit=limit)]) == count
    requested = [request.query["limit"] for request in services.requests[1:]]
    assert requested == list(map(str, sizes))
    assert {request.headers["Authorization"] for request in services.requests[1:]} <= {"Bearer mine"}


async def test_one_page_has_its_cursor(services: Services, client: Client) -> None:
    """A page says whether the list is complete, and how many jobs there are."""
    about = {"waiting": 3, "running": 2, "failed_24h": 1, "queue": None}
    services.responses = [links(services), respond_with(200, page(1, "next", complete=False, about=about))]
    listed = await client.jobs_page("mine", limit=1, cursor="before")
    assert isinstance(listed, JobListPage)
    assert (len(listed.jobs), listed.next, listed.complete) == (1, "next", False)
    assert listed.about is not None
    assert listed.about.waiting == 3
    assert sent(services)[1] == "GET /live/jobs?limit=1&cursor=before Bearer mine"


async def test_an_error_type_needs_details(services: Services, client: Client) -> None:
    """The client asks for a token with this scope, only when it is needed."""
    services.responses = [ISSUED, links(services), respond_with(200, page())]
    await client.jobs_page(error_type="ValueError")
    assert json.loads(services.bodies[0])["scope"] == "list details"
    assert json.loads(services.bodies[0])["filter"] == {}


@pytest.mark.parametrize(
    ("status", "problem", "error"),
    [
        (422, {"code": "invalid", "detail": "Expected a status", "field": "status"}, RequestFailed),
        (403, {"code": "forbidden", "detail": "The token is for another owner.", "field": "owner"}, RequestFailed),
        (401, {"code": "token_expired", "detail": "The token has expired."}, InvalidToken),
        (404, "not found", RequestFailed),
        (200, ["unexpected"], RequestFailed),
    ],
)
async def test_a_refused_list_raises(
    services: Services, client: Client, status: int, problem: Any, error: type[Exception]
) -> None:
    """The error names the field; an older notifier has no lists."""
    services.responses = [links(services), respond_with(status, problem)]
    with pytest.raises(error) as raised:
        await client.jobs_page("mine", owner="other")
    if isinstance(raised.value, RequestFailed) and isinstance(problem, dict):
        assert raised.value.field == problem["field"]


async def test_tokens_are_issued(services: Services, client: Client) -> None:
    """A token for users has the filter, scope and lifetime that were asked for; one for a job needs its id only."""
    services.responses = [ISSUED]
    issued = await client.list_token(owner="o", tag="t", kind="k", scope="list", ttl_s=60)
    assert (issued.token, issued.expires_at.isoformat()) == ("issued", "2026-01-01T01:00:00+00:00")
    job_id = uuid4()
    await client.job_token(job_id)
    await client.job_token(str(job_id), scope="watch details", ttl_s=60)
    assert list(map(json.loads, services.bodies)) == [
        {"filter": {"owner": "o", "tag": "t", "kind": "k"}, "scope": "list", "ttl_s": 60},
        {"job": str(job_id), "scope": "watch cancel", "ttl_s": 3600},
        {"job": str(job_id), "scope": "watch details", "ttl_s": 60},
    ]
    assert set(sent(services)) == {"POST /tokens Bearer the key"}
    with pytest.raises(ValueError, match="UUID"):
        await client.job_token("october")


async def test_a_list_token_opens_a_job_by_its_id(services: Services, client: Client) -> None:
    """The snapshot and the cancellation need nothing but the id; the token is sent to the notifier only."""
    job_id, token = uuid4(), list_token()
    services.responses = [links(services, job_id), respond_with(200, snapshot_json(job_id, 1))]
    assert (await client.get(job_id, token=token)).id == job_id
    services.responses = [links(services, job_id), respond_with(202, snapshot_json(job_id, 2, "cancelled"))]
    assert (await client.cancel(str(job_id), token=token)).status == "cancelled"
    assert sent(services) == [
        f"GET /jobs/{job_id}",
        f"GET /live/jobs/{job_id} Bearer {token}",
        f"GET /jobs/{job_id}",
        f"POST /live/jobs/{job_id}/cancel Bearer {token}",
    ]


async def test_a_given_token_is_used_for_a_job_of_this_client(services: Services, client: Client) -> None:
    """An application checks with a user's token whether the user may see a job that the application has submitted."""
    receipt = services.receipt(uuid4())
    body = {"id": str(receipt.id), "token": receipt.token, "links": receipt.links}
    services.responses = [respond_with(202, body), links(services, receipt.id)]
    services.responses += [respond_with(403, {"code": "forbidden", "detail": "The token is for other jobs."})]
    job = await client.submit("k")
    with pytest.raises(RequestFailed, match="other jobs"):
        await client.get(job.id, token=list_token())
    assert sent(services)[-1] == f"GET /live/jobs/{job.id} Bearer {list_token()}"


async def test_a_list_token_watches_a_job(services: Services, client: Client) -> None:
    """The message has the job's id, which the token does not contain."""
    job_id, token = uuid4(), list_token()
    services.responses = [respond_with(200, snapshot_json(job_id, 1))]
    services.socket_handlers = [send_messages({"job": snapshot_json(job_id, 2, "succeeded")})]
    link = f"{services.url}/live/jobs/{job_id}#{token}"
    assert [snapshot.version async for snapshot in client.watch(link)] == [2]
    assert services.received[0] == {"watch": token, "job_id": str(job_id)}


@pytest.mark.parametrize("token", [list_token(), None], ids=["list", "job"])
@pytest.mark.parametrize(("status", "code"), [(403, "forbidden"), (404, "unknown")])
async def test_a_token_that_does_not_open_the_job_shows_nothing_of_it(
    services: Services, client: Client, token: str | None, status: int, code: str
) -> None:
    """Neither a list token for another owner's job nor a token without a record shares the watch of another caller."""
    receipt = services.receipt(uuid4())
    services.socket_handlers = [send_messages({"job": snapshot_json(receipt.id, 1)})]
    owners = client.watch(receipt.links["live"], token=receipt.token)
    await anext(owners)
    services.responses = [respond_with(status, {"code": code, "detail": "no"})]
    with pytest.raises(RequestFailed) as raised:
        await anext(client.watch(receipt.links["live"], token=token or token_for(receipt.id, record=True)))
    assert (raised.value.status, raised.value.code) == (status, code)
    await owners.aclose()  # type: ignore[attr-defined]


async def test_an_id_needs_a_token(client: Client) -> None:
    """A client knows the tokens of its own submissions only; a token for another job opens nothing."""
    with pytest.raises(ValueError, match="a token"):
        await client.get(uuid4())
    with pytest.raises(InvalidToken):
        await client.get(uuid4(), token=token_for(uuid4()))


async def test_the_sync_client_lists_jobs(services: Services) -> None:
    """It pages, too."""
    services.responses = [ISSUED, links(services), respond_with(200, page(2, "c")), respond_with(200, page(1))]
    services.responses += [links(services), respond_with(200, page(1))]

    def use() -> None:
        with SyncClient(services.url, api_key="the key") as client:
            assert len(list(client.jobs(tag="march"))) == 3
            assert len(client.jobs_page("mine", kind="k").jobs) == 1
            services.responses = [ISSUED]
            assert client.list_token(owner="o").token == client.job_token(uuid4()).token == "issued"

    await asyncio.to_thread(use)
