"""The record of what operators do: one log line and one count for each action."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import structlog

from .. import metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Action = Literal["redrive", "rerun", "erase", "discard", "bulk"]


def log_action(action: Action, job_id: UUID | str, by: str, **fields: object) -> None:
    """Log and count an action that was carried out.

    Args:
        action: the action.
        job_id: the job, or the id of a poison message without one.
        by: the name of the operator.
        fields: what else the log line has.
    """
    metrics.OPERATOR_ACTIONS.labels(action).inc()
    log.info("operator_action", action=action, job_id=str(job_id), by=by, **fields)
