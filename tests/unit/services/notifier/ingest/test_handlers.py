"""The handlers of reports, with a store and a synchronizer that record their calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientResponse
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from headway.contracts import MAX_REPORTS_BYTES, JobReport, ProgressUrlReport, RejectionReason, Verdict
from services.notifier import metrics
from services.notifier.ingest.handlers import ReportHandler, decode_reports
from services.notifier.records.store import JobStore
from services.notifier.watching.synchronizer import SnapshotSynchronizer
from services.runtime.errors import BadRequest, HTTPProblem, UnprocessableContent
from services.runtime.settings import ReloadingFile, read_keys
from tests.unit.headway.test_contracts import REPORT
from tests.unit.services.runtime.http_app import Client, read_problem, serve

KEYS = ("the-first-key", "the-second-key")
JOB_TTL_S = 60.0
JOB_ID = "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11"  # of REPORT
PROGRESS_URL = f"/progress/{KEYS[0]}?jobId={JOB_ID}&progress=5"
NO_DETAILS = {"reason": None, "cancel_requested": False, "watched": False}


class FakeStore:
    """Records the reports, and rejects or fails as a test says."""

    def __init__(self) -> None:
        self.applied: list[JobReport] = []
        self.progress: list[tuple[ProgressUrlReport, float]] = []
        self.reasons: dict[int, RejectionReason] = {}  # by sequence; a one-line report has the sequence 0
        self.failure: Exception | None = None

    async def apply_reports(
        self, reports: list[JobReport], on_unpublished: Callable[[JobReport], None]
    ) -> list[Verdict]:
        """Record reports; the ones with a reason are rejected."""
        self.applied += reports
        if self.failure is not None:
            raise self.failure
        verdicts = []
        for report in reports:
            reason = self.reasons.get(report.sequence)
            if reason is not None:
                on_unpublished(report)
            verdicts.append(Verdict(report.job_id, reason is None, reason, watched=reason is None))
        return verdicts

    async def apply_progress(self, report: ProgressUrlReport, job_ttl_s: float) -> Verdict:
        """Record a one-line report."""
        self.progress.append((report, job_ttl_s))
        if self.failure is not None:
            raise self.failure
        return Verdict(report.job_id, 0 not in self.reasons, self.reasons.get(0))


class FakeSynchronizer:
    """Records for which reports the sent times are noted and dropped."""

    def __init__(self) -> None:
        self.noted: list[int] = []
        self.dropped: list[int] = []

    def note_sent_times(self, reports: list[JobReport]) -> None:
        """Record the sequences of reports."""
        self.noted += [report.sequence for report in reports]

    def drop_sent_time(self, report: JobReport) -> None:
        """Record the sequence of a report."""
        self.dropped.append(report.sequence)


class Ingest:
    """A served report handler and the parts that it uses."""

    def __init__(self, keys: Path) -> None:
        self.client: Client
        self.store = FakeStore()
        self.synchronizer = FakeSynchronizer()
        self.handler = ReportHandler(
            cast(JobStore, self.store),
            cast(SnapshotSynchronizer, self.synchronizer),
            ReloadingFile(keys, read_keys),
            JOB_TTL_S,
        )

    async def post(self, body: str | bytes, key: str | None = KEYS[0]) -> ClientResponse:
        """Post reports."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return await self.client.post(
            "/reports", data=BytesIO(body.encode() if isinstance(body, str) else body), headers=headers
        )


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncIterator[Ingest]:
    """Serve the handlers behind the middleware of every listener."""
    (tmp_path / "report.key").write_text("\n".join(KEYS))
    ingest = Ingest(tmp_path / "report.key")
    async with serve(*ingest.handler.routes()) as ingest.client:
        yield ingest


def report_of(job_id: UUID, sequence: int) -> dict[str, Any]:
    """Return a report of a job."""
    return {**json.loads(REPORT), "job_id": str(job_id), "sequence": sequence}


def report_with(old: str, new: str) -> str:
    """Return a report in which a part is replaced."""
    assert old in REPORT
    return REPORT.replace(old, new)


def reports_body(*reports: str) -> str:
    """Return the body of `POST /reports`."""
    return f"[{','.join(reports)}]"


