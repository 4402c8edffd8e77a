"""The delivery of a job that belongs to a trace."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import format_trace_id
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.exposition import generate_latest
from structlog.contextvars import get_contextvars

from headway import JobContext, job
from headway.contracts import Timestamp, decode
from headway.labels import Labels
from services.worker.attempt_span import record_outcome
from services.worker.outcomes import Finished, Interruption, Outcome, RetryLater, public_failure
from tests.unit.services.runtime.recording_tracer import RecordingTracer
from tests.unit.services.worker.fake_worker import FakeWorker

SECRET = "the-customer-s-card"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
HISTOGRAMS = ("jobs_duration_seconds", "jobs_queue_wait_seconds", "jobs_end_to_end_seconds")


def traced(flags: str) -> Labels:
    """Return the labels of a job in a trace with these flags."""
    return Labels(trace=f"00-{TRACE_ID}-b7ad6b7169203331-{flags}")


@job("in-a-trace")
async def in_a_trace(ctx: JobContext, _payload: Any) -> tuple[str | None, object]:
    """Return the trace that the handler sees, and that of its log lines."""
    return ctx.traceparent, get_contextvars().get("trace_id")


@pytest.mark.parametrize(
    ("labels", "seen"), [(traced("01"), (traced("01").trace, TRACE_ID)), (Labels(owner="ann"), (None, None))]
)
async def test_a_handler_knows_its_trace(labels: Labels, seen: tuple[str | None, str | None]) -> None:
    """The context has the trace of the job's submission, and log lines have its id; there may be none."""
    worker = FakeWorker(in_a_trace, labels=labels)
    await worker.deliver()
    assert decode(bytes(worker.reporter.reports[-1].result), tuple[str | None, str | None]) == seen


@pytest.mark.parametrize(("kind", "flags", "is_recorded"), [("recorded", "01", True), ("unrecorded", "00", False)])
async def test_recorded_traces_are_exemplars(kind: str, flags: str, is_recorded: bool) -> None:
    """The histograms of jobs name a trace in each bucket as OpenMetrics, unless its caller does not record it."""

    @job(kind)
    async def handler(_ctx: JobContext, _payload: Any) -> None:
        """Do nothing."""

    await FakeWorker(handler, labels=traced(flags), submitted_at=Timestamp.now()).deliver()
    lines = generate_latest(REGISTRY).decode().splitlines()  # type: ignore[no-untyped-call]
    for name in HISTOGRAMS:
        buckets = [line for line in lines if line.startswith(f'{name}_bucket{{kind="{kind}"')]
        assert buckets
        assert any(f'# {{trace_id="{TRACE_ID}"}}' in line for line in buckets) is is_recorded, name


@pytest.mark.parametrize(
    ("outcome", "is_last", "name", "error_type"),
    [
        (Finished("succeeded"), False, "succeeded", None),
        (Finished.failed("Fail", SECRET), False, "failed", "Fail"),
        (RetryLater(public_failure("Timeout", SECRET)), False, "retrying", "Timeout"),
        (RetryLater(public_failure("Timeout", SECRET), abandoned=True), True, "failed", "Timeout"),
        (Interruption.CANCELLED, False, "cancelled", None),
        (Interruption.STOPPED, False, "stopped", None),
        (Interruption.LEASE_LOST, False, "lease_lost", "lease_lost"),
        (Interruption.SUPERSEDED, False, "superseded", None),
    ],
)
def test_the_outcome_of_an_attempt_is_on_its_span(
    outcome: Outcome, is_last: bool, name: str, error_type: str | None
) -> None:
    """The span has failed if the attempt has, or its work is lost; the text of the error is not on it."""
    tracer = RecordingTracer()
    with tracer.consumer_span("jobs", {}, None) as span:
        record_outcome(span, outcome, is_last=is_last)
    (ended,) = tracer.ended
    attributes = dict(ended.attributes or {})
    assert (attributes["headway.job.outcome"], attributes.get("error.type")) == (name, error_type)
    assert ended.status.is_ok is (error_type is None)
    assert SECRET not in ended.to_json()


async def test_an_attempt_ends_before_its_message_is_poisoned() -> None:
    """While the poison queue is unavailable, its span is complete."""

    @job("never", max_attempts=1)
    async def never(_ctx: JobContext, _payload: Any) -> None:
        raise ValueError(SECRET)

    tracer = RecordingTracer()
    worker = FakeWorker(never, tracer=tracer)
    names: list[str] = []
    worker.queue.on_poison = lambda: names.extend(span.name for span in tracer.ended)
    await worker.deliver()
    assert names == ["started", "process jobs"]


async def test_a_job_without_a_trace_starts_one() -> None:
    """Its handler, and the lines that it logs, know it."""
    tracer = RecordingTracer()
    worker = FakeWorker(in_a_trace, tracer=tracer)
    await worker.deliver()
    trace_ids = {format_trace_id(span.context.trace_id) for span in tracer.ended if span.context}
    traceparent, logged = decode(bytes(worker.reporter.reports[-1].result), tuple[str, str])
    assert trace_ids == {traceparent.split("-")[1]} == {logged}
