"""What every service measures of itself; what a service measures of its work stands in its own `metrics.py`.

All of them are listed in docs/metrics.md. Names and labels are for good: a dashboard somewhere asks for them.
"""

from __future__ import annotations

import asyncio
import platform
import time
from importlib.metadata import version

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from .settings import environment
from .unlocked_metrics import UnlockedCounter, UnlockedHistogram

disable_created_metrics()  # type: ignore[no-untyped-call]  # otherwise every counter has a second series that nobody asks for

BUILD = Gauge("headway_build_info", "Which version runs here?", ["version", "revision", "python"])
BUILD.labels(version("headway"), environment().get("HEADWAY_REVISION", "unknown"), platform.python_version()).set(1)
REQUESTS = UnlockedCounter("http_requests", "How many HTTP requests were answered?", ["method", "route", "code"])
REQUEST_DURATION = UnlockedHistogram(
    "http_request_duration_seconds", "How long did an answer take?", ["method", "route"]
)
LOOP_LAG = Histogram(
    "event_loop_lag_seconds",
    "How late does the event loop come to what is due?",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
DRAINING = Gauge("headway_draining", "Is this process about to stop?")
LOG_MESSAGES = Counter("log_messages", "How many lines were logged?", ["level"])
LOG_COUNTERS = {level: LOG_MESSAGES.labels(level) for level in ("debug", "info", "warning", "error", "critical")}

LAG_TICK_S = 0.5


async def monitor_loop_lag() -> None:
    """Measure for ever how late the event loop is."""
    while True:
        due = time.perf_counter() + LAG_TICK_S
        await asyncio.sleep(LAG_TICK_S)
        LOOP_LAG.observe(max(0.0, time.perf_counter() - due))
