"""`POST /bulk`: dry runs, the job that it submits, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import structlog.testing
from msgspec import structs

from headway.contracts import Json, Timestamp, decode, encode
from headway.details import BulkRequest, KeptJob
from headway.labels import NO_LABELS, JobFilter
from headway.tokens import ListGrant, TokenSigner, TokenVerifier
from services.runtime.settings import ReloadingFile
from services.submitter.operations import bulk as bulk_module
from services.submitter.operations.auth import OperatorAuth
from services.submitter.operations.bulk import BulkHandler
from services.submitter.operations.job_records import JobRecords, SelectedJob, SelectedPage, SelectedSnapshot
from tests.unit.services.runtime.http_app import Client, read_problem, serve
from tests.unit.services.submitter.callers import caller_auth, submitter_settings
from tests.unit.services.submitter.test_submit import FakeQueue, job_sender

OPS = {"Authorization": "Bearer ops"}
REDRIVE: dict[str, Any] = {"action": "redrive", "filter": {"kind": "report", "tag": "a"}}
OTHERS = (("rerun", "failed"), ("cancel", "running"))  # actions, and the statuses of their jobs
UNTIL = "2026-01-01T00:00:00.000Z"


class FakeJobList:
    """A list of failed jobs; the cursor is the index of the first job of a page."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.is_complete = True
        self.kind = "report"
        self.parameters: list[list[tuple[str, str]]] = []
        self.submitted: dict[UUID, Timestamp] = {}  # the actions that have records
        self.hangs_at: int | None = None  # the first job of a page that is never answered

    async def read(self, job_id: UUID) -> KeptJob | None:
        """Return the record of an action."""
        if job_id not in self.submitted:
            return None
        snapshot = Json(encode({"submitted_at": self.submitted[job_id]}))
        return KeptJob(status="running", generation=0, kind="headway.bulk", labels=NO_LABELS, snapshot=snapshot)

    async def page(self, parameters: list[tuple[str, str]]) -> SelectedPage:
        """Return a page."""
        self.parameters.append(parameters)
        values = dict(parameters)
        start = int(values.get("cursor", 0))
        if start == self.hangs_at:
            await asyncio.Event().wait()
        end = min(self.count, start + int(values["limit"]))
        jobs = [
            SelectedJob(
                SelectedSnapshot(id=uuid4(), kind=self.kind, status="failed", name=f"Job {number}"), "ValueError"
            )
            for number in range(start, end)
        ]
        return SelectedPage(jobs, str(end) if end < self.count else None, self.is_complete)


@pytest.fixture
def jobs() -> FakeJobList:
    """Return a list of 450 jobs."""
    return FakeJobList(450)


@pytest.fixture
def queue() -> FakeQueue:
    """Return an empty queue."""
    return FakeQueue()


@pytest.fixture
async def client(tmp_path: Path, jobs: FakeJobList, queue: FakeQueue) -> AsyncIterator[Client]:
    """Serve the handler to callers with API keys."""
    settings = submitter_settings(tmp_path, TOKEN_KEY_FILE=str(tmp_path / "token.pem"))
    async with job_sender(settings, queue) as sender:
        auth = OperatorAuth(caller_auth(settings), ReloadingFile(tmp_path / "token.pub.pem", TokenVerifier))
        async with serve(*BulkHandler(auth, cast(JobRecords, jobs), sender).routes()) as client:
            yield client


async def post(client: Client, body: Any, **headers: str) -> dict[str, Any]:
    """Send a request that is accepted; return the body of the answer."""
    async with client.post("/bulk", json=body, headers={**OPS, **headers}) as response:
        assert response.status in (200, 202), await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def test_dry_run_counts_and_shows_examples(client: Client, jobs: FakeJobList, queue: FakeQueue) -> None:
    """A dry run counts all pages and shows ten jobs; nothing is submitted."""
    answer = await post(client, {**REDRIVE, "dry_run": True})
    assert (answer["count"], answer["complete"], len(answer["examples"])) == (450, True, 10)
    assert answer["examples"][0].keys() == {"id", "kind", "name", "status", "error_type"}
    assert {("status", "failed"), ("kind", "report"), ("tag", "a")} < set(jobs.parameters[0])
    assert queue.messages == []


