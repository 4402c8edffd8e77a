"""Decoding the body of `POST /reports`, and the log lines about a job's reports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from headway.contracts import RejectionReason, Verdict
from services.notifier.ingest.handlers import ReportHandler, decode_reports
from services.runtime.errors import BadRequest, HTTPProblem, UnprocessableContent
from tests.unit.headway.test_contracts import REPORT
from tests.unit.services.runtime.http_app import serve

JOB_ID = "6b3c2f9e-0f0a-4a57-9d0e-3d2a1f6a7b11"  # of REPORT
PROGRESS = f"/progress/key?jobId={JOB_ID}&progress=5"


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


async def logged(path: str, body: str, store: Any) -> list[dict[str, Any]]:
    """Post a body and return the lines that the handler logs."""
    synchronizer: Any = SimpleNamespace(note_sent_times=lambda _reports: None, drop_sent_time=None)
    keys: Any = SimpleNamespace(value=("key",))
    async with serve(*ReportHandler(store, synchronizer, keys, 60).routes()) as client:
        with capture_logs() as lines:
            await client.post(path, data=body, headers={"Authorization": "Bearer key"})
    return [dict(line) for line in lines if line["event"] != "request_answered"]


def store_with(reason: RejectionReason | None, error: Exception | None = None) -> Any:
    """Return a store that rejects all reports for this reason, or raises."""

    async def apply_reports(reports: list[Any], _on_unpublished: Any) -> list[Verdict]:
        if error is not None:
            raise error
        return [Verdict(report.job_id, reason is None, reason) for report in reports]

    async def apply_progress(report: Any, _job_ttl_s: float) -> Verdict:
        return (await apply_reports([report], None))[0]

    return SimpleNamespace(apply_reports=apply_reports, apply_progress=apply_progress)


@pytest.mark.parametrize("path", ["/reports", PROGRESS])
async def test_rejected_report_is_logged_with_its_job(path: str) -> None:
    """The line says which job's report the fence rejected, and why."""
    line = {"event": "report_rejected", "job_id": JOB_ID, "reason": "superseded", "log_level": "info"}
    assert await logged(path, reports_body(REPORT), store_with("superseded")) == [line]
    assert await logged(path, reports_body(REPORT), store_with(None)) == []


@pytest.mark.parametrize("path", ["/reports", PROGRESS])
async def test_unconfirmed_report_is_logged_with_its_job(path: str) -> None:
    """Without Redis, the only report of a request is named; of many, only their number."""
    store = store_with(None, ConnectionError())
    (line,) = await logged(path, reports_body(REPORT), store)
    assert (line["event"], line["job_id"], line["count"]) == ("reports_not_confirmed", JOB_ID, 1)
    (line,) = await logged("/reports", reports_body(REPORT, REPORT), store)
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
async def test_refused_report_is_logged_with_its_job(body: str, job_id: str | None, field: str | None) -> None:
    """The line names the field and, if the report is readable so far, the job, but no value."""
    (line,) = await logged("/reports", body, store_with(None))
    assert (line["event"], line.get("job_id"), line["field"]) == ("reports_refused", job_id, field)
    assert "secret" not in str(line)
