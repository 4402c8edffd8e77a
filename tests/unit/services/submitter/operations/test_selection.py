"""Which jobs a bulk action selects: the operator's filter, within the token's, as of the request."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from headway.contracts import Timestamp
from headway.details import BulkAction, BulkFilter
from headway.labels import JobFilter
from services.runtime.errors import Forbidden, HTTPProblem, UnprocessableContent
from services.submitter.operations.auth import Operator
from services.submitter.operations.selection import freeze_selection

NOW = Timestamp.parse("2026-01-02T00:00:00Z")
ALICE = Operator("alice")
OF_ACME = Operator("acme", JobFilter(owner="acme", tag="export", kind="report"))


def freeze(action: BulkAction, operator: Operator = ALICE, **wanted: Any) -> BulkFilter:
    """Return the frozen filter of an action."""
    return freeze_selection(action, BulkFilter(**wanted), operator, NOW)


def test_defaults_suit_the_action() -> None:
    """Without a status, failed jobs are redriven, and unended ones cancelled."""
    assert freeze("redrive").status == ("failed",)
    assert freeze("cancel").status == ("queued", "retrying", "running")
    assert freeze("rerun", status="succeeded").status == ("succeeded",)


def test_later_jobs_are_left_out() -> None:
    """The end of the time range is the request, or earlier."""
    assert freeze("redrive").until == NOW
    assert freeze("redrive", until=NOW.after(60)).until == NOW
    assert freeze("redrive", until=NOW.after(-60)).until == NOW.after(-60)


def test_filter_of_a_token_applies() -> None:
    """The selection has the owner, the kind and the tag of the token, and all tags of the request."""
    frozen = freeze("redrive", OF_ACME, tag=("b", "a"), attempts_min=2, error_type="ValueError")
    assert (frozen.owner, frozen.kind, frozen.tag) == ("acme", "report", ("a", "b", "export"))
    assert (frozen.attempts_min, frozen.error_type) == (2, "ValueError")
    assert freeze("redrive", OF_ACME, owner="acme", kind="report", tag="export").tags == ("export",)


@pytest.mark.parametrize(
    ("action", "operator", "wanted", "error", "field"),
    [
        ("rerun", ALICE, {}, UnprocessableContent, "filter.status"),
        ("redrive", ALICE, {"status": ("failed", "running")}, UnprocessableContent, "filter.status"),
        ("cancel", ALICE, {"status": "failed"}, UnprocessableContent, "filter.status"),
        ("redrive", OF_ACME, {"owner": "other"}, Forbidden, "filter.owner"),
        ("redrive", OF_ACME, {"kind": "other"}, Forbidden, "filter.kind"),
        ("redrive", Operator("list", sees_details=False), {"error_type": "KeyError"}, Forbidden, "filter.error_type"),
        ("redrive", Operator("job", job_id=uuid4()), {}, Forbidden, None),
    ],
    ids=["no status", "running job", "ended job", "other owner", "other kind", "no details", "token for a job"],
)
def test_refusals_name_the_field(
    action: BulkAction, operator: Operator, wanted: dict[str, Any], error: type[HTTPProblem], field: str | None
) -> None:
    """A status that the action does not apply to, and what the token does not permit, are refused."""
    with pytest.raises(error) as caught:
        freeze(action, operator, **wanted)
    assert caught.value.field == field
