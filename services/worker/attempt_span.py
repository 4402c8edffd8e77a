"""The span of an attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .outcomes import Interruption, Outcome
from .received_job import ReceivedJob

if TYPE_CHECKING:
    from ..runtime.tracer import Span, Tracer


@contextmanager
def attempt_span(tracer: Tracer, job: ReceivedJob, queue_name: str) -> Iterator[Span]:
    """Run an attempt within a span, a child of the span of the job's submission, which is also linked to it.

    A child `started`, which ends at once, shows an attempt that runs: a span is sent only when it has ended.
    """
    attributes: dict[str, str | int] = {
        "messaging.message.id": job.received.id,
        "headway.job.id": str(job.message.id),
        "headway.job.kind": job.message.kind,
        "headway.job.attempt": job.reported_attempt,
        "headway.job.max_attempts": job.max_attempts,
        "headway.job.generation": job.message.generation,
    }
    with tracer.consumer_span(queue_name, attributes, job.trace) as span:
        span.mark("started", attributes)
        yield span


def record_outcome(span: Span, outcome: Outcome, *, is_last: bool) -> None:
    """Set the outcome of an attempt, and mark the span as failed if the attempt has failed.

    Args:
        span: the span.
        outcome: the outcome.
        is_last: whether a failed attempt was the last one.
    """
    if isinstance(outcome, Interruption):
        name = outcome.name.lower()
        error_type = name if outcome is Interruption.LEASE_LOST else None
    else:
        name = "failed" if is_last else outcome.status
        error_type = None if outcome.failure is None else outcome.failure.error.type
    span.set({"headway.job.outcome": name})
    if error_type is not None:
        span.fail(error_type)
