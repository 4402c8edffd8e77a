"""The metrics that all services share. Each service defines its others in its own `metrics.py`.

docs/metrics.md lists all metrics. Names and labels must not change: dashboards and alerts use them.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from headway import __version__
from headway.contracts import SCHEMA_VERSION
from headway.trace_context import TraceContext, trace_fields

from .unlocked_metrics import UnlockedCounter, UnlockedHistogram

disable_created_metrics()  # type: ignore[no-untyped-call]  # no series with the creation time of each counter

BUILD = Gauge("headway_build_info", "Which version is running?", ["version", "revision", "python", "headway_schema"])
REQUESTS = UnlockedCounter("http_requests", "How many HTTP requests were answered?", ["method", "route", "code"])
REQUEST_DURATION = UnlockedHistogram(
    "http_request_duration_seconds", "How long did it take to answer a request?", ["method", "route"]
)
LOOP_LAG = Histogram(
    "event_loop_lag_seconds",
    "How late did the event loop run a due timer?",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
DRAINING = Gauge("headway_draining", "Is this process draining?")
LOG_MESSAGES = Counter("log_messages", "How many log lines were written?", ["level"])
LOG_COUNTERS = {level: LOG_MESSAGES.labels(level) for level in ("debug", "info", "warning", "error", "critical")}

LAG_CHECK_INTERVAL_S = 0.5


def set_build_info(environ: Mapping[str, str]) -> None:
    """Set the running version: that of the image, which its build names in the environment, or that of the package."""
    version, revision = environ.get("HEADWAY_VERSION") or __version__, environ.get("HEADWAY_REVISION") or "unknown"
    BUILD.labels(version, revision, platform.python_version(), str(SCHEMA_VERSION)).set(1)


def exemplar(trace: TraceContext | None) -> dict[str, str] | None:
    """Return the exemplar of an observation about a job: the id of its trace, if that is recorded."""
    return trace_fields(trace) if trace is not None and trace.is_sampled else None


@contextmanager
def observed_duration(histogram: Histogram, trace: TraceContext | None) -> Iterator[None]:
    """Observe how long the block takes for a job; the trace is that of the job."""
    started = time.perf_counter()
    try:
        yield
    finally:
        histogram.observe(time.perf_counter() - started, exemplar(trace))


async def monitor_loop_lag() -> None:
    """Observe every LAG_CHECK_INTERVAL_S how late the event loop runs a timer, until cancelled."""
    while True:
        due_at = time.perf_counter() + LAG_CHECK_INTERVAL_S
        await asyncio.sleep(LAG_CHECK_INTERVAL_S)
        LOOP_LAG.observe(max(0.0, time.perf_counter() - due_at))
