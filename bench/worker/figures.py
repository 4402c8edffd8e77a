"""The columns of the worker's table, and its CPU threshold."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from bench.figures import Row, round_medians

MAX_CPU_RATIO = 2.0  # CPU time per job, Headway / bare loop
CPU_RATIO_GOAL = 1.5

# measure -> a column's title; `_ms` are milliseconds, `_mb` megabytes.
COLUMNS = {
    "cpu_ms": "CPU per job, ms",
    "others_cpu_ms": "stores and services, CPU per job, ms",
    "idle_p50_ms": "start when idle, p50, ms",
    "idle_p95_ms": "p95, ms",
    "loaded_p50_ms": "start at 30 jobs/s, p50, ms",
    "loaded_p95_ms": "p95, ms",
    "rss_mb": "RSS when idle, MB",
    "flight_rss_mb": "RSS with 1,000 jobs in flight, MB",
    "flight_pss_mb": "PSS, MB",
    "flight_cpu_percent": "CPU meanwhile, % of a core",
}


class CpuThreshold(NamedTuple):
    """The CPU time per job of Headway's worker, as a ratio to the bare loop's, against its upper bound."""

    ratio: float

    @classmethod
    def from_rows(cls, rows: Sequence[Row], headway: str, bare: str) -> CpuThreshold:
        """Return the ratio of the medians of two systems."""
        return cls(median(round_medians(rows, headway, "cpu_ms")) / median(round_medians(rows, bare, "cpu_ms")))

    @property
    def met(self) -> bool:
        """Whether the ratio is within its bound."""
        return self.ratio <= MAX_CPU_RATIO

    def __str__(self) -> str:
        verdict = "met" if self.met else "missed"
        used = f"Headway's worker uses {self.ratio:.2f} times the CPU time of the bare loop"
        return f"Threshold {verdict}: {used} (at most {MAX_CPU_RATIO:g}, goal {CPU_RATIO_GOAL:g})."
