"""What operators do with jobs, against fake services: the requests that the client sends, and the types it returns."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from headway.client import Client, RequestFailed, SyncClient, job_operations
from headway.contracts import NULL
from tests.unit.headway.client.fake_services import Services, drop_response, respond_with, snapshot_json, token_for
from tests.unit.headway.client.test_job_lists import ISSUED, links, sent

TIME = "2026-01-01T00:00:00.000Z"


async def test_details_have_the_true_error(services: Services, client: Client) -> None:
    """The client asks for a token with the scope `details`; what a newer notifier adds is ignored."""
    job_id = uuid4()
    attempts = [
        {"attempt": 1, "started_at": None, "ended_at": TIME, "outcome": "lost", "error": None},
        {"attempt": 2, "started_at": TIME, "error": {"type": "KeyError", "message": "'x'"}, "new": 1},
    ]
    body = {
        "labels": {"owner": "user:7", "tags": ["a"]},
        "kept": True,
        "payload": {"pages": 1.10},
        "checkpoint": None,
        "error": {"type": "KeyError", "message": "'x'", "traceback": "Traceback\n"},
        "worker": "w1",
        "attempts": attempts,
        "steps": [{"name": "load", "started_at": TIME, "ended_at": None}],
        "trace_id": None,
        "new": {},
    }
    services.responses = [ISSUED, links(services, job_id), respond_with(200, body)]
    details = await client.details(job_id)
    assert json.loads(services.bodies[0]) == {"filter": {}, "scope": "list details", "ttl_s": 3600}
    assert sent(services)[-1] == f"GET /live/jobs/{job_id}/details Bearer issued"
    assert details.labels.owner == "user:7"
    assert (bytes(details.payload), details.checkpoint) == (b'{"pages": 1.1}', NULL)
    assert details.error is not None
    assert details.error.traceback == "Traceback\n"
    assert [attempt.error and attempt.error.type for attempt in details.attempts] == [None, "KeyError"]
    assert [step.name for step in details.steps] == ["load"]


async def test_details_of_another_submitters_job_need_its_own_token(services: Services, client: Client) -> None:
    """The API key is not for that submitter."""
    job_id = uuid4()
    token = token_for(job_id)
    services.responses = [links(services, job_id), respond_with(403, {"code": "forbidden", "detail": "no"})]
    with pytest.raises(RequestFailed, match="no"):
        await client.details(f"{services.url}/other/jobs/{job_id}#{token}")
    assert sent(services) == [f"GET /other/jobs/{job_id}", f"GET /live/jobs/{job_id}/details Bearer {token}"]


async def test_jobs_run_again(services: Services, client: Client) -> None:
    """A redrive names the generation that the caller has seen; a rerun is one job, however often it is repeated."""
    receipt = services.receipt(uuid4())
    services.responses = [respond_with(202, {"id": str(receipt.id), "generation": 3, "status": "queued"})]
    assert (await client.redrive(receipt, generation=2)).generation == 3
    await client.redrive(str(receipt.id), generation=2, from_start=True)
    new = {"id": str(uuid4()), "token": token_for(receipt.id), "links": receipt.links}
    services.responses = [respond_with(503, {"code": "unavailable", "detail": "no"}), respond_with(202, new)]
    assert str((await client.rerun(receipt.link)).id) == new["id"]
    await client.rerun(receipt.id, None, idempotency_key="again", token="an operator's")
    services.responses = [respond_with(204)]
    await client.erase(receipt.id)
    path = f"/jobs/{receipt.id}"
    assert sent(services) == [
        *[f"POST {path}/redrive Bearer the key"] * 2,
        *[f"POST {path}/rerun Bearer the key"] * 2,
        f"POST {path}/rerun Bearer an operator's",
        f"DELETE {path} Bearer the key",
    ]
    bodies = [json.loads(body) if body else None for body in services.bodies]
    assert bodies == [{"generation": 2}, {"generation": 2, "from_start": True}, {}, {}, {"payload": None}, None]
    first, repeated, other = [request.headers["Idempotency-Key"] for request in services.requests[2:5]]
    assert first == repeated
    assert other == "again"


def generation(services: Services, job_id: UUID, number: int | None) -> list[Any]:
    """Return the responses to a client that reads the generation of a job; None if the job has no record."""
    state = snapshot_json(job_id, 0 if number is None else 1, "failed", generation=number or 0)
    return [ISSUED, links(services), respond_with(200, state)]


@pytest.mark.parametrize(("before", "after"), [(2, 3), (None, 5)])
@pytest.mark.parametrize("code", ["changed", "not_ended"])
async def test_a_redrive_without_a_response_is_not_repeated(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch, code: str, before: int | None, after: int
) -> None:
    """The client names the generation that it has read, and knows by it that the first request was carried out."""
    monkeypatch.setattr(job_operations, "REDRIVEN_DELAYS_S", (0.0, 0.0))
    job_id = uuid4()
    refusal = respond_with(409, {"code": code, "detail": "no"})
    services.responses = [
        *generation(services, job_id, before),
        *[drop_response, respond_with(502), refusal],
        *generation(services, job_id, before),  # the first request is still in progress
        *generation(services, job_id, after),
    ]
    redriven = await client.redrive(job_id)
    assert (redriven.id, redriven.generation) == (job_id, after)
    bodies = [
        json.loads(body)
        for request, body in zip(services.requests, services.bodies, strict=True)
        if "redrive" in request.path
    ]
    assert bodies == [{} if before is None else {"generation": before}] * 3


async def test_a_redrive_that_is_refused_at_once_has_failed(
    services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another operator was faster; also if a repeated request has had no effect."""
    monkeypatch.setattr(job_operations, "REDRIVEN_DELAYS_S", (0.0,))
    job_id, refusal = uuid4(), respond_with(409, {"code": "changed", "detail": "no"})
    services.responses = [*generation(services, job_id, 2), refusal]
    with pytest.raises(RequestFailed, match="no"):
        await client.redrive(job_id)
    services.responses = [drop_response, refusal, *generation(services, job_id, 2)]
    with pytest.raises(RequestFailed, match="no"):
        await client.redrive(job_id, generation=2)


