"""What is told of the worker: the columns of its table, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from bench.figures import Row, values

GATE = 2.0  # Headway's CPU time a job, in those of the bare loop
GOAL = 1.5

# measure -> a column's title; `_ms` are milliseconds, `_mb` megabytes.
COLUMNS = {
    "cpu_ms": "CPU a job, ms",
    "others_cpu_ms": "stores and services, CPU a job, ms",
    "idle_p50_ms": "start when idle, p50 ms",
    "idle_p95_ms": "p95 ms",
    "loaded_p50_ms": "start at 30 jobs/s, p50 ms",
    "loaded_p95_ms": "p95 ms",
    "rss_mb": "RSS idle, MB",
    "flight_rss_mb": "RSS with 1,000 in flight, MB",
    "flight_pss_mb": "PSS, MB",
    "flight_cpu_percent": "CPU meanwhile, % of a core",
}


class Gate(NamedTuple):
    """Whether Headway's worker costs no more than it may beside the bare loop."""

    ratio: float

    @classmethod
    def of(cls, rows: Sequence[Row], ours: str, bare: str) -> Gate:
        """Compare the medians."""
        return cls(median(values(rows, ours, "cpu_ms")) / median(values(rows, bare, "cpu_ms")))

    @property
    def passed(self) -> bool:
        """Whether it is within the limit."""
        return self.ratio <= GATE

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "missed"
        taken = f"Headway's worker takes {self.ratio:.2f} times the bare loop's CPU"
        return f"Gate {verdict}: {taken} (limit {GATE:g}, goal {GOAL:g})."
