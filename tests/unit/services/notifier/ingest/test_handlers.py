"""Decoding the body of `POST /reports`."""

from __future__ import annotations

import pytest

from services.notifier.ingest.handlers import decode_reports
from services.runtime.errors import BadRequest, HTTPProblem, UnprocessableContent
from tests.unit.headway.test_contracts import REPORT


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
