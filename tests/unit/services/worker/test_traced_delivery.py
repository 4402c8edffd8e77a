"""The delivery of a job that belongs to a trace."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.exposition import generate_latest
from structlog.contextvars import get_contextvars

from headway import JobContext, job
from headway.contracts import Timestamp, decode
from headway.labels import Labels
from tests.unit.services.worker.fake_worker import FakeWorker

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
