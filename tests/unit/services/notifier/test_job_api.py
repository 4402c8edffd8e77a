"""The API of jobs for the other services, with a store and an index in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from redis.exceptions import ConnectionError as RedisConnectionError

from headway.contracts import JobError, Timestamp, decode
from headway.details import KeptJob
from headway.labels import JobFilter, Labels
from services.notifier.job_api import JobApiHandler
from services.notifier.records.details import JobDetails
from services.notifier.records.record_read import RecordRead
from services.notifier.transports.lists import ListHandler
from services.runtime.settings import ReloadingFile, read_keys
from tests.unit.services.notifier.transports.listed_jobs import Jobs, job_id
from tests.unit.services.runtime.http_app import Client, serve

KEY = "the-report-key"
REQUESTS = [("GET", f"/jobs/{job_id(7)}"), ("DELETE", f"/jobs/{job_id(7)}"), ("POST", f"/jobs/{job_id(7)}/cancel")]


class JobApi:
    """The served handler."""

    def __init__(self, keys: Path) -> None:
        self.client: Client
        self.jobs = Jobs()
        jobs: Any = self.jobs
        handler = JobApiHandler(jobs, ListHandler(jobs, jobs, jobs), ReloadingFile(keys, read_keys))
        self.routes = handler.routes()

    async def send(self, method: str, path: str, key: str = KEY, body: Any = None) -> tuple[int, Any]:
        """Send a request; return the status and the body."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self.client.request(method, path, headers=headers, json=body) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def problem(self, method: str, path: str, key: str = KEY, body: Any = None) -> tuple[Any, ...]:
        """Send a request that is refused; return the status, the code and the field."""
        status, problem = await self.send(method, path, key, body)
        return status, problem["code"], problem.get("field")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[JobApi]:
    """Serve the handler behind the middleware of every listener."""
    (tmp_path / "keys").write_text(f"{KEY}\n")
    api = JobApi(tmp_path / "keys")
    async with serve(*api.routes) as api.client:
        yield api


async def test_job_is_read_with_its_kept_message(api: JobApi) -> None:
    """Without a kept message it is null; a record that another program has damaged counts as missing."""
    api.jobs.put(1, tags=("t",), status="failed", error=JobError("InternalError", "It failed."))
    status, body = await api.send("GET", f"/jobs/{job_id(1)}")
    assert (status, body["message"], body["snapshot"]["id"]) == (200, None, str(job_id(1)))
    api.jobs.details[str(job_id(1))] = JobDetails(message="eyJ9")
    job = decode(json.dumps((await api.send("GET", f"/jobs/{job_id(1)}"))[1]), KeptJob)
    assert (job.status, job.generation, job.kind, job.message) == ("failed", 0, "k", "eyJ9")
    assert job.labels == Labels(owner="anna", tags=("t",))
    api.jobs.records[str(job_id(7))] = RecordRead(b'{"status":"running"}', b'"k"', None)
    assert await api.problem("GET", f"/jobs/{job_id(7)}") == (404, "unknown", None)


async def test_job_without_a_record_is_unknown(api: JobApi) -> None:
    """A cancellation does not create one."""
    for method, path in REQUESTS:
        assert await api.problem(method, path) == (404, "unknown", None)
    assert api.jobs.cancelled == []
    assert await api.problem("GET", "/jobs/7") == (404, "not_found", "id")


async def test_only_an_ended_job_is_erased(api: JobApi) -> None:
    """One that has not ended must be cancelled first."""
    api.jobs.put(1, status="succeeded")
    api.jobs.put(2)
    assert (await api.send("GET", f"/jobs/{job_id(1)}"))[1]["erased"] is False
    assert await api.send("DELETE", f"/jobs/{job_id(1)}") == (204, None)
    assert (await api.send("GET", f"/jobs/{job_id(1)}"))[1]["erased"] is True
    assert await api.problem("DELETE", f"/jobs/{job_id(2)}") == (409, "not_ended", None)


async def test_job_is_cancelled(api: JobApi) -> None:
    """The answer is its snapshot."""
    api.jobs.put(1)
    status, body = await api.send("POST", f"/jobs/{job_id(1)}/cancel")
    assert (status, body["id"], api.jobs.cancelled) == (202, str(job_id(1)), [job_id(1)])


async def test_a_bulk_action_cancels_only_what_it_has_seen(api: JobApi) -> None:
    """The body has the generation, the time of the action, and the operator, who is logged."""
    api.jobs.put(1)
    path, until = f"/jobs/{job_id(1)}/cancel", "2026-01-01T00:00:00.000Z"
    with structlog.testing.capture_logs() as logs:
        status, body = await api.send("POST", path, body={"generation": 0, "until": until, "by": "alice"})
        assert (status, body["id"]) == (202, str(job_id(1)))
        assert await api.problem("POST", path, body={"generation": 1}) == (409, "changed", None)
    lines = [(one["action"], one["job_id"], one["by"]) for one in logs if one["event"] == "operator_action"]
    assert lines == [("cancel", str(job_id(1)), "alice")]
    assert api.jobs.unchanged == [
        (job_id(1), 0, Timestamp.parse(until), "alice"),
        (job_id(1), 1, None, "internal"),
    ]
    assert await api.problem("POST", f"/jobs/{job_id(7)}/cancel", body={"generation": 0}) == (404, "unknown", None)
    assert await api.problem("POST", path, body={"until": until}) == (422, "invalid", "generation")
    assert api.jobs.cancelled == []


async def test_list_is_exhaustive_and_has_details(api: JobApi) -> None:
    """It has the parameters of a public list; a reader that acts on each job needs all of them."""
    api.jobs.put(1, "anna", tags=("t",))
    api.jobs.put(2, "bert", tags=("t",))
    api.jobs.put(3, "anna")
    _, body = await api.send("GET", "/jobs?status=running&tag=t&owner=anna&limit=10&error_type=Oops")
    assert [(one["job"]["id"], one["labels"]["tags"]) for one in body["jobs"]] == [(str(job_id(1)), ["t"])]
    (query,) = api.jobs.queries
    assert (query.filter, query.limit, query.error_type) == (JobFilter(owner="anna"), 10, "Oops")
    assert query.exhaustive
    assert len((await api.send("GET", "/jobs?limit=2"))[1]["jobs"]) == 2
    assert await api.problem("GET", "/jobs?name=x") == (422, "invalid", "name")
    assert await api.problem("GET", "/jobs?cursor=abc") == (422, "invalid", "cursor")


async def test_every_request_needs_a_report_key(api: JobApi) -> None:
    """A wrong key changes nothing."""
    api.jobs.put(7, status="succeeded")
    for method, path in [("GET", "/jobs"), *REQUESTS]:
        assert await api.problem(method, path, "wrong") == (401, "unauthorized", None)
    assert api.jobs.cancelled + api.jobs.erased == []


async def test_without_redis_the_answer_is_503(api: JobApi) -> None:
    """The caller tries again."""
    api.jobs.failure = RedisConnectionError("lost")
    for method, path in [("GET", "/jobs"), *REQUESTS]:
        assert (await api.problem(method, path))[:2] == (503, "unavailable")
