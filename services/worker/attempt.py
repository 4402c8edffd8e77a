"""One attempt of a job: run the handler and, if the attempt fails, schedule the next one."""

from __future__ import annotations

import math

from msgspec.structs import replace

from headway.backoff import full_jitter_s
from headway.context import Attempt
from headway.contracts import MAX_DELAY_S
from headway.jobs import BACKOFF_CAP_S, BACKOFF_S
from headway.trace_context import TraceContext

from ..runtime.metrics import observed_duration
from . import metrics
from .execution.runner import Runner
from .leased_job import LeasedJob
from .logs.capture import capture_into
from .outcomes import Finished, RetryLater, public_failure
from .registry import Registry


async def run_attempt(
    leased: LeasedJob, registry: Registry, runner: Runner, trace: TraceContext | None
) -> Finished | RetryLater:
    """Run the handler and return the outcome of the attempt; a retry has its delay.

    The trace is that of the handler, if it has one.

    Raises:
        LeaseLost: the lease ended before the handler started.
    """
    message = leased.job.message
    job = registry.get(message.kind)
    if job is None:
        failure = public_failure("UnknownKind", f"This worker has no handler for the kind {message.kind!r}.")
        return _scheduled(RetryLater(failure), leased, BACKOFF_S, BACKOFF_CAP_S)  # another worker may have one
    attempt = Attempt(
        job_id=message.id,
        kind=message.kind,
        attempt=leased.job.attempt,
        max_attempts=leased.job.max_attempts,
        checkpoint=message.checkpoint,
        progress=leased.job.progress,
        traceparent=None if trace is None else str(trace),
    )
    if leased.job.received.delivery == 1:
        metrics.observe_since_due(leased.job, metrics.QUEUE_WAIT.labels(message.kind))
    metrics.ATTEMPTS_STARTED.labels(message.kind).inc()
    running = metrics.JOBS_RUNNING.track_inprogress()
    duration = observed_duration(metrics.HANDLER_DURATION.labels(message.kind), trace)
    with running, duration, capture_into(leased.log):
        outcome = await runner.run(job, attempt, message.payload, leased, message.timeout_s or job.timeout_s)
    return _scheduled(outcome, leased, job.backoff_s, job.backoff_cap_s) if isinstance(outcome, RetryLater) else outcome


def _scheduled(retry: RetryLater, leased: LeasedJob, backoff_s: float, cap_s: float) -> RetryLater:
    """Return the retry with its delay: the one that the handler asked for, or the backoff with full jitter."""
    after_s = retry.after_s
    if after_s is None:
        after_s = full_jitter_s(leased.job.attempt - 1, backoff_s, cap_s)
    return replace(retry, after_s=math.ceil(min(after_s, MAX_DELAY_S)))  # the queue's unit is a second
