"""The handler of submissions, with a store and wake-ups that record their calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientResponse
from redis.exceptions import RedisError

from headway.contracts import MAX_REPORTS_BYTES, SubmittedJob, Timestamp
from headway.labels import Labels
from services.notifier.ingest.submissions import SubmissionHandler
from services.notifier.records.store import JobStore
from services.notifier.wakeups import WakeupHandler
from services.runtime.settings import ReloadingFile, read_keys
from tests.unit.headway.test_contracts import SUBMITTED_JOB
from tests.unit.services.runtime.http_app import Client, read_problem, serve

KEY = "the-report-key"
NOW = Timestamp.parse("2026-01-01T00:01:00Z")
SUBMISSION: dict[str, Any] = json.loads(SUBMITTED_JOB)  # due 30 s after NOW


class FakeParts:
    """Records the submitted jobs and the wake-ups, in their order; fails as a test says."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.failure: Exception | None = None
        self.clock = self

    def now(self) -> Timestamp:
        """Return the time of Redis."""
        return NOW

    async def apply_submissions(self, jobs: list[SubmittedJob]) -> None:
        """Record the jobs."""
        self.events.append([job.labels for job in jobs])
        if self.failure is not None:
            raise self.failure

    async def wake(self, queue: str, count: int) -> bool:
        """Record the wake-ups."""
        self.events.append((queue, count))
        return False


class Submissions(FakeParts):
    """A served handler and the parts that it uses."""

    def __init__(self, keys: Path) -> None:
        super().__init__()
        self.client: Client
        store, wakeups = cast(JobStore, self), cast(WakeupHandler, self)
        self.routes = SubmissionHandler(store, wakeups, ReloadingFile(keys, read_keys)).routes()

    async def post(self, body: Any, query: str = "", key: str | None = KEY) -> ClientResponse:
        """Post submissions."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return await self.client.post(f"/submissions{query}", data=BytesIO(data), headers=headers)


@pytest.fixture
async def submissions(tmp_path: Path) -> AsyncIterator[Submissions]:
    """Serve the handler behind the middleware of every listener."""
    (tmp_path / "report.key").write_text(KEY)
    submissions = Submissions(tmp_path / "report.key")
    async with serve(*submissions.routes) as submissions.client:
        yield submissions


async def test_a_worker_is_woken_for_each_job_that_is_due(submissions: Submissions) -> None:
    """After the records exist: a woken worker reports the start at once. A delayed job wakes no worker yet."""
    due = SUBMISSION | {"due_at": "2026-01-01T00:01:00Z", "labels": None}
    body = [SUBMISSION, due, due | {"due_at": None}, {**due, "unknown": 1, "labels": {"tags": ["a"]}}]
    assert (await submissions.post(body, "?queue=letters")).status == 204
    labels = [Labels(owner="user:7"), None, None, Labels(tags=("a",))]
    assert submissions.events == [labels, ("letters", 3)]
    assert (await submissions.post([SUBMISSION])).status == 204
    assert submissions.events[2:] == [labels[:1], ("", 0)]


@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1]])
async def test_a_wrong_key_is_refused(submissions: Submissions, key: str | None) -> None:
    """Nothing is recorded without the report key."""
    response = await submissions.post([SUBMISSION], key=key)
    assert (response.status, (await read_problem(response))["code"]) == (401, "unauthorized")
    assert submissions.events == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        pytest.param(b"no JSON", 400, None, id="no JSON"),
        pytest.param(b" " * (MAX_REPORTS_BYTES + 1), 413, None, id="more than 1 MiB"),
        pytest.param([], 422, None, id="none"),
        pytest.param([SUBMISSION] * 501, 422, None, id="501"),
        pytest.param([SUBMISSION, SUBMISSION | {"kind": ""}], 422, "[1].kind", id="no kind"),
        pytest.param([SUBMISSION | {"id": "7"}], 422, "[0].id", id="no UUID"),
        pytest.param([SUBMISSION | {"generation": -1}], 422, "[0].generation", id="negative generation"),
        pytest.param([SUBMISSION | {"expires_at": "soon"}], 422, "[0].expires_at", id="no time"),
        pytest.param([{**SUBMISSION, "labels": {"tags": ["t" * 65]}}], 422, "[0].labels.tags[0]", id="tag of 65"),
        pytest.param([{**SUBMISSION, "labels": {"tags": ["{a}"]}}], 422, "[0].labels.tags[0]", id="tag with a brace"),
        pytest.param([{**SUBMISSION, "labels": {"tags": ["t"] * 9}}], 422, "[0].labels.tags", id="nine tags"),
        pytest.param([{**SUBMISSION, "labels": {"owner": "a b"}}], 422, "[0].labels.owner", id="owner with a space"),
        pytest.param(
            [{**SUBMISSION, "labels": {"trace": "€" * 512, "name": "🚂" * 200}}], 422, "[0].labels", id="2 KiB"
        ),
    ],
)
async def test_an_invalid_request_is_refused_as_a_whole(
    submissions: Submissions, body: Any, status: int, field: str | None
) -> None:
    """The error names the element and the field."""
    response = await submissions.post(body)
    problem = await read_problem(response)
    assert (response.status, problem.get("field")) == (status, field)
    assert submissions.events == []


async def test_a_hundred_thousand_tags_are_refused(submissions: Submissions) -> None:
    """They are more than a request may have, or than a job may have."""
    for tag in ("t", "a-tag-of-a-job"):
        response = await submissions.post([{**SUBMISSION, "labels": {"tags": [tag] * 100_000}}])
        assert response.status in (413, 422)
    assert submissions.events == []


@pytest.mark.parametrize("failure", [RedisError("secret"), ConnectionResetError("secret"), TimeoutError("secret")])
async def test_any_doubt_is_a_503_and_wakes_workers_nevertheless(submissions: Submissions, failure: Exception) -> None:
    """The messages are on the queue, whatever Redis says."""
    submissions.failure = failure
    response = await submissions.post([SUBMISSION | {"due_at": None}])
    problem = await read_problem(response)
    assert (response.status, problem["code"]) == (503, "unavailable")
    assert "secret" not in problem["detail"]
    assert (response.headers["Connection"], int(response.headers["Retry-After"]) > 0) == ("close", True)
    assert submissions.events[1:] == [("", 1)]
