"""Raw rows, medians and tables, shared by all benchmarks."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

MACHINE = "machine"  # the system of values that concern the machine as a whole


class Row(NamedTuple):
    """One measured value."""

    round: int
    system: str
    measure: str
    value: float


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that is at least as large as `percent` percent of the values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def values_by_round(rows: Iterable[Row], system: str, measure: str) -> dict[int, list[float]]:
    """Return the values of each round, in the order in which they were measured."""
    by_round: dict[int, list[float]] = {}
    for row in rows:
        if (row.system, row.measure) == (system, measure):
            by_round.setdefault(row.round, []).append(row.value)
    return by_round


def round_medians(rows: Iterable[Row], system: str, measure: str) -> list[float]:
    """Return the median of each round."""
    return [median(measured) for measured in values_by_round(rows, system, measure).values()]


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Format a Markdown table. A cell has the median of the rounds and, in brackets, their range.

    Args:
        rows: the rows of all rounds.
        columns: measure -> the title of its column.
    """
    systems = list(dict.fromkeys(row.system for row in rows if row.measure in columns))
    used = [measure for measure in columns if any(row.measure == measure for row in rows)]
    lines = [["system", *(columns[measure] for measure in used)], ["---", *("---:" for _ in used)]]
    lines += [[system, *(_cell(round_medians(rows, system, measure)) for measure in used)] for system in systems]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(measured: Sequence[float]) -> str:
    if not measured:
        return "-"
    middle, lowest, highest = (format_value(value) for value in (median(measured), min(measured), max(measured)))
    return middle if lowest == highest else f"{middle} ({lowest} to {highest})"


def format_value(value: float) -> str:
    """Format a value with two, one or no decimals, depending on its size."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write the raw rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows((*row[:-1], f"{row.value:.3f}") for row in rows)


def read_csv(path: Path) -> list[Row]:
    """Read raw rows from CSV."""
    with path.open(newline="") as file:
        return [
            Row(int(row["round"]), row["system"], row["measure"], float(row["value"])) for row in csv.DictReader(file)
        ]