async def test_a_token_without_details_sees_no_types_of_errors(client: Client, tmp_path: Path) -> None:
    """A dry run shows the true types of errors only to holders of the scope `details`."""
    signer, now = TokenSigner((tmp_path / "token.pem").read_text()), Timestamp.now()
    for scope, error_type in (("list operate", None), ("list operate details", "ValueError")):
        grant = ListGrant(
            filter=JobFilter(kind="report"), issued_at=now, expires_at=now.after(60), scope=frozenset(scope.split())
        )
        bearer = {"Authorization": f"Bearer {signer.sign(grant)}"}
        answer = await post(client, {**REDRIVE, "dry_run": True}, **bearer)
        assert {example["error_type"] for example in answer["examples"]} == {error_type}


async def test_bulk_actions_are_not_counted(client: Client, jobs: FakeJobList) -> None:
    """An earlier bulk action runs again only if the filter names its kind."""
    jobs.kind = "headway.bulk"
    body = {"action": "rerun", "filter": {"status": "failed"}, "dry_run": True}
    assert (await post(client, body))["count"] == 0
    body["filter"] = {"status": "failed", "kind": "headway.bulk"}
    assert (await post(client, body))["count"] == jobs.count


@pytest.mark.parametrize("is_complete", [True, False])
async def test_many_jobs_are_not_counted(
    client: Client, jobs: FakeJobList, monkeypatch: pytest.MonkeyPatch, *, is_complete: bool
) -> None:
    """Above a limit, and while the index lags, the number is not complete."""
    if is_complete:
        monkeypatch.setattr(bulk_module, "MAX_COUNTED", 400)
    jobs.is_complete = is_complete
    answer = await post(client, {**REDRIVE, "dry_run": True})
    assert (answer["count"], answer["complete"]) == (400 if is_complete else 450, False)