async def test_a_token_that_may_not_watch_redrives(services: Services, client: Client) -> None:
    """The request then names no generation."""
    job_id, forbidden = uuid4(), respond_with(403, {"code": "forbidden", "detail": "no"})
    done = respond_with(202, {"id": str(job_id), "generation": 1})
    services.responses = [links(services), forbidden, done]
    assert (await client.redrive(job_id, token="an operator's")).generation == 1
    assert json.loads(services.bodies[-1]) == {}


@pytest.mark.parametrize(("status", "code"), [(409, "payload_not_kept"), (409, "not_ended"), (404, "unknown")])
async def test_a_refusal_has_a_code(services: Services, client: Client, status: int, code: str) -> None:
    """Programs tell the reasons apart."""
    services.responses = [respond_with(status, {"code": code, "detail": "no"})]
    for call in (client.redrive, client.rerun, client.erase):
        with pytest.raises(RequestFailed) as raised:
            await call(uuid4())
        assert (raised.value.status, raised.value.code) == (status, code)
    with pytest.raises(ValueError, match="UUID"):
        await client.redrive("october")


async def test_bulk_actions_take_the_query_of_a_list(services: Services, client: Client) -> None:
    """A preview returns examples, and the action a receipt that can be watched by its id."""
    example = {"id": str(uuid4()), "kind": "k", "name": None, "status": "failed", "error_type": "ValueError"}
    services.responses = [respond_with(200, {"count": 12, "complete": False, "examples": [example]})]
    query: Any = {"status": "failed", "tag": "a", "since": datetime(2026, 1, 1, tzinfo=UTC), "attempts_min": 2}
    preview = await client.preview_bulk("redrive", owner=None, **query)
    assert (preview.count, preview.complete, preview.examples[0].error_type) == (12, False, "ValueError")
    receipt = services.receipt(uuid4())
    body = {"id": str(receipt.id), "token": receipt.token, "links": receipt.links}
    services.responses = [respond_with(202, body)]
    assert (await client.bulk("cancel", kind="k", idempotency_key="once")).id == receipt.id
    sent_filter = {"status": ["failed"], "tag": ["a"], "since": TIME, "attempts_min": 2}
    assert list(map(json.loads, services.bodies)) == [
        {"action": "redrive", "filter": sent_filter, "dry_run": True},
        {"action": "cancel", "filter": {"kind": "k"}},
    ]
    assert services.requests[1].headers["Idempotency-Key"] == "once"
    assert set(sent(services)) == {"POST /bulk Bearer the key"}


async def test_the_sync_client_operates(services: Services) -> None:
    """It has the same methods."""
    job_id = uuid4()
    receipt = services.receipt(job_id)
    body = {"id": str(job_id), "token": receipt.token, "links": receipt.links, "generation": 1, "count": 0}
    services.responses = [respond_with(200, body)]

    def use() -> None:
        with SyncClient(services.url, api_key="the key") as client:
            assert client.redrive(job_id).generation == 1
            assert client.rerun(job_id).id == client.bulk("redrive", kind="k").id == job_id
            assert client.preview_bulk("redrive").count == 0
            client.erase(job_id)
            services.responses = [ISSUED, links(services, job_id), respond_with(200, {"kept": True})]
            assert client.details(job_id).kept

    await asyncio.to_thread(use)
