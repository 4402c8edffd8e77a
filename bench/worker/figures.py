"""The figures: from what was measured in each round to raw rows, to a table, and to the gate."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

GATE = 2.0  # Headway's CPU time a job, in those of the bare loop
GOAL = 1.5
MACHINE = "machine"  # what is measured of no system


class Row(NamedTuple):
    """One measured value."""

    round: int
    system: str
    measure: str
    value: float


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


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def values(rows: Iterable[Row], system: str, measure: str) -> list[float]:
    """Return what the rounds measured."""
    return [row.value for row in rows if (row.system, row.measure) == (system, measure)]


def table(rows: Sequence[Row]) -> str:
    """Make a Markdown table: the rounds' median and, in brackets, their range."""
    systems = list(dict.fromkeys(row.system for row in rows if row.measure in COLUMNS))
    used = [measure for measure in COLUMNS if any(row.measure == measure for row in rows)]
    lines = [["system", *(COLUMNS[measure] for measure in used)], ["---", *("---:" for _ in used)]]
    lines += [[system, *(_cell(values(rows, system, measure)) for measure in used)] for system in systems]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(measured: Sequence[float]) -> str:
    if not measured:
        return "-"
    middle, least, most = (_short(value) for value in (median(measured), min(measured), max(measured)))
    return middle if least == most else f"{middle} ({least} to {most})"


def _short(value: float) -> str:
    """Write a value with the digits that mean something."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the raw rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows((*row[:-1], f"{row.value:.3f}") for row in rows)


def read(path: Path) -> list[Row]:
    """Read raw rows again."""
    with path.open(newline="") as file:
        return [Row(int(row["round"]), row["system"], row["measure"], float(row["value"]))
                for row in csv.DictReader(file)]  # fmt: skip


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