async def test_counting_takes_a_limited_time(
    client: Client, jobs: FakeJobList, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that is read slowly is not counted to its end; the action acts on all of it, without a total."""
    monkeypatch.setattr(bulk_module, "MAX_COUNT_S", 0.05)
    jobs.hangs_at = 200
    answer = await post(client, {**REDRIVE, "dry_run": True})
    assert (answer["count"], answer["complete"], len(answer["examples"])) == (200, False, 10)
    await post(client, REDRIVE)
    assert decode(bytes(queue.jobs[0].payload), BulkRequest).total is None


async def test_action_is_a_job(client: Client, queue: FakeQueue) -> None:
    """The action is a job of the reserved kind, with a frozen filter, the count and the name of the key."""
    before = Timestamp.now()
    receipt = await post(client, REDRIVE)
    (job,) = queue.jobs
    assert receipt["id"] == str(job.id)
    assert job.kind == "headway.bulk"
    request = decode(bytes(job.payload), BulkRequest)
    assert (request.action, request.total, request.by) == ("redrive", 450, "alice")
    assert (request.filter.statuses, request.filter.tags) == (("failed",), ("a",))
    assert request.filter.until is not None
    assert before <= request.filter.until <= Timestamp.now()


async def test_the_log_has_what_was_selected(client: Client) -> None:
    """An auditor sees on which jobs an operator has acted, and on how many."""
    with structlog.testing.capture_logs() as logs:
        await post(client, {"action": "rerun", "filter": {"status": "failed", "owner": "user:7", "until": UNTIL}})
    (line,) = [line for line in logs if line["event"] == "operator_action"]
    assert (line["action"], line["bulk_action"], line["by"], line["total"]) == ("bulk", "rerun", "alice", 450)
    assert line["filter"] == {"status": ("failed",), "owner": "user:7", "until": UNTIL}


@pytest.mark.parametrize(
    "body", [REDRIVE, *({"action": action, "filter": {"status": status}} for action, status in OTHERS)]
)
async def test_double_click_is_one_action(
    client: Client, jobs: FakeJobList, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    """The same request within some seconds is the same job, whatever the clock shows; later, it is another one."""
    window = bulk_module.REPEATED_WITHIN_S
    for start_s in (0.0, window - 0.001, window / 2):
        queue.messages.clear()
        jobs.submitted.clear()
        for after_s in (0.0, 0.2, window - 0.1, window + 0.1):
            now = Timestamp.at(1_700_000_000 * window + start_s + after_s)
            monkeypatch.setattr(Timestamp, "now", lambda now=now: now)
            jobs.submitted.setdefault(UUID((await post(client, body))["id"]), now)
        first, *repeated, later = (job.id for job in queue.jobs)
        assert repeated == [first, first]
        assert later != first


async def test_another_request_is_another_action(client: Client, queue: FakeQueue) -> None:
    """Only the same filter, action and operator make a double click."""
    for body in (REDRIVE, {**REDRIVE, "filter": {"kind": "report"}}, {"action": "cancel", "filter": REDRIVE["filter"]}):
        await post(client, body)
    await post(client, REDRIVE, **{"Idempotency-Key": "k"})
    assert len({job.id for job in queue.jobs}) == 4


async def test_repeated_request_with_a_key_is_the_same_job(client: Client, queue: FakeQueue) -> None:
    """The frozen time does not enter the id of a request with an idempotency key."""
    await post(client, REDRIVE, **{"Idempotency-Key": "k"})
    await post(client, REDRIVE, **{"Idempotency-Key": "k"})
    await post(client, {**REDRIVE, "action": "rerun", "filter": {"status": "failed"}}, **{"Idempotency-Key": "k"})
    first, second, third = (job.id for job in queue.jobs)
    assert first == second != third


async def test_a_narrower_token_of_the_same_name_acts_by_itself(
    client: Client, queue: FakeQueue, tmp_path: Path
) -> None:
    """The same request of an operator who may act on other jobs is another action."""
    signer, now = TokenSigner((tmp_path / "token.pem").read_text()), Timestamp.now()
    grant = ListGrant(
        filter=JobFilter(kind="report"), issued_at=now, expires_at=now.after(60), scope=frozenset({"list", "operate"})
    )
    bearer = {"Authorization": f"Bearer {signer.sign(structs.replace(grant, by='alice'))}"}
    await post(client, REDRIVE, **{"Idempotency-Key": "k"})
    await post(client, REDRIVE, **{"Idempotency-Key": "k"}, **bearer)
    everything, reports = (job.id for job in queue.jobs)
    assert everything != reports


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        (lambda body: body.update(action="erase"), 422, "invalid", "action"),
        (lambda body: body["filter"].update(colour="red"), 422, "invalid", "filter.colour"),
        (lambda body: body["filter"].update(tag="{"), 422, "invalid", "filter.tag"),
        (lambda body: body["filter"].update(status=["running"]), 422, "invalid", "filter.status"),
        (lambda body: body["filter"].update(since="yesterday"), 422, "invalid", "filter.since"),
        (lambda body: body["filter"].update(tag=["t"] * 5000), 413, "too_large", None),
    ],
    ids=["action", "unknown field", "tag", "status", "time", "too large"],
)
async def test_bad_input_names_the_field(
    client: Client,
    queue: FakeQueue,
    change: Callable[[dict[str, Any]], None],
    status: int,
    code: str,
    field: str | None,
) -> None:
    """A request that cannot be used is refused, and submits nothing."""
    body = deepcopy(REDRIVE)
    change(body)
    async with client.post("/bulk", json=body, headers=OPS) as response:
        problem = await read_problem(response)
    assert (problem["status"], problem["code"], problem.get("field")) == (status, code, field)
    assert queue.messages == []


async def test_only_operators_act_on_jobs(client: Client, queue: FakeQueue) -> None:
    """Without a key, and with one that lacks the role, the request is refused."""
    async with client.post("/bulk", json=REDRIVE) as response:
        assert response.status == 401
    async with client.post("/bulk", json=REDRIVE, headers={"Authorization": "Bearer app"}) as response:
        assert response.status == 403
    assert queue.messages == []