@pytest.mark.parametrize(
    ("body", "problem_type", "field"),
    [
        ("", BadRequest, None),
        (f"[{REPORT}", BadRequest, None),
        (f"[{REPORT}]]", BadRequest, None),
        ("[]", UnprocessableContent, None),
        ("{}", UnprocessableContent, None),
        (reports_body(*[REPORT] * 501), UnprocessableContent, None),
        (reports_body(REPORT, report_with('"delivery":1', '"delivery":0')), UnprocessableContent, "[1].delivery"),
        (reports_body(report_with('"current":40', '"current":-1')), UnprocessableContent, "[0].progress.current"),
        (reports_body(report_with('"running"', '"walking"')), UnprocessableContent, "[0].status"),
        (
            reports_body(report_with('"result":null', f'"result":"{"x" * 32_768}"')),
            UnprocessableContent,
            "[0].result",
        ),
        (
            reports_body(REPORT, report_with('"details":null', f'"details":{{"message":"{"ü" * 28_673}"}}')),
            UnprocessableContent,
            "[1].details",
        ),
        (
            reports_body(report_with('"details":null', f'"details":{{"traceback":"{"x" * 57_345}"}}')),
            UnprocessableContent,
            "[0].details.traceback",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_an_invalid_body_is_rejected_with_element_and_field(
    body: str, problem_type: type[HTTPProblem], field: str | None
) -> None:
    """The error names the invalid report and its field, for authors of workers."""
    with pytest.raises(HTTPProblem) as raised:
        decode_reports(body.encode())
    assert (type(raised.value), raised.value.field) == (problem_type, field)


def test_a_valid_body_is_decoded() -> None:
    """Up to 500 reports are returned in the order of the body."""
    assert [report.sequence for report in decode_reports(reports_body(*[REPORT] * 500).encode())] == [7] * 500


def test_a_missing_field_is_named_with_its_element() -> None:
    """A missing field is located like an invalid one."""
    with pytest.raises(UnprocessableContent) as raised:
        decode_reports(reports_body(REPORT, report_with('"delivery":1,', "")).encode())
    assert raised.value.field == "[1].delivery"


async def test_each_report_gets_its_verdict_in_order(ingest: Ingest) -> None:
    """Accepted and rejected reports are counted by verdict; those without a new snapshot have no sent time."""
    job_ids = [uuid4() for _ in range(4)]
    ingest.store.reasons = {2: "stale", 4: "finished"}
    verdicts = ("accepted", "stale", "finished")
    before = [metrics.REPORTS.labels(verdict).value for verdict in verdicts]
    body = json.dumps([report_of(job_id, number) for number, job_id in enumerate(job_ids, 1)])
    response = await ingest.post(body)
    assert (response.status, response.content_type) == (200, "application/json")
    assert [(verdict["job_id"], verdict["reason"]) for verdict in await response.json()] == [
        (str(job_ids[0]), None),
        (str(job_ids[1]), "stale"),
        (str(job_ids[2]), None),
        (str(job_ids[3]), "finished"),
    ]
    assert [metrics.REPORTS.labels(verdict).value - value for verdict, value in zip(verdicts, before, strict=True)] == [
        2,
        1,
        1,
    ]
    assert (ingest.synchronizer.noted, ingest.synchronizer.dropped) == ([1, 2, 3, 4], [2, 4])


@pytest.mark.parametrize("key", [None, "", "wrong", KEYS[0][:-1], f"{KEYS[0]} {KEYS[1]}", "\xe4"])
async def test_a_wrong_key_is_refused(ingest: Ingest, key: str | None) -> None:
    """Nothing is applied without one of the report keys."""
    responses = [await ingest.post(f"[{REPORT}]", key)]
    if key:
        responses.append(await ingest.client.get(f"/progress/{key}", params={"jobId": str(uuid4()), "progress": "1"}))
    for response in responses:
        assert (response.status, (await read_problem(response))["code"]) == (401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert ingest.store.applied == []
    assert ingest.store.progress == []


@pytest.mark.parametrize("key", KEYS)
async def test_each_report_key_is_accepted(ingest: Ingest, key: str) -> None:
    """While a key is rotated, workers use the old one or the new one."""
    assert (await ingest.post(f"[{REPORT}]", key)).status == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"no JSON", 400, "malformed", None),
        (b" " * (MAX_REPORTS_BYTES + 1), 413, "too_large", None),
        (reports_body(REPORT, report_with('"sequence":7', '"sequence":-7')).encode(), 422, "invalid", "[1].sequence"),
    ],
    ids=["malformed", "too_large", "invalid"],
)
async def test_an_invalid_request_is_rejected_as_a_whole(
    ingest: Ingest, body: bytes, status: int, code: str, field: str | None
) -> None:
    """The worker recognizes the rejection by its code; no report of the request is applied."""
    response = await ingest.post(body)
    problem = await read_problem(response)
    assert (response.status, problem["code"], problem.get("field")) == (status, code, field)
    assert ingest.store.applied == []
    assert ingest.synchronizer.noted == []


@pytest.mark.parametrize("failure", [RedisError("secret"), ConnectionResetError("secret"), TimeoutError("secret")])
async def test_any_doubt_about_reports_is_a_503(ingest: Ingest, failure: Exception) -> None:
    """A 503 has `Retry-After` and closes the connection, so that the worker finds another replica."""
    ingest.store.failure = failure
    query = {"jobId": str(uuid4()), "progress": "50"}
    for response in (
        await ingest.post(f"[{REPORT}]"),
        await ingest.client.get(f"/progress/{KEYS[0]}", params=query),
        await ingest.client.post(f"/progress/{KEYS[0]}", params=query),
    ):
        problem = await read_problem(response)
        assert (response.status, problem["code"]) == (503, "unavailable")
        assert "secret" not in problem["detail"]
        assert (response.headers["Connection"], int(response.headers["Retry-After"]) > 0) == ("close", True)
    assert len(ingest.store.applied) == 1
    assert len(ingest.store.progress) == 2


async def test_a_bug_does_not_reject_reports(ingest: Ingest) -> None:
    """An unexpected exception is a 500 with a code that rejects no report."""
    ingest.store.failure = AttributeError("secret")
    problem = await read_problem(await ingest.post(f"[{REPORT}]"))
    assert (problem["status"], problem["code"]) == (500, "internal_error")


async def test_a_one_line_report_gets_its_verdict(ingest: Ingest) -> None:
    """Progress and message come from the query, and the record's lifetime from the settings."""
    job_id = uuid4()
    query = {"jobId": str(job_id), "progress": "99.5", "message": "Almost"}
    for method in ("GET", "POST"):
        response = await ingest.client.request(method, f"/progress/{KEYS[1]}", params=query)
        assert (response.status, await response.json()) == (200, {"job_id": str(job_id), "accepted": True} | NO_DETAILS)
    expected = ProgressUrlReport(job_id=job_id, progress=99.5, message="Almost")
    assert ingest.store.progress == [(expected, JOB_TTL_S)] * 2


@pytest.mark.parametrize(
    ("query", "field"),
    [({"jobId": "x"}, "jobId"), ({"progress": "101"}, "progress"), ({"progress": "nan"}, "progress")],
)
async def test_an_invalid_one_line_report_is_rejected(ingest: Ingest, query: dict[str, str], field: str) -> None:
    """The error names the parameter."""
    params = {"jobId": str(uuid4()), "progress": "1", **query}
    response = await ingest.client.get(f"/progress/{KEYS[0]}", params=params)
    assert (response.status, (await read_problem(response))["field"]) == (422, field)
    assert ingest.store.progress == []


async def logged(ingest: Ingest, path: str, body: str) -> list[dict[str, Any]]:
    """Post a body and return the lines that the handler logs."""
    with capture_logs() as lines:
        await ingest.client.post(path, data=body, headers={"Authorization": f"Bearer {KEYS[0]}"})
    return [dict(line) for line in lines if line["event"] != "request_answered"]


@pytest.mark.parametrize("path", ["/reports", PROGRESS_URL])
async def test_rejected_report_is_logged_with_its_job(ingest: Ingest, path: str) -> None:
    """The line says which job's report the fence rejected, and why."""
    assert await logged(ingest, path, reports_body(REPORT)) == []
    ingest.store.reasons = {0: "superseded", 7: "superseded"}
    line = {"event": "report_rejected", "job_id": JOB_ID, "reason": "superseded", "log_level": "info"}
    assert await logged(ingest, path, reports_body(REPORT)) == [line]


@pytest.mark.parametrize("path", ["/reports", PROGRESS_URL])
async def test_unconfirmed_report_is_logged_with_its_job(ingest: Ingest, path: str) -> None:
    """Without Redis, the only report of a request is named; of many, only their number."""
    ingest.store.failure = ConnectionError()
    (line,) = await logged(ingest, path, reports_body(REPORT))
    assert (line["event"], line["job_id"], line["count"]) == ("reports_not_confirmed", JOB_ID, 1)
    (line,) = await logged(ingest, "/reports", reports_body(REPORT, REPORT))
    assert (line.get("job_id"), line["count"]) == (None, 2)


@pytest.mark.parametrize(
    ("body", "job_id", "field"),
    [
        (reports_body(REPORT, report_with('"delivery":1', '"delivery":"a secret"')), JOB_ID, "[1].delivery"),
        (reports_body(report_with(JOB_ID, "a secret")), None, "[0].job_id"),
        ("a secret", None, None),
        ("{}", None, None),
    ],
)
async def test_refused_report_is_logged_with_its_job(
    ingest: Ingest, body: str, job_id: str | None, field: str | None
) -> None:
    """The line names the field and, if the report is readable so far, the job, but no value."""
    (line,) = await logged(ingest, "/reports", body)
    assert (line["event"], line.get("job_id"), line["field"]) == ("reports_refused", job_id, field)
    assert "secret" not in str(line)
