"""The jobs of a bulk action: what an operator asks for, within what the operator may act on, as of the request."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from headway.contracts import ENDED, JobStatus, Timestamp
from headway.details import BulkAction, BulkFilter
from headway.grants import DETAILS

from ...runtime.errors import Forbidden, UnprocessableContent
from .auth import Operator

UNENDED: frozenset[JobStatus] = frozenset({"queued", "running", "retrying"})
ALLOWED: dict[BulkAction, frozenset[JobStatus]] = {"redrive": ENDED, "rerun": ENDED, "cancel": UNENDED}
DEFAULTS: dict[BulkAction, frozenset[JobStatus]] = {"redrive": frozenset({"failed"}), "cancel": UNENDED}


def freeze_selection(action: BulkAction, wanted: BulkFilter, operator: Operator, now: Timestamp) -> BulkFilter:
    """Return the filter of an action: within the filter of the operator's token, and without what happens after `now`.

    Raises:
        Forbidden: the operator's token is for one job, or for another owner or kind, or lacks the scope for
            `error_type`; the error names the field.
        UnprocessableContent: the action does not apply to a status, or no status is given where it is needed.
    """
    if operator.job_id is not None:
        raise Forbidden("The token is for one job.")
    if wanted.error_type is not None and not operator.sees_details:
        raise Forbidden(f"`error_type` needs a token with the scope `{DETAILS}`.", field="filter.error_type")
    statuses = frozenset(wanted.statuses) or DEFAULTS.get(action, frozenset())
    if not statuses or not statuses <= ALLOWED[action]:
        allowed = ", ".join(sorted(ALLOWED[action]))
        raise UnprocessableContent(f"Expected one or more of {allowed} for the action {action}.", field="filter.status")
    narrowed: dict[str, Any] = {}
    for name, given, permitted in (
        ("owner", wanted.owner, operator.filter.owner),
        ("kind", wanted.kind, operator.filter.kind),
    ):
        if given is not None and permitted not in (None, given):
            raise Forbidden(f"The token is for another {name}.", field=f"filter.{name}")
        narrowed[name] = given or permitted
    required = () if operator.filter.tag is None else (operator.filter.tag,)
    return replace(
        wanted,
        status=tuple(sorted(statuses)),
        tag=tuple(sorted({*wanted.tags, *required})),
        until=now if wanted.until is None else min(now, wanted.until),
        **narrowed,
    )
